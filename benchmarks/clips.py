"""Clips to 8 frames and 16 kHz mono audio: this package against decoding every frame and the `ffmpeg` program.

    python -m benchmarks.clips [--clips DIR] [--ffmpeg PROGRAM]

All contestants do the work of `pack` for one clip on one thread: 8 frames of bounded size as JPEG, up to 10 s of
audio as FLAC. "shards" reads the result from shards, as training does. Without ``--clips``, three sets of files are
made first: clips of 10 s, 1280 x 720, at the data rate of AVQA's; a minute with a key frame in 250 frames, x264's
default; and five minutes with a single key frame. CPU seconds depend less on the machine's load than clips per
second.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from avrt.data.clip_workers import ClipReader, ClipSettings
from avrt.data.records import encode_clip
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.reader import read_audio, read_clip
from avrt.media.video import fit, segment_centers
from avrt.sample import Sample
from benchmarks.measure import Timing, alternate, paired_ratio, parser, save, show


def main() -> None:
    args = parser(__doc__, rounds=3)
    args.add_argument("--clips", type=Path, help="folder of .mp4 files to use instead")
    args.add_argument("--count", type=int, default=4, help="720p clips to make (default: %(default)s)")
    args.add_argument("--ffmpeg", default=shutil.which("ffmpeg"), help="the program (default: the one in PATH)")
    options = args.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {"benchmark": "clips"}
    with tempfile.TemporaryDirectory() as name:
        for title, clips in _sets(options.clips, options.count, Path(name)).items():
            result[title] = _compare(title, clips, options.ffmpeg, options.rounds, Path(name) / "out")
    save(options.json, result)


def _sets(folder: Path | None, count: int, made: Path) -> dict[str, list[Path]]:
    if folder is not None:
        return {folder.name: sorted(folder.glob("*.mp4"))}
    return {
        "720p": [_make_clip(made / f"{i}.mp4", seed=i) for i in range(count)],
        "key frame in 250": [_make_clip(made / "250.mp4", seconds=60, size=(640, 360))],
        "one key frame": [_make_clip(made / "one.mp4", seconds=300, size=(640, 360), key_frames=10**6)],
    }


def _compare(title: str, clips: list[Path], ffmpeg: str | None, rounds: int, out: Path) -> dict[str, object]:
    cpu: dict[str, list[float]] = {}
    reader = ClipReader(ClipSettings(require_audio=False), timeout_seconds=600)
    contestants: dict[str, Callable[[], object]] = {
        "this package": _measured(cpu, "this package", _read, clips),
        "every frame": _measured(cpu, "every frame", _read_every_frame, clips),
        "ClipReader": lambda: [reader.read(path) for path in clips],
    }
    shards = ShardSet(_pack(clips, out.with_name("shards")))
    numbers = {path: number for number, path in enumerate(clips)}
    contestants["shards"] = _measured(cpu, "shards", lambda path: shards[numbers[path]], clips)
    if ffmpeg:
        contestants["ffmpeg"] = _measured(cpu, "ffmpeg", partial(_run_ffmpeg, ffmpeg, out), clips)
    try:
        times = alternate(contestants, rounds)
    finally:
        reader.close()
    # The first round warms up.
    used = {name: Timing(seconds[1:]) for name, seconds in cpu.items()}
    rows: list[list[object]] = [
        [name, len(clips) / timing.median, used[name].median / len(clips) if name in used else "", timing.spread]
        for name, timing in times.items()
    ]
    result: dict[str, object] = {"clips": len(clips), "seconds": {name: t.seconds for name, t in times.items()}}
    result["cpu_seconds"] = {name: timing.seconds for name, timing in used.items()}
    for slow, fast in (("every frame", "this package"), ("ffmpeg", "this package"), ("this package", "shards")):
        if slow in used:
            ratio, low, high = paired_ratio(used[slow], used[fast])
            rows.append([f"CPU of {slow} / {fast}", "", ratio, f"{low:.3g} to {high:.3g}"])
            result[f"cpu of {slow} / {fast}"] = [ratio, low, high]
    show(f"{title}: {len(clips)} clips, one thread", ["", "clips per s", "CPU s per clip", "spread s"], rows)
    return result


def _pack(clips: list[Path], out: Path) -> Path:
    with ShardWriter(out, overwrite=True) as writer:
        for number, path in enumerate(clips):
            clip = read_clip(path, require_audio=False)
            writer.write(replace(Sample(f"s{number}", "?", ("a", "b"), 0), clip=clip))
    return out


def _measured(
    cpu: dict[str, list[float]], name: str, read: Callable[[Path], object], clips: list[Path]
) -> Callable[[], None]:
    """Reads all clips; adds the CPU seconds, with those of programs that were run, to ``cpu[name]``."""

    def run() -> None:
        before = _cpu_seconds()
        for path in clips:
            read(path)
        cpu.setdefault(name, []).append(_cpu_seconds() - before)

    return run


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _read(path: Path) -> None:
    encode_clip(read_clip(path, require_audio=False))


def _read_every_frame(path: Path) -> None:
    """The same clip by decoding the whole video with PyAV."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        assert stream.time_base is not None
        start = Fraction(stream.start_time or 0) * stream.time_base
        duration = Fraction(stream.duration or 0) * stream.time_base
        centers = [start + center for center in segment_centers(duration, NUM_FRAMES)]
        shown: list[av.VideoFrame] = []
        previous: av.VideoFrame | None = None
        for frame in container.decode(stream):
            assert frame.pts is not None
            while previous is not None and len(shown) < NUM_FRAMES:
                if frame.pts * stream.time_base <= centers[len(shown)]:
                    break
                shown.append(previous)
            previous = frame
        assert previous is not None
        shown += [previous] * (NUM_FRAMES - len(shown))
    images = [torch.from_numpy(frame.to_ndarray(format="rgb24").copy()).permute(2, 0, 1) for frame in shown]
    frames = torch.stack([fit(image, image.shape[2], image.shape[1], MAX_FRAME_PIXELS) for image in images])
    clip = read_audio(path)
    times = tuple(float(center - start) for center in centers)
    encode_clip(replace(clip, frames=frames, timestamps=times, fps=float(NUM_FRAMES / duration)))


