"""Reading media in a child process with a time and a memory limit: a codec that hangs, crashes or asks for too much
memory costs one clip, not the run.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Generic, TypeVar

from avrt.interrupts import interrupts_held_back
from avrt.media.errors import MediaError, MediaReason

START_SECONDS = 600.0
"""Time allowed for the child's start: imports take seconds, on a busy network drive minutes."""

ORPHAN_SECONDS = 30
"""A child that hangs after its parent was killed ends itself this long after the time limit."""

MAX_CLIP_MEMORY = 2 * 2**30
"""Bytes that reading one sample's files may take beside the frames kept: the largest images that are read, 150 million
pixels, need 1.8 GB."""

PRELOADED = ("avrt.interrupts", "avrt.media.reader")
"""Modules of the fork server. The first one lets Ctrl-C end it while it still loads the other."""

Result = TypeVar("Result")

_start_lock = threading.Lock()


class MediaProcess(Generic[Result]):
    """Calls a function that reads media in a child process, one call at a time; starts another child when one is lost.

    It works in the processes of a torch data loader as well. In a copy of this process made by a fork, the object
    starts a child of its own at the first call. The child ends when this process does, even if that is killed.

    Args:
        function: a function of a module; may raise `MediaError`. Its result is pickled.
        timeout_seconds: longest time for one call.
        max_memory: bytes that the child may allocate beyond what it has when it is ready.
    """

    def __init__(
        self, function: Callable[..., Result], *, timeout_seconds: float, max_memory: int = MAX_CLIP_MEMORY
    ) -> None:
        self.function = function
        self.timeout_seconds = timeout_seconds
        self.max_memory = max_memory
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._owner = os.getpid()

    def call(self, file: Path, *arguments: Any, **options: Any) -> Result:
        """Call the function with these arguments.

        Args:
            file: the sample's first file, which errors name unless the function names one.

        Raises:
            MediaError: raised by the function; or ``timeout``, ``out_of_memory`` or ``decoder_crash``.
            ChildProcessError: the child process does not start.
        """
        self._leave_to_owner()
        for may_repeat in (True, False):
            if self._process is None or not self._process.is_alive():
                self.start()
            connection = self._connection
            assert connection is not None
            try:
                connection.send((file, arguments, options))
                if not connection.poll(self.timeout_seconds):
                    self.close()
                    raise MediaError(MediaReason.TIMEOUT, f"not read within {self.timeout_seconds:g} s", file)
                result: Result | MediaError = connection.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                how = self._how_it_ended()
                self.close()
                if may_repeat and signal.SIGKILL.name in how:  # by a machine without memory, not by the file
                    continue
                raise MediaError(MediaReason.DECODER_CRASH, f"the process that read it {how}", file) from error
            if isinstance(result, MediaError):
                raise result
            return result
        raise AssertionError("unreachable")

    def start(self) -> None:
        """Start the child and wait until it is ready; an earlier one is closed.

        Raises:
            ChildProcessError: it ended, or was not ready in time.
        """
        self.close()
        # Forking this process would copy its threads' locks in any state. The fork server has no threads and has the
        # libraries loaded, so a new child is ready at once. A data worker may be a fork of a process that has a fork
        # server, which multiprocessing does not handle, so it starts its one child anew.
        is_data_worker = multiprocessing.current_process().daemon
        context: SpawnContext | ForkServerContext = (
            multiprocessing.get_context("spawn") if is_data_worker else multiprocessing.get_context("forkserver")
        )
        with _start_lock:
            context.set_forkserver_preload(list(PRELOADED))
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(theirs, self.function, self.timeout_seconds, self.max_memory),
                name="clip-reader",
                daemon=True,
            )
            with interrupts_held_back(), _children_allowed():
                process.start()
        theirs.close()
        self._process, self._connection = process, ours
        # Before this process joins its children at its end: they ignore the SIGTERM that it sends them.
        self._end = Finalize(self, _end, (process, ours), exitpriority=0)
        try:
            ready = ours.poll(START_SECONDS) and ours.recv()
        except EOFError:
            ready = False
        if not ready:
            how = self._how_it_ended()
            self.close()
            raise ChildProcessError(f"the process that reads clips did not start: it {how}")

    def close(self) -> None:
        """End the child, at once."""
        self._leave_to_owner()
        if self._process is not None:
            self._end()
        self._process = self._connection = None

    def _leave_to_owner(self) -> None:
        """In a copy made by a fork, forget the child: it belongs to the process that started it."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = self._connection = None

    def _how_it_ended(self) -> str:
        assert self._process is not None
        self._process.join(1)
        code = self._process.exitcode
        if code is None:
            return "closed its pipe"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"


def _end(process: multiprocessing.process.BaseProcess, connection: Connection) -> None:
    process.kill()
    process.join()
    process.close()
    connection.close()


@contextmanager
def _children_allowed() -> Iterator[None]:
    """In the block, a daemonic process (a torch data worker) may start a process.

    Multiprocessing forbids it because such a child would outlive a parent that is ended by a signal. These children
    end by themselves when their pipe closes.
    """
    process = multiprocessing.current_process()
    daemon = process.daemon
    try:
        if daemon:
            process.daemon = False
        yield
    finally:
        if daemon:
            process.daemon = True


def _serve(connection: Connection, function: Callable[..., Any], timeout_seconds: float, max_memory: int) -> None:
    """The child: calls `function` with what it is sent, until the parent is gone."""
    import torch

    import avrt.media.reader  # noqa: F401 - loaded before memory is limited, so that the libraries do not count

    # There is one process per core already.
    torch.set_num_threads(1)
    # Ctrl-C and a scheduler's signals reach every process of a job; the parent ends its children itself.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limit_memory(max_memory)
    try:
        connection.send(True)
        while True:
            file, arguments, options = connection.recv()
            signal.alarm(math.ceil(timeout_seconds) + ORPHAN_SECONDS)
            try:
                result = function(*arguments, **options)
            except MediaError as error:
                result = error
            except Exception as error:  # noqa: BLE001 - whatever a library raises on a broken file costs that file
                result = _typed(error, file, max_memory)
            signal.alarm(0)
            connection.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _typed(error: Exception, file: Path, max_memory: int) -> MediaError:
    """The `MediaError` for an error of a library."""
    # Torch raises RuntimeError for memory.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
        detail = f"reading it takes more than {max_memory / 2**30:.1f} GiB of memory"
        return MediaError(MediaReason.OUT_OF_MEMORY, detail, file)
    place = traceback.extract_tb(error.__traceback__)[-1]
    detail = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error}"
    return MediaError(MediaReason.DECODER_CRASH, detail, file)


def limit_memory(more: int) -> None:
    """Allow this process so many more bytes of address space than it has, or as many as an earlier limit leaves it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
