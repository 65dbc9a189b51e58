"""Reading clips in a separate process: a codec that hangs or crashes costs one clip, not the run."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

from avrt.data.records import IMAGE_FORMATS, EncodedClip, encode_clip
from avrt.interrupts import interrupts_held_back
from avrt.media.clip_files import check_files
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.errors import MediaError, MediaReason
from avrt.media.geometry import TOKEN_PIXELS

START_SECONDS = 600.0
"""Time allowed for the child's start: imports take seconds, on a busy network drive minutes."""

ORPHAN_SECONDS = 30
"""A reader that hangs after its parent was killed ends itself this long after the clip's timeout."""

MAX_CLIP_MEMORY = 2 * 2**30
"""Bytes that reading one sample's files may take: the largest images that are read, 150 million pixels, need 1.8 GB."""

_start_lock = threading.Lock()


@dataclass(frozen=True)
class ClipSettings:
    """How media are read and encoded, see `avrt.media.reader.read_media` and `avrt.data.records.encode_clip`."""

    num_frames: int = NUM_FRAMES
    max_audio_seconds: float = MAX_AUDIO_SECONDS
    max_pixels: int = MAX_FRAME_PIXELS
    require_video: bool = True
    require_audio: bool = True
    image_format: str = "jpg"
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        # In a reading process, a wrong setting would count as a fault of every clip.
        if self.num_frames < 1:
            raise ValueError(f"num_frames: must be at least 1, got {self.num_frames}")
        if not 0 < self.max_audio_seconds < math.inf:
            raise ValueError(f"max_audio_seconds: must be positive and finite, got {self.max_audio_seconds:g}")
        if self.max_pixels < TOKEN_PIXELS:
            raise ValueError(f"max_pixels: must be at least {TOKEN_PIXELS} (one vision token), got {self.max_pixels}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality: must be 1 to 100, got {self.jpeg_quality}")
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(f"image_format: must be one of {', '.join(IMAGE_FORMATS)}, got {self.image_format!r}")

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)


class ClipReader:
    """Reads and encodes clips in a child process, one at a time; starts another child when one is lost.

    It works in the processes of a torch data loader as well. Where it is pickled or forked with its process, the copy
    starts a child of its own at the first clip. The child ends when this process does, even if that is killed.

    Args:
        settings: how to read and encode.
        timeout_seconds: longest time for one sample's files.
        max_memory: bytes that the child may allocate beyond what it has when it is ready.
    """

    def __init__(self, settings: ClipSettings, *, timeout_seconds: float, max_memory: int = MAX_CLIP_MEMORY) -> None:
        self.settings = settings
        self.timeout_seconds = timeout_seconds
        self.max_memory = max_memory
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_reader, (self.settings, self.timeout_seconds, self.max_memory)

    def read(self, path: Path) -> EncodedClip:
        """Read and encode one clip.

        Raises:
            MediaError: the clip cannot be used; ``timeout`` and ``decoder_crash`` are found here.
            RuntimeError: the child process does not start.
        """
        return self.read_files(video=path)

    def read_files(
        self, *, video: Path | None = None, image: Path | None = None, audio: Path | None = None
    ) -> EncodedClip:
        """Read and encode the media of one sample from its files, see `avrt.media.reader.read_media`.

        Raises:
            ValueError: no file, or both a video and an image.
            MediaError: a file cannot be used; ``timeout`` and ``decoder_crash`` are found here.
            RuntimeError: the child process does not start.
        """
        first = check_files(video, image, audio)
        self._leave_to_owner()
        if self._process is None or not self._process.is_alive():
            self.start()
        connection = self._connection
        assert connection is not None
        try:
            connection.send((video, image, audio))
            if not connection.poll(self.timeout_seconds):
                self.close()
                raise MediaError(MediaReason.TIMEOUT, f"not read within {self.timeout_seconds:g} s", first)
            result: EncodedClip | MediaError = connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            how = self._how_it_ended()
            self.close()
            raise MediaError(MediaReason.DECODER_CRASH, f"the process that read it {how}", first) from error
        if isinstance(result, MediaError):
            raise result
        return result

    def start(self) -> None:
        """Start the child and wait until it is ready; an earlier one is closed."""
        self.close()
        # Forking this process would copy its threads' locks in any state. The fork server has no threads and has the
        # libraries loaded, so a new child is ready at once. A data worker may be a fork of a process that has a fork
        # server, which multiprocessing does not handle, so it starts its one child anew.
        is_data_worker = multiprocessing.current_process().daemon
        context: SpawnContext | ForkServerContext = (
            multiprocessing.get_context("spawn") if is_data_worker else multiprocessing.get_context("forkserver")
        )
        with _start_lock:
            # The first module of these lets Ctrl-C end the fork server while it still loads the others.
            context.set_forkserver_preload(["avrt.interrupts", "avrt.media.reader", "avrt.data.records"])
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(theirs, self.settings, self.timeout_seconds, self.max_memory),
                name="clip-reader",
                daemon=True,
            )
            with interrupts_held_back(), _children_allowed():
                process.start()
        theirs.close()
        self._process, self._connection = process, ours
        try:
            ready = ours.poll(START_SECONDS) and ours.recv()
        except EOFError:
            ready = False
        if not ready:
            how = self._how_it_ended()
            self.close()
            raise RuntimeError(f"the process that reads clips did not start: it {how}")

    def close(self) -> None:
        """End the child, at once."""
        self._leave_to_owner()
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join()
            process.close()
        if connection is not None:
            connection.close()

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


