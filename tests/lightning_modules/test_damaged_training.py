"""Training on a damaged shard: the curve, the count in checkpoints, exact resume, and the stop above the share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avrt.data.shards import ShardSet
from tests.lightning_modules.training import (
    StopAfter,
    fit,
    grpo_data,
    grpo_module,
    sft_data,
    sft_module,
    write_shards,
)

MAKE: dict[str, Any] = {"sft": (sft_module, sft_data), "grpo": (grpo_module, grpo_data)}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """12 samples; a bit of the images of samples 3 and 9 is flipped."""
    folder = write_shards(tmp_path / "s", 12, kinds=("audio_video",))
    found = ShardSet(folder)
    for number in (3, 9):
        path = Path(found.location(number))
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT", *found._span(number)) + 20] ^= 1
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize("task", MAKE)
def test_curve_and_exact_resume(student_folder: Path, shards: Path, tmp_path: Path, task: str) -> None:
    module, data = MAKE[task]

    def run(*callbacks: Any, **trainer: Any) -> Any:
        data_module = data(shards, max_damaged_share=0.2, num_workers=1)
        return fit(module(student_folder), data_module, *callbacks, max_steps=8, **trainer)

    whole = run()
    keys = ShardSet(shards).keys
    assert not {keys[3], keys[9]} & {key for ids in whole.ids for key in ids}
    counts = [step["data/damaged_samples"] for step in whole.logged]
    assert counts == sorted(counts)
    assert counts[0] < 2.0
    assert counts[5] == 2.0  # after one pass of 6 steps
    path = tmp_path / "at.ckpt"
    stop = counts.index(next(count for count in counts if count)) + 1  # the step that meets the first damaged sample
    first = run(StopAfter(stop, path))
    second = run(ckpt_path=path)
    assert first.ids + second.ids == whole.ids
    assert first.losses + second.losses == whole.losses
    assert [step["data/damaged_samples"] for step in (first.logged + second.logged)] == counts


def test_a_lost_shard(student_folder: Path, tmp_path: Path) -> None:
    """Its four samples are damaged ones; the run trains on the others, and resumes. The data are still those of its
    manifest."""
    folder = write_shards(tmp_path / "s", 12, kinds=("audio_video",))
    before = ShardSet(folder)
    lost, fingerprint = before.keys[4:8], before.fingerprint
    Path(before.location(4)).unlink()
    assert ShardSet(folder, on_error="defer").fingerprint == fingerprint

    def run(*callbacks: Any, **trainer: Any) -> Any:
        return fit(
            sft_module(student_folder), sft_data(folder, max_damaged_share=0.4), *callbacks, max_steps=6, **trainer
        )

    whole = run()
    assert not set(lost) & {key for ids in whole.ids for key in ids}
    assert whole.logged[-1]["data/damaged_samples"] == 4.0
    first = run(StopAfter(2, tmp_path / "at.ckpt"))
    assert first.losses + run(ckpt_path=tmp_path / "at.ckpt").losses == whole.losses


def test_above_the_share(student_folder: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.max_damaged_share 0\.1"):
        fit(sft_module(student_folder), sft_data(shards, max_damaged_share=0.1), max_steps=8)
    with pytest.raises(ValueError, match=r"checksum.*frame"):
        fit(sft_module(student_folder), sft_data(shards), max_steps=8)  # by default, less than one of 12
