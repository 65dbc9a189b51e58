"""Ctrl-C while processes start: it reaches every process of the terminal's foreground group.

Python's own handler would print a traceback from the imports of multiprocessing's fork server. The fork server imports
this module first, and from then on Ctrl-C ends it silently. Once it is ready, it ignores Ctrl-C and ends with the
process that started it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

INTERRUPTED = 130
"""Exit status of a command after Ctrl-C."""


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
