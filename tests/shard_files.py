"""Writes small sets of shards of known content."""

from dataclasses import replace
from pathlib import Path

import torch

from avrt.data.shards import ShardSet
from avrt.data.writer import OpenShard, ShardWriter
from avrt.sample import Clip, Sample


def make_clip(seed: int = 0, frames: int = 3, seconds: float = 0.5) -> Clip:
    """Smooth images, which JPEG keeps well, and quiet noise."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.linspace(0, 255, 48).expand(32, 48)
    images = torch.stack([torch.stack([base, base.flip(1), torch.full_like(base, 20.0 * t)]) for t in range(frames)])
    return Clip(
        frames=(images + seed % 7).clamp(0, 255).to(torch.uint8),
        timestamps=tuple(t + 0.5 for t in range(frames)),
        fps=1.0,
        waveform=torch.rand(round(seconds * 16_000), generator=generator) - 0.5,
        duration=float(frames),
        width=96,
        height=64,
    )


def make_sample(index: int, **changes) -> Sample:
    fields = {
        "id": f"q-{index:03d}",
        "question": f"What is № {index}?",
        "options": ("one", "two", "three"),
        "answer": index % 3,
        "split": "val" if index % 5 == 4 else "train",
        "question_type": "Which",
        "modality": "Both",
        "source": f"clip_{index // 2}",
        "clip": make_clip(index),
        "trace": "<think>so</think><answer>A</answer>" if index % 2 else None,
        "teacher_traces": {"vision": "a picture\u2028of it"},
        "extra": {"video_id": index, "nested": [1, None, {"x": 0.1}]},
    }
    return Sample(**{**fields, **changes})


def write_set(folder: Path, count: int = 7, **options) -> list[Sample]:
    samples = [make_sample(index) for index in range(count)]
    with ShardWriter(folder, samples_per_shard=3, **options) as writer:
        for sample in samples:
            writer.write(sample)
    return samples


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def swap_case_of_traces(shard: Path) -> None:
    """Every trace of a shard is changed at equal size, with right checksums in the samples, as a script would do it."""
    written = ShardSet(shard, on_error="skip")
    samples = [written[index] for index in range(len(written))]
    media = [written.media(index) for index in range(len(written))]
    size = shard.stat().st_size
    with OpenShard(shard) as out:
        for sample, encoded in zip(samples, media, strict=True):
            out.write(replace(sample, trace=sample.trace and sample.trace.swapcase()), encoded)
    assert shard.stat().st_size == size
