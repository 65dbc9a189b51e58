"""Files to decoded clips in a child process that may die, for evaluation: `read_isolated` is `read_media` with limits.

`avrt.data.clip_workers` does the same for packing, where the child also encodes what it has read.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from avrt.media.clip_files import check_files
from avrt.media.defaults import MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.media_process import MAX_CLIP_MEMORY, MediaProcess
from avrt.sample import Clip

TENSORS = ("frames", "waveform")


def read_isolated(
    *,
    timeout_seconds: float,
    video: Path | None = None,
    image: Path | None = None,
    audio: Path | None = None,
    num_frames: int = NUM_FRAMES,
    max_pixels: int = MAX_FRAME_PIXELS,
    **settings: Any,
) -> Clip:
    """Read the media of one sample in a child of this thread, which starts at the first call.

    Args:
        timeout_seconds: longest time for the sample's files.
        video, image, audio, num_frames, max_pixels, settings: see `avrt.media.reader.read_media`.

    Raises:
        MediaError: a file cannot be used; also ``timeout``, ``out_of_memory`` and ``decoder_crash``.
        ChildProcessError: the child process does not start.
    """
    first = check_files(video, image, audio)
    memory = max_memory(num_frames, max_pixels)
    process: MediaProcess[dict[str, Any]] | None = getattr(_of_thread, "process", None)
    if process is None or (process.timeout_seconds, process.max_memory) != (timeout_seconds, memory):
        if process is not None:
            process.close()
        process = MediaProcess(_read_arrays, timeout_seconds=timeout_seconds, max_memory=memory)
        _of_thread.process = process
    fields = process.call(
        first, video=video, image=image, audio=audio, num_frames=num_frames, max_pixels=max_pixels, **settings
    )
    tensors = {name: torch.from_numpy(fields[name]) for name in TENSORS if fields[name] is not None}
    return Clip(**fields | tensors)


def max_memory(num_frames: int, max_pixels: int) -> int:
    """Bytes that reading one sample's files may take: frames are held twice while they are put together."""
    return MAX_CLIP_MEMORY + 2 * 3 * num_frames * max_pixels


def _read_arrays(**arguments: Any) -> dict[str, Any]:
    """`read_media` in the child: the clip's fields, with arrays for tensors, which would be pickled as descriptors."""
    from avrt.media.reader import read_media  # only the child loads FFmpeg

    clip = read_media(**arguments)
    arrays = {name: getattr(clip, name).numpy() for name in TENSORS if getattr(clip, name) is not None}
    return vars(clip) | arrays


_of_thread = threading.local()
"""The child of each thread. It ends with the thread, whose end closes its pipe."""
