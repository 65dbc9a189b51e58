"""Ctrl-C while processes start and modules are imported.

It reaches every process of the terminal's foreground group. Python's own handler would print a traceback from the
imports of multiprocessing's fork server. The fork server imports this module first, and from then on Ctrl-C ends it
silently. Once it is ready, it ignores Ctrl-C and ends with the process that started it.

A compiled module may replace the KeyboardInterrupt of its import by an error of its own. `note_interrupts` has Ctrl-C
written down, so that `is_interrupted_import` can tell such an error from others. The handler of Ctrl-C stays Python's
own: asyncio ends a run in good order only if it is.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

INTERRUPTED = 130
"""Exit status of a command after Ctrl-C."""

_received: list[int] = []
"""The end of a pipe to which the numbers of received signals are written; empty until `note_interrupts`."""


def note_interrupts() -> None:
    """Have signals written down from now on, in the main thread."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _received[:] = [reading]


def is_interrupted_import(error: BaseException) -> bool:
    """Whether the error came out of an import after Ctrl-C. Ctrl-C counts once."""
    return any(_is_of_an_import(cause) for cause in _causes(error)) and _was_interrupted()


def _was_interrupted() -> bool:
    try:
        return bool(_received) and signal.SIGINT in os.read(_received[0], 4096)
    except BlockingIOError:
        return False


def _is_of_an_import(error: BaseException) -> bool:
    return any(frame.f_code.co_name == "<module>" for frame, _ in traceback.walk_tb(error.__traceback__))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it followed from, once each: an error raised anew can be in its own chain."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """A process that is started in the block gets no Ctrl-C until it has imported this module.

    The signal still reaches the calling process: immediately in another thread, or at the end of the block.
    """
    # The start of the fork server would start it, and it would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_silently_in_fork_server() -> None:
    is_held_back = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if is_held_back and sys.argv[:1] == ["-c"]:  # how multiprocessing starts its fork server
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


_end_silently_in_fork_server()
