"""Ctrl-C while processes start and modules are imported.

It reaches every process of the terminal's foreground group. Python's own handler would print a traceback from the
imports of multiprocessing's fork server. The fork server imports this module first, and from then on Ctrl-C ends it
silently. Once it is ready, it ignores Ctrl-C and ends with the process that started it.

A compiled module may replace the KeyboardInterrupt of its import by an error of its own; `note_interrupts` lets
`is_interrupted_import` tell.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

INTERRUPTED = 130
"""Exit status of a command after Ctrl-C."""

_noted: list[int] = []


def note_interrupts() -> None:
    """Remember Ctrl-C from now on, which still raises KeyboardInterrupt; nothing happens where it is ignored."""

    def note(number: int, frame: FrameType | None) -> None:
        _noted.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)


def is_interrupted_import(error: BaseException) -> bool:
    """Whether the error came out of an import after Ctrl-C."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(_noted) and any(frame.name == "<module>" for frame in frames)


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
