"""The files that describe experiments: tables of arms, arms, and bases.

An *arm* is one way to train a student: it says how its traces, SFT, GRPO and evaluation differ from the paper's method.
A *base* says which configs these stages have, and so the size of everything: the demo's task, 3B or 7B. A *table* lists
arms beside the paper's numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from avrt.config.dataclass_options import read_dataclass
from avrt.config.errors import UsageError
from avrt.config.numbers import PositiveFloat, PositiveInt
from avrt.config.preset_files import preset_folder
from avrt.experiments.overlays import merged
from avrt.media.masking import Modalities

EXAMPLE = "cli_configs/experiments/paper.yaml"

STAGES = ("traces", "sft", "grpo", "evaluate")
"""The stages that an arm has settings for."""

T = TypeVar("T")

Kind = Literal["accuracy", "difficulty", "errors", "outcomes", "claims"]
"""The numbers of a table: accuracy; accuracy by difficulty subset (easy, medium, hard); shares of format errors and of
logic errors; all outcomes of answer parsing; the share of replies that claim to have seen something where the student
got no images, or heard something where it got no audio, beside the same shares where it got both."""


@dataclass
class Row:
    """One row of a table.

    Attributes:
        arm: name of a file in ``arms/``.
        paper: the numbers that the paper publishes for it, in percent, in the order of `Table.paper_columns`.
    """

    arm: str
    paper: list[float | None] = field(default_factory=list)


@dataclass
class Table:
    """One table of the paper, or of one's own.

    Attributes:
        title: what the table shows.
        rows: its arms.
        reference: the arm that the others are compared with; the first row's if empty.
        kind: which numbers it has.
        modalities: streams that the student gets in its columns.
        benchmarks: benchmarks of its columns, where the base has several.
        paper_columns: titles of the paper's columns.
        note: a sentence below the table.
    """

    title: str
    rows: list[Row]
    reference: str = ""
    kind: Kind = "accuracy"
    modalities: list[Modalities] = field(default_factory=lambda: ["AV"])
    benchmarks: list[str] = field(default_factory=list)
    paper_columns: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def compared_with(self) -> str:
        """The arm that the others are compared with."""
        return self.reference or self.rows[0].arm

    @property
    def arms(self) -> list[str]:
        """The arms that it needs, without repetition."""
        return list(dict.fromkeys([*(row.arm for row in self.rows), self.compared_with]))


@dataclass
class Experiments:
    """A set of tables: a file such as ``cli_configs/experiments/paper.yaml``.

    Attributes:
        title: its name on the page.
        tables: the tables by their short names (``T4``), which ``--only`` takes.
    """

    title: str
    tables: dict[str, Table]


@dataclass
class Arm:
    """One way to train a student. What it does not mention is as in the paper's method.

    The settings of a stage override its config. ``config`` among them names another config.

    Attributes:
        title: its name in tables.
        traces: settings of the trace run that differ (``{variant: audio_only}``).
        sft: settings of the SFT run that differ; null for no SFT.
        grpo: settings of the GRPO run that differ; null for no GRPO.
        evaluate: settings of the evaluation that differ.
        without_callbacks: class paths of callbacks of the GRPO config that the arm does without, such as a reward.
        bases: further differences with one base, by the base's name: ``{tiny: {traces: ...}}``.
        not_with: bases without this arm, each with the reason.
    """

    title: str
    traces: dict[str, Any] = field(default_factory=dict)
    sft: dict[str, Any] | None = field(default_factory=dict)
    grpo: dict[str, Any] | None = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    without_callbacks: list[str] = field(default_factory=list)
    bases: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_with: dict[str, str] = field(default_factory=dict)


@dataclass
class StageBase:
    """What a base says of one stage.

    Attributes:
        config: the config file of the stage.
        settings: settings that override it, for all arms. ``{traces}`` is the folder of the stage's traces, ``{base}``
            the folder of the base's own files, ``{port}`` the port of `Base.service`.
        student: of a training stage, where the run leaves the trained student, such as ``{run}/student``; null where
            ``avrt export`` has to write it.
        minutes: expected duration; null to compute it as ``avrt plan`` does (training only).
        samples: training samples, for that computation, where the data are not on this machine.
    """

    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    student: str | None = None
    minutes: PositiveFloat | None = None
    samples: PositiveInt | None = None


@dataclass
class Quick:
    """A shorter experiment, for ``--quick``.

    Attributes:
        tables: the tables that it has.
        sft, grpo, evaluate: settings that override the stages of all arms.
        minutes: by stage kind, as `StageBase.minutes`.
    """

    tables: list[str] = field(default_factory=list)
    sft: dict[str, Any] = field(default_factory=dict)
    grpo: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    minutes: dict[str, float] = field(default_factory=dict)


@dataclass
class Base:
    """The configs of the stages, and so the size of the experiments: a file of ``bases/``.

    Attributes:
        title: its name on the page.
        student: the student before training: a folder, a hub id, ``demo:student``, or one that `prepare` makes in
            ``{base}``.
        traces, sft, grpo, evaluate: the stages.
        benchmarks: benchmarks that `evaluate` evaluates.
        prepare: commands (the words after ``python -m avrt``) that run once before everything else, and write to
            ``{base}``.
        subsets: commands that write the lists of easy, medium and hard items to ``{subsets}``; empty where there are
            none.
        service: a command that has to run while traces are made, and listens on ``{port}``; empty for none.
        claims_rule: class path of the rule that finds replies which claim what the student was not given; empty for
            none.
        claims_judge: commands that have a model find them instead, after an evaluation in ``{run}``, and write
            ``claims.jsonl`` to ``{claims}``.
        quick: the shorter form.
    """

    title: str
    student: str
    traces: StageBase
    sft: StageBase
    grpo: StageBase
    evaluate: StageBase
    benchmarks: list[str] = field(default_factory=list)
    prepare: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    service: str = ""
    claims_rule: str = ""
    claims_judge: list[str] = field(default_factory=list)
    quick: Quick = field(default_factory=Quick)


def read_experiments(file: str | Path) -> Experiments:
    """Read a set of tables.

    Raises:
        UsageError: the file is wrong; names the key and says how to fix it.
    """
    found = read_dataclass(Experiments, [file], [], EXAMPLE)
    if not found.tables:
        raise UsageError(f"{file}: tables: has none")
    for name, table in found.tables.items():
        if not table.rows:
            raise UsageError(f"{file}: tables.{name}.rows: has none")
        for row in table.rows:
            if row.paper and len(row.paper) != len(table.paper_columns):
                raise UsageError(
                    f"{file}: tables.{name}: {row.arm} has {len(row.paper)} numbers of the paper for "
                    f"{len(table.paper_columns)} `paper_columns`"
                )
    return found


def read_arm(folder: Path, name: str, base: str) -> Arm:
    """Read the arm ``<folder>/arms/<name>.yaml`` for one base; raises as `read_experiments`."""
    arm = _read_named(Arm, folder / "arms", name, "arm")
    for stage, settings in arm.bases.get(base, {}).items():
        if stage not in STAGES or not isinstance(settings, dict):
            raise UsageError(f"arm {name}: bases.{base}.{stage}: expects settings of {', '.join(STAGES)}")
        own = getattr(arm, stage)
        setattr(arm, stage, None if own is None else merged(own, settings))
    return arm


def read_base(folder: Path, name: str) -> Base:
    """Read the base ``<folder>/bases/<name>.yaml``; raises as `read_experiments`."""
    base = _read_named(Base, folder / "bases", name, "--base")
    if base.claims_rule and base.claims_judge:
        raise UsageError(f"base {name}: claims_rule, claims_judge: choose one of them")
    return base


def _read_named(kind: type[T], folder: Path, name: str, key: str) -> T:
    # The presets' own folder too: a set of one's own may use the paper's arms.
    folders = list(dict.fromkeys([folder, preset_folder() / "experiments" / folder.name]))
    for place in folders:
        file = place / f"{name}.yaml"
        if file.is_file():
            return read_dataclass(kind, [file], [], EXAMPLE)
    known = sorted({path.stem for place in folders for path in place.glob("*.yaml")})
    raise UsageError(f"{key}: there is no {folders[0] / name}.yaml; {suggestion(name, known)}")


def suggestion(name: str, known: Sequence[str]) -> str:
    """How to fix a name that is not among the known ones."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"


def choose_tables(experiments: Experiments, only: Sequence[str]) -> dict[str, Table]:
    """The tables named by ``--only``, or all.

    Raises:
        UsageError: there is no such table.
    """
    for name in only:
        if name not in experiments.tables:
            raise UsageError(f"--only: there is no table {name!r}; {suggestion(name, list(experiments.tables))}")
    return {name: table for name, table in experiments.tables.items() if not only or name in only}
