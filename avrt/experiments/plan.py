"""An experiment before it runs: the tables to fill, the stages that fill them, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as ScreenTable

from avrt.config.errors import UsageError
from avrt.experiments.costs import Cost, Planner, stage_costs
from avrt.experiments.specs import Arm, Base, Table, choose_tables, read_arm, read_base, read_experiments
from avrt.experiments.stages import Expansion, Stage, expand
from avrt.experiments.state import is_complete

QUICK = "-quick"
"""Added to the folder of a base's shorter form."""


@dataclass(frozen=True)
class ExperimentPlan:
    """Everything that is known before a stage runs.

    Attributes:
        title: of the experiments.
        tables: the tables to fill, by their short names.
        arms: their arms, by name.
        base, base_name: the configs of the stages.
        seeds: of training.
        folder: everything that the stages write.
        expansion: the stages, and where the evaluations are.
        quick: the base's shorter form.
    """

    title: str
    tables: Mapping[str, Table]
    arms: Mapping[str, Arm]
    base: Base
    base_name: str
    seeds: Sequence[int]
    folder: Path
    expansion: Expansion
    quick: bool

    @property
    def stages(self) -> Mapping[str, Stage]:
        """The stages by name, each behind those that it needs."""
        return self.expansion.stages

    def show(self, console: Console, planner: Planner) -> None:
        """Print the stages with what they cost; raises as `stage_costs`."""
        costs = stage_costs(self.stages, self.base, planner, quick=self.quick)
        table = ScreenTable(title=f"{self.title}: {self.base.title}", title_justify="left")
        for column in ("stage", "arms", "expected", "state"):
            table.add_column(column, overflow="fold")
        left: dict[str, float] = {"minutes": 0.0, "gpu_hours": 0.0}
        unknown = 0
        for stage in self.stages.values():
            done, cost = is_complete(stage), costs[stage.name]
            table.add_row(stage.name, ", ".join(stage.arms), _expected(cost), "complete" if done else "")
            if not done:
                unknown += cost.minutes is None
                left["minutes"] += cost.minutes or 0.0
                left["gpu_hours"] += (cost.minutes or 0.0) / 60 * cost.devices
        console.print(table)
        for arm, reason in self.expansion.left_out.items():
            console.print(f"without {arm}: {reason}", highlight=False, soft_wrap=True)
        open_stages = sum(not is_complete(stage) for stage in self.stages.values())
        text = f"{open_stages} of {len(self.stages)} stages to run, about {duration(left['minutes'])}"
        if left["gpu_hours"]:
            text += f" and {left['gpu_hours']:,.0f} GPU hours (computed, not measured)"
        if unknown:
            text += f", and {unknown} stages of unknown length"
        console.print(text, highlight=False, soft_wrap=True)


def make_plan(
    config: Path, base_name: str, *, only: Sequence[str], seeds: Sequence[int], out: Path, quick: bool
) -> ExperimentPlan:
    """Read the files of an experiment and expand its arms.

    Args:
        config: the tables; arms and bases are in the folders ``arms`` and ``bases`` beside it.
        base_name: the base.
        only: names of tables; empty for all, or with `quick` for those of the base's shorter form.
        seeds: of training.
        out: folder for all bases.
        quick: the base's shorter form.

    Raises:
        UsageError: a file is wrong; names the file or key and says how to fix it.
    """
    experiments = read_experiments(config)
    base = read_base(config.parent, base_name)
    if quick and not only:
        only = [name for name in base.quick.tables if name in experiments.tables]
    tables = choose_tables(experiments, only)
    names = dict.fromkeys(arm for table in tables.values() for arm in table.arms)
    arms = {}
    for name in names:
        try:
            arms[name] = read_arm(config.parent, name, base_name)
        except UsageError as error:
            raise UsageError(f"{config}: {error}") from error
    folder = out / (f"{base_name}{QUICK}" if quick else base_name)
    expansion = expand(tables, arms, base, base_name, out=folder, seeds=seeds, quick=quick)
    return ExperimentPlan(experiments.title, tables, arms, base, base_name, list(seeds), folder, expansion, quick)


def duration(minutes: float) -> str:
    """A duration in words."""
    if minutes < 1.5:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:,.1f} h"


def _expected(cost: Cost) -> str:
    if cost.minutes is None:
        return "?"
    text = duration(cost.minutes)
    return f"{text} on {cost.devices} GPUs" if cost.devices else text