def _new_reader(settings: ClipSettings, timeout_seconds: float, max_memory: int) -> ClipReader:
    return ClipReader(settings, timeout_seconds=timeout_seconds, max_memory=max_memory)


@contextmanager
def _children_allowed() -> Iterator[None]:
    """In the block, a daemonic process (a torch data worker) may start a process.

    Multiprocessing forbids it because such a child would outlive a parent that is ended by a signal. Clip readers end
    by themselves when their pipe closes.
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


def _serve(connection: Connection, settings: ClipSettings, timeout_seconds: float, max_memory: int) -> None:
    """The child: reads the files it is sent the paths of, until the parent is gone."""
    import torch

    # There is one process per core already.
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the parent ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory(max_memory)
    try:
        connection.send(True)
        while True:
            video, image, audio = connection.recv()
            signal.alarm(math.ceil(timeout_seconds) + ORPHAN_SECONDS)
            try:
                result: EncodedClip | MediaError = _encode(video, image, audio, settings)
            except MediaError as error:
                result = error
            except (MemoryError, RuntimeError) as error:
                # Torch raises RuntimeError; other faults are not the file's.
                if isinstance(error, RuntimeError) and "memory" not in str(error):
                    raise
                detail = f"reading it takes more than {max_memory / 2**30:.1f} GiB of memory"
                result = MediaError(MediaReason.OUT_OF_MEMORY, detail, check_files(video, image, audio))
            signal.alarm(0)
            connection.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _limit_memory(more: int) -> None:
    """Allow this process `more` bytes of address space than it has."""
    import resource

    # Loaded here, so that the libraries do not count.
    import avrt.media.reader  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _encode(video: Path | None, image: Path | None, audio: Path | None, settings: ClipSettings) -> EncodedClip:
    # Only the child decodes, so only the child loads FFmpeg.
    from avrt.media.reader import read_media

    clip = read_media(
        video=video,
        image=image,
        audio=audio,
        num_frames=settings.num_frames,
        max_audio_seconds=settings.max_audio_seconds,
        max_pixels=settings.max_pixels,
        require_video=settings.require_video,
        require_audio=settings.require_audio,
    )
    return encode_clip(clip, image_format=settings.image_format, jpeg_quality=settings.jpeg_quality)