def _run_ffmpeg(program: str, out: Path, path: Path) -> None:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        rate = NUM_FRAMES * av.time_base / (container.duration or av.time_base)
        shrink = min(1.0, (MAX_FRAME_PIXELS / (video.width * video.height)) ** 0.5)
        size = ":".join(str(int(side * shrink) // 2 * 2) for side in (video.width, video.height))
        has_audio = bool(container.streams.audio)
    out.mkdir(exist_ok=True)
    command = [program, "-v", "error", "-y", "-threads", "1", "-filter_threads", "1", "-i", f"file:{path}"]
    command += ["-map", "0:v:0", "-vf", f"fps={rate},scale={size}", "-frames:v", str(NUM_FRAMES), "-q:v", "2"]
    command += [str(out / "%d.jpg")]
    if has_audio:
        command += ["-map", "0:a:0", "-ac", "1", "-ar", "16000", "-t", str(MAX_AUDIO_SECONDS), str(out / "audio.flac")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _make_clip(
    path: Path, *, seed: int = 0, seconds: int = 10, size: tuple[int, int] = (1280, 720), key_frames: int = 250
) -> Path:
    """Smooth moving shapes under a camera's grain, and a tone; no key frames but every `key_frames` frames."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 18, 32)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
    # Each frame gets another part of the grain.
    smooth, grain = smooth.clip(10, 245).astype(np.uint8), rng.integers(0, 10, (2 * height, width, 3), dtype=np.uint8)
    options = {"preset": "veryfast", "sc_threshold": "0", "g": str(key_frames), "keyint_min": str(key_frames)}
    rate, sampling_rate = 25, 44_100
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.bit_rate = 1_500_000 * width * height // (1280 * 720)
        audio = file.add_stream("aac", sampling_rate, layout="stereo")
        for i in range(seconds * rate):
            start = int(rng.integers(height))
            frame = np.roll(smooth, 4 * i, axis=1) + grain[start : start + height]
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(video.encode(None))
        moments = np.arange(min(seconds, 20) * sampling_rate) / sampling_rate
        tone = np.tile(0.3 * np.sin(2 * np.pi * 440 * moments), (2, 1)).astype(np.float32)
        for start in range(0, tone.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(tone[:, start : start + 1024].copy(), format="fltp", layout="stereo")
            block.sample_rate, block.pts = sampling_rate, start
            file.mux(audio.encode(block))
        file.mux(audio.encode(None))
    return path


if __name__ == "__main__":
    main()
