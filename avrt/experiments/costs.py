"""Expected cost of stages, before they run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from avrt.experiments.specs import Base, StageBase
from avrt.experiments.stages import Stage

TRAINING = ("sft", "grpo")


@dataclass(frozen=True)
class Cost:
    """Expected cost of a stage.

    Attributes:
        minutes: duration, None where nothing is known.
        devices: GPUs that it occupies; 0 where the duration was stated and not computed.
    """

    minutes: float | None = None
    devices: int = 0


Planner = Callable[[Sequence[str], str, int | None], Cost]
"""The cost of a training run: its config files, a student of the same shape, and samples if its data are elsewhere."""


def stage_costs(stages: Mapping[str, Stage], base: Base, planner: Planner, *, quick: bool) -> dict[str, Cost]:
    """The expected cost of each stage: as the base states it, else computed.

    Args:
        stages: by name.
        base: the base that they come from.
        planner: computes the cost of a training run.
        quick: whether they are the base's shorter form.

    Raises:
        UsageError: the settings of a training stage are wrong; so they are found before anything runs.
    """
    return {name: _cost(stage, base, planner, quick) for name, stage in stages.items()}


def _cost(stage: Stage, base: Base, planner: Planner, quick: bool) -> Cost:
    stated = base.quick.minutes.get(stage.kind) if quick else None
    of_kind: StageBase | None = getattr(base, stage.kind, None) if stage.overlay is not None else None
    if stated is None and of_kind is not None:
        stated = of_kind.minutes
    if stated is not None or stage.kind not in TRAINING:
        return Cost(stated)
    assert of_kind is not None
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "overlay.yaml"
        overlay.write_text(yaml.safe_dump(stage.overlay), encoding="utf-8")
        # The student of the stage does not exist yet; it has the shape of the base's.
        return planner([of_kind.config, str(overlay)], base.student, of_kind.samples)
