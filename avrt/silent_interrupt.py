"""Lets Ctrl-C end a process silently while it starts; to be imported first by multiprocessing's fork server.

Ctrl-C reaches every process of the terminal's foreground group. Python's own handler would print a traceback from
whatever the fork server is importing at that moment. Once it is ready, the fork server ignores Ctrl-C and ends with the
process that started it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """A process that is started in the block gets no Ctrl-C until it has imported this module.

    The signal still reaches the calling process: at once in another thread, or at the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_silently_if_held_back() -> None:
    if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


_end_silently_if_held_back()
