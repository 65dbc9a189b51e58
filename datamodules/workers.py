"""Batches of items, read ahead by data workers, with one-line errors for workers that fail."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from datamodules.shared_memory import NoSharedMemory, pack, unpack
from datamodules.streaming import ItemReader, worker_pipeline

PREEMPTION_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that a scheduler sends to every process of a job; data workers ignore them."""

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""

MB = 1_000_000

T = TypeVar("T")


class DataWorkerError(OSError):
    """A data worker was killed, or has no shared memory for what it read."""


def read_batches(
    reader: ItemReader[T], batches: Sequence[list[Any]], num_workers: int, prefetch: int = 2
) -> Iterator[list[T]]:
    """The items of every batch, read ahead by data workers.

    All workers read every batch together, each a part of it, so that `prefetch` batches wait in shared memory (or as
    many items for each worker, if a batch has fewer items than there are workers).

    Args:
        reader: items by index.
        batches: the indices of each batch.
        num_workers: processes; 0 reads in this one.
        prefetch: parts of a batch that each worker keeps ready.

    Raises:
        ValueError, OSError: raised by `reader` on an item, unchanged; the worker's traceback is added as a note.
        DataWorkerError: a worker was killed, or shared memory is too small for a part of a batch.
    """
    size = max(1, -(-max((len(batch) for batch in batches), default=1) // max(1, num_workers)))
    parts = [batch[i : i + size] for batch in batches for i in range(0, len(batch), size)]
    loader = DataLoader(
        worker_pipeline(reader, parts),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        collate_fn=pack if num_workers else list,
        worker_init_fn=_live_as_long_as_the_run,
    )
    # Workers begin with the signals blocked: torch's own handlers would end them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PREEMPTION_SIGNALS)
    stream = iter(loader)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    end = partial(_end_workers, stream)
    if num_workers:
        _explain_killed_workers()
        # An error's traceback may keep this generator until Python's exit, which sends the workers SIGTERM and waits.
        atexit.register(end)
    waiting = num_workers * prefetch + 1  # one more while a part is being taken
    try:
        for batch in batches:
            items: list[T] = []
            while len(items) < len(batch):
                items += _next_part(stream, waiting) if num_workers else next(stream)
            yield items
    finally:
        if num_workers:
            atexit.unregister(end)
            end()


def _next_part(stream: Iterator[Any], waiting: int) -> list[Any]:
    """The next part's items; up to `waiting` parts are in shared memory at once."""
    try:
        packed = next(stream)
    except RuntimeError as error:
        known = _worker_error(error)
        if known is None:
            raise
        raise known from None
    if isinstance(packed, NoSharedMemory):
        raise DataWorkerError(
            f"shared memory is too small for the data workers: /dev/shm has {packed.total / MB:,.0f} MB, "
            f"{packed.free / MB:,.0f} MB of it free, and they need {waiting * packed.needed / MB:,.0f} MB "
            f"({packed.needed / MB:,.1f} MB for each of {waiting} parts of a batch). Start the container with a larger "
            "one (docker run --shm-size 8g, or --ipc=host), or set data.num_workers to 0 or lower it and data.prefetch"
        )
    items = unpack(packed)
    for item in items:
        if isinstance(item, Exception):
            raise item
    return items


def _worker_error(error: RuntimeError) -> DataWorkerError | None:
    """One line for torch's message about a worker that has ended; None for any other error."""
    if isinstance(error.__cause__, DataWorkerError):  # raised by the handler below while torch waited for a part
        return error.__cause__
    text = str(error)
    if not re.match(r"DataLoader worker \(pid", text):
        return None
    killed = re.search(r"killed by signal: ([\w ]+)", text)
    code = re.search(r"exit code (\d+)", text)
    how = f"was killed (signal: {killed[1]})" if killed else f"ended with status {code[1]}" if code else "was killed"
    return DataWorkerError(
        f"a data worker {how}; the usual reason is that the machine or the job ran out of memory. Lower "
        "data.num_workers or data.prefetch, or allow more memory; data.num_workers 0 reads in the training process"
    )


def _explain_killed_workers() -> None:
    """Reword the error of torch's SIGCHLD handler, which raises wherever the main thread is when a worker dies."""
    handler = signal.getsignal(signal.SIGCHLD)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return
    if isinstance(handler, _WorkerWatch):
        return
    signal.signal(signal.SIGCHLD, _WorkerWatch(handler))


class _WorkerWatch:
    """A SIGCHLD handler that calls torch's and rewords its error."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            known = _worker_error(error)
            if known is None:
                raise
            raise known from None


def _live_as_long_as_the_run(worker: int) -> None:
    """Make a data worker outlive a preemption signal, however long the run takes to save itself, and end with the run.

    A scheduler signals every process of a job. Only the training process knows how long the workers are needed: it
    ends them itself, and Linux kills them when it dies.
    """
    for number in PREEMPTION_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PREEMPTION_SIGNALS)
    if sys.platform == "linux":  # elsewhere torch's worker loop ends between two items once its parent has ended
        parent = multiprocessing.parent_process()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if parent is not None and os.getppid() != parent.pid:  # it ended before
            os._exit(1)


def _end_workers(stream: Any) -> None:
    """Ask the workers to end, and kill those that do not, such as one in a read that never returns."""
    stream._shutdown_workers()
    for worker in stream._workers:
        if worker.is_alive():
            worker.kill()
            worker.join()
