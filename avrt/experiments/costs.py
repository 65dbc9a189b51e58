"""Expected duration of stages, before they run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from avrt.experiments.specs import Base, StageBase
from avrt.experiments.stages import Stage

if TYPE_CHECKING:
    from avrt.planning.plan import Plan
    from avrt.planning.settings import RunSettings

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


def stage_costs(stages: Mapping[str, Stage], base: Base, *, quick: bool) -> dict[str, Cost]:
    """The expected cost of each stage: as the base states it, else computed as ``avrt plan`` does.

    Args:
        stages: by name.
        base: the base that they come from.
        quick: whether they are the base's shorter form.

    Raises:
        UsageError: the settings of a training stage are wrong; so they are found before anything runs.
    """
    plans: dict[RunSettings, Plan] = {}
    return {name: _cost(stage, base, quick, plans) for name, stage in stages.items()}


def _cost(stage: Stage, base: Base, quick: bool, plans: dict[RunSettings, Plan]) -> Cost:
    stated = base.quick.minutes.get(stage.kind) if quick else None
    of_kind: StageBase | None = getattr(base, stage.kind, None) if stage.overlay is not None else None
    if stated is None and of_kind is not None:
        stated = of_kind.minutes
    if stated is not None or stage.kind not in TRAINING:
        return Cost(stated)
    assert of_kind is not None
    return _planned(stage, of_kind, base.student, plans)


def _planned(stage: Stage, of_kind: StageBase, student: str, plans: dict[RunSettings, Plan]) -> Cost:
    """The cost by `plans`, which gets a plan for settings that it does not have: most arms have the same."""
    from avrt.demo.paths import locate_demo_paths
    from avrt.planning.hardware import Hardware
    from avrt.planning.plan import make_plan
    from avrt.planning.settings import read_settings

    assert stage.overlay is not None
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "overlay.yaml"
        overlay.write_text(yaml.safe_dump(stage.overlay), encoding="utf-8")

        def prepare(config: dict[str, Any]) -> None:
            locate_demo_paths(config, Path(folder) / "student")

        # The student of the stage does not exist yet; it has the shape of the base's.
        settings = read_settings(
            [of_kind.config, str(overlay)], student=student, samples=of_kind.samples, prepare=prepare
        )
        if settings not in plans:
            plans[settings] = make_plan(settings, Hardware())
    hours = plans[settings].hours
    return Cost(None if hours is None else 60 * hours, settings.devices)
