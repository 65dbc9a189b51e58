"""Comparison of two finished runs, bit for bit, without the project's own code where that is possible."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.soak.recorder import History

BOOKKEEPING = (".callbacks.SpikeReport.", ".avrt.metrics.", ".loops.fit_loop.epoch_progress.")
"""Values of a checkpoint that no training depends on and that a resume may change; they are counted apart.

`SpikeReport` judges a step after its checkpoint is written, so every resume leaves one value out of its window. The
last metrics hold times, and what the last step of an earlier pass left there. Lightning counts an epoch as begun when
it enters it, which a run that resumes between two epochs has not done yet.
"""


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """Names of the values that are not the same bits."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return [] if same and ours.numpy().tobytes() == theirs.numpy().tobytes() else [name]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = {str(key) for key in ours.keys() ^ theirs.keys()}
        both = [key for key in ours if key in theirs]
        return [f"{name}.{key}" for key in sorted(keys)] + [
            found for key in both for found in differences(ours[key], theirs[key], f"{name}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        return [found for i, (a, b) in enumerate(pairs) for found in differences(a, b, f"{name}.{i}")]
    return [] if repr(ours) == repr(theirs) else [name]


def final_checkpoint(run: Path, step: int) -> dict[str, Any]:
    """A run's last checkpoint, read by torch alone."""
    path = run / "checkpoints" / f"step={step:07d}.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


def order_of(history: History) -> list[list[str]]:
    return [history.steps[number]["ids"] for number in sorted(history.steps)]


def exported_files(run: Path) -> dict[str, bytes]:
    """The exported student but for its card, which names folders and dates."""
    folder = run / "student"
    names = (path for path in sorted(folder.iterdir()) if path.suffix != ".md")
    return {path.name: path.read_bytes() for path in names}


def damaged_curve(run: Path) -> int:
    """The value of the curve ``data/damaged_samples`` at its highest step.

    Not the one read last: TensorBoard reads files in the order of their names, which are times of a clock that jumps.
    """
    curves = EventAccumulator(str(run), purge_orphaned_data=False)
    curves.Reload()
    return int(max(curves.Scalars("data/damaged_samples"), key=lambda point: point.step).value)


def replaced_places(clean: list[list[str]], trained: list[list[str]]) -> tuple[Counter[str], list[int]]:
    """Places of the order that were not trained on, and the steps in which the number of samples differs.

    Args:
        clean: the samples of each step of a run on undamaged data with the same order.
        trained: those of a run on damaged data.
    """
    replaced: Counter[str] = Counter()
    uneven = []
    for number, (expected, found) in enumerate(zip(clean, trained, strict=True), start=1):
        if len(expected) != len(found):
            uneven.append(number)
        replaced += Counter(expected) - Counter(found)
    return replaced, uneven


def lost_and_twice(order: list[list[str]], size: int) -> tuple[int, int]:
    """Samples that the first pass of `size` samples left out, and those it has more than once."""
    first_pass = [key for ids in order for key in ids][:size]
    counts = Counter(first_pass)
    return size - len(counts), sum(count - 1 for count in counts.values())
