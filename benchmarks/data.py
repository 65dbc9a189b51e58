"""Reading samples from shards against decoding clips on the fly, and packing against the `ffmpeg` program.

    python -m benchmarks.data [--clips DIR]

Without ``--clips``, a few clips of 10 s, 1280 x 720, with audio are made first. ``ffmpeg`` (if installed) does the work
of `pack` for one clip on one thread: 8 frames scaled and written as JPEG, 10 s of audio to 16 kHz mono FLAC.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch

from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.media.reader import read_clip
from avrt.sample import Sample
from benchmarks.measure import alternate, paired_ratio, parser, save, show


def main() -> None:
    args = parser(__doc__, rounds=3)
    args.add_argument("--clips", type=Path, help="folder of .mp4 files")
    args.add_argument("--count", type=int, default=6, help="clips to use")
    options = args.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.clips is None:
            clips = [folder / f"{i}.mp4" for i in range(options.count)]
            for i, path in enumerate(clips):
                _make_clip(path, seed=i)
        else:
            clips = sorted(options.clips.glob("*.mp4"))[: options.count]
        _pack(clips, folder / "shards")
        shards = ShardSet(folder / "shards")
        contestants = {
            "read shards": lambda: [shards[i] for i in range(len(shards))],
            "decode clips": lambda: [read_clip(path, require_audio=False) for path in clips],
            "pack": lambda: _pack(clips, folder / "again"),
        }
        if shutil.which("ffmpeg"):
            contestants["ffmpeg"] = lambda: [_ffmpeg(path, folder / "ffmpeg") for path in clips]
        times = alternate(contestants, options.rounds)
    speedup, low, high = paired_ratio(times["decode clips"], times["read shards"])
    rows = [[name, len(clips) / timing.median, timing.spread] for name, timing in times.items()]
    rows.append(["shards / decoding", speedup, f"{low:.3g} to {high:.3g}"])
    result = {
        "benchmark": "data",
        "speedup": speedup,
        "speedup_range": [low, high],
        "clips": len(clips),
        "seconds": {name: timing.seconds for name, timing in times.items()},
    }
    if "ffmpeg" in times:
        ratio, low, high = paired_ratio(times["ffmpeg"], times["pack"])
        rows.append(["pack / ffmpeg", ratio, f"{low:.3g} to {high:.3g}"])
        result |= {"pack_against_ffmpeg": ratio, "pack_against_ffmpeg_range": [low, high]}
    show(f"{len(clips)} clips, one core", ["", "clips per s", "spread s"], rows)
    save(options.json, result)


def _pack(clips: list[Path], out: Path) -> None:
    with ShardWriter(out, overwrite=True) as writer:
        for i, path in enumerate(clips):
            clip = read_clip(path, require_audio=False)
            writer.write(replace(Sample(f"s{i}", "?", ("a", "b"), 0), clip=clip))


def _ffmpeg(path: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", "-i", f"file:{path}"]
    command += ["-map", "0:v:0", "-vf", "fps=0.8,scale=1008:588", "-frames:v", "8", "-q:v", "2", str(out / "%d.jpg")]
    command += ["-map", "0:a:0?", "-ac", "1", "-ar", "16000", "-t", "10", str(out / "audio.flac")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _make_clip(path: Path, seed: int, seconds: int = 10, fps: int = 25) -> None:
    """A clip of smooth moving shapes under a camera's grain, and a tone, at the data rate of AVQA's 720p clips."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 18, 32)))
    smooth = torch.nn.functional.interpolate(coarse, (720, 1280), mode="bicubic")[0].permute(1, 2, 0).numpy()
    grain = rng.normal(0, 3, (2 * smooth.shape[0], *smooth.shape[1:]))
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", fps, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt, video.bit_rate = 1280, 720, "yuv420p", 1_500_000
        audio = file.add_stream("aac", 44_100, layout="stereo")
        for i in range(seconds * fps):
            start = rng.integers(smooth.shape[0])
            frame = np.roll(smooth, 4 * i, axis=1) + grain[start : start + smooth.shape[0]]
            frame = np.clip(frame, 0, 255).astype(np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(video.encode(None))
        t = np.arange(seconds * 44_100) / 44_100
        tone = np.tile(0.3 * np.sin(2 * np.pi * 440 * t), (2, 1)).astype(np.float32)
        for start in range(0, tone.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(tone[:, start : start + 1024].copy(), format="fltp", layout="stereo")
            block.sample_rate, block.pts = 44_100, start
            file.mux(audio.encode(block))
        file.mux(audio.encode(None))


if __name__ == "__main__":
    main()
