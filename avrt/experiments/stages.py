"""Arms expanded into stages: traces → SFT → export → GRPO → export → evaluation, each a public command.

Arms share a stage if it has the same settings and the same inputs: the SFT of two arms that differ in their GRPO runs
once. A stage's fingerprint covers its command, its settings, the text of its configs and the fingerprints of its
inputs, and is part of its folder's name; so a folder always has the results of what the files say.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from avrt.config.errors import UsageError
from avrt.config.preset_files import preset_folder
from avrt.experiments.overlays import filled, merged, without_callbacks
from avrt.experiments.specs import Arm, Base, StageBase, Table

SHORT = 10
"""Digits of a fingerprint in a folder's name."""

OVERLAY_FILE = "overlay.yaml"
"""The settings of a stage that override its config, in its folder."""

FOLDER = "{folder}"
"""The stage's own folder, while its fingerprint is not known."""

PORT = "{port}"
"""Replaced when the stage starts: the port of the base's service, if one runs."""


@dataclass
class Stage:
    """One command.

    Attributes:
        kind: ``prepare``, ``subsets``, ``traces``, ``sft``, ``grpo``, ``export``, ``evaluate``, ``claims``.
        name: unique and readable: ``grpo-merged-seed0``.
        folder: everything it writes.
        commands: words after ``python -m avrt``, one list for each command.
        needs: names of the stages that come before it.
        fingerprint: see the module.
        overlay: content of its `OVERLAY_FILE`, None where there is none.
        arms: the arms that it belongs to.
        with_service: the base's service has to run.
    """

    kind: str
    name: str
    folder: Path
    commands: list[list[str]]
    needs: list[str]
    fingerprint: str
    overlay: dict[str, Any] | None = None
    arms: list[str] = field(default_factory=list)
    with_service: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Where the results of one arm are: an evaluation of one seed with some streams.

    Attributes:
        stage: name of the evaluation's stage.
        claims: name of the stage in which a model judges what the replies claim; empty for none.
    """

    arm: str
    seed: int
    modalities: str
    stage: str
    claims: str = ""


@dataclass
class Expansion:
    """The stages of an experiment, each behind those that it needs, and the evaluations of its arms."""

    stages: dict[str, Stage] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Arms that the base does not have, with the reason."""

    def evaluation(self, arm: str, seed: int, modalities: str) -> Path | None:
        """The folder of an evaluation, or None."""
        for found in self.evaluations:
            if (found.arm, found.seed, found.modalities) == (arm, seed, modalities):
                return self.stages[found.stage].folder
        return None


def expand(
    tables: Mapping[str, Table],
    arms: Mapping[str, Arm],
    base: Base,
    base_name: str,
    *,
    out: Path,
    seeds: Iterable[int],
    quick: bool = False,
) -> Expansion:
    """All stages of the tables' arms.

    Args:
        tables: the tables to fill.
        arms: the arms by name, as `read_arm` returns them for this base.
        base, base_name: the configs of the stages.
        out: folder of all stages.
        seeds: of SFT and GRPO. Traces and evaluations do not depend on them.
        quick: the base's shorter form.

    Raises:
        UsageError: a config is missing, or has no callback that an arm leaves out.
    """
    return _Expander(base, out, quick).expand(tables, arms, base_name, list(seeds))


class _Expander:
    def __init__(self, base: Base, out: Path, quick: bool) -> None:
        self.base, self.out, self.quick = base, out, quick
        self.places = {"subsets": str(out / "difficulty")}
        self.result = Expansion()
        self.first: list[str] = []  # what every stage needs

    def expand(
        self, tables: Mapping[str, Table], arms: Mapping[str, Arm], base_name: str, seeds: list[int]
    ) -> Expansion:
        if self.base.prepare:
            stage = self._of_commands("prepare", self.base.prepare)
            self.first, self.places["base"] = [stage.name], str(stage.folder)
        if self.base.subsets and any(table.kind == "difficulty" for table in tables.values()):
            self._of_commands("subsets", self.base.subsets)
        judged = _judged(tables) if self.base.claims_judge else set()
        for name, streams in _streams(tables).items():
            if base_name in arms[name].not_with:
                self.result.left_out[name] = arms[name].not_with[base_name]
                continue
            for seed in seeds:
                student, needs = self._train(name, arms[name], seed)
                for modalities in streams:
                    stage = self._evaluate(name, arms[name], seed, student, needs, modalities)
                    claims = self._claims(stage, name) if (name, modalities) in judged else ""
                    self.result.evaluations.append(Evaluation(name, seed, modalities, stage.name, claims))
        return self.result

    def _train(self, name: str, arm: Arm, seed: int) -> tuple[str, list[str]]:
        """The stages up to an arm's student; returns its path and the stages that it needs."""
        student, needs = self.base.student, list(self.first)
        if arm.sft is not None:
            traces = self._traces(name, arm)
            settings = merged(filled(self.base.sft.settings, {"traces": str(traces.folder / "shards")}), arm.sft)
            student, needs = self._fit("sft", name, seed, self.base.sft, settings, student, [*needs, traces.name])
        if arm.grpo is not None:
            settings = merged(self.base.grpo.settings, arm.grpo)
            if arm.without_callbacks:
                trainer = dict(settings.get("trainer") or {})
                added = trainer.pop("callbacks+", [])
                trainer["callbacks"] = without_callbacks(
                    find_config(self.base.grpo.config), arm.without_callbacks, added
                )
                settings["trainer"] = trainer
            student, needs = self._fit("grpo", name, seed, self.base.grpo, settings, student, needs)
        return student, needs

    def _traces(self, name: str, arm: Arm) -> Stage:
        # One ledger for all variants: no call to a teacher is made twice. Its writers come one after the other.
        shared = {"ledger": str(self.out / "ledger"), "output": f"{FOLDER}/shards"}
        settings = merged(shared, self.base.traces.settings, arm.traces)
        label = str(arm.traces.get("variant", "merged")) if set(arm.traces) <= {"variant"} else name
        earlier = [stage.name for stage in self.result.stages.values() if stage.kind == "traces"]
        stage = self._of_config("traces", label, self.base.traces.config, settings, "traces", self.first, name, earlier)
        stage.with_service = bool(self.base.service)
        return stage

    def _fit(
        self,
        kind: str,
        name: str,
        seed: int,
        base: StageBase,
        settings: Mapping[str, Any],
        student: str,
        needs: list[str],
    ) -> tuple[str, list[str]]:
        """A training run; returns the trained student's folder and the stages that it needs."""
        model: dict[str, Any] = {"student": {"path": student}} | (
            {"sampling": {"seed": seed}} if kind == "grpo" else {}
        )
        own = {"output_dir": f"{FOLDER}/run", "seed_everything": seed, "model": {"init_args": model}}
        own["data"] = {"init_args": {"seed": seed}}
        quick = getattr(self.base.quick, kind) if self.quick else {}
        settings = merged(settings, quick, own)
        stage = self._of_config(kind, f"{name}-seed{seed}", base.config, settings, "fit", needs, name)
        run = str(stage.folder / "run")
        if base.student is not None:
            return str(filled(base.student, {"run": run})), [stage.name]
        words = ["export", run, "--out", f"{FOLDER}/student"]
        export = self._add("export", f"{kind}-{name}-seed{seed}", None, None, [words], [stage.name], name)
        return str(export.folder / "student"), [export.name]

    def _evaluate(self, name: str, arm: Arm, seed: int, student: str, needs: list[str], modalities: str) -> Stage:
        model = {"student": {"path": student}}
        own = {"output_dir": f"{FOLDER}/run", "model": {"init_args": model}}
        own["data"] = {"init_args": {"modalities": modalities}}
        quick = self.base.quick.evaluate if self.quick else {}
        settings = merged(self.base.evaluate.settings, arm.evaluate, quick, own)
        label = f"{name}-seed{seed}-{modalities}"
        return self._of_config("evaluate", label, self.base.evaluate.config, settings, "test", needs, name)

    def _claims(self, evaluation: Stage, arm: str) -> str:
        places = {"run": str(evaluation.folder / "run"), "claims": FOLDER}
        words = [filled(shlex.split(command), places) for command in self.base.claims_judge]
        label = evaluation.name.removeprefix("evaluate-")
        stage = self._add("claims", label, None, None, words, [evaluation.name], arm)
        stage.with_service = any(PORT in command for command in self.base.claims_judge)
        return stage.name

    def _of_commands(self, kind: str, commands: list[str]) -> Stage:
        words = [filled(shlex.split(command), {"base": FOLDER, **self.places}) for command in commands]
        stage = self._add(kind, "", None, None, words, [] if kind == "prepare" else self.first, "")
        stage.with_service = any(PORT in command for command in commands)
        return stage

    def _of_config(
        self,
        kind: str,
        label: str,
        config: str,
        settings: Mapping[str, Any],
        command: str,
        needs: list[str],
        arm: str,
        after: Iterable[str] = (),
    ) -> Stage:
        settings = dict(settings)
        file = find_config(str(settings.pop("config", config)))
        words = [command, "--config", str(file), "--config", f"{FOLDER}/{OVERLAY_FILE}"]
        if command == "fit":
            words += ["--ckpt_path", "last"]  # continues an interrupted run, and starts one that has no checkpoint
        return self._add(kind, label, file, filled(settings, self.places), [words], needs, arm, after)

    def _add(
        self,
        kind: str,
        label: str,
        config: Path | None,
        overlay: dict[str, Any] | None,
        commands: list[list[str]],
        needs: list[str],
        arm: str,
        after: Iterable[str] = (),
    ) -> Stage:
        """Add a stage, or find the one that does the same for another arm."""
        inputs = [self.result.stages[name].fingerprint for name in needs]
        configs = [config] if config else [find_config(file) for words in commands for file in _configs(words)]
        text = "\n".join(file.read_text(encoding="utf-8") for file in configs)
        described = json.dumps(_without_place([kind, overlay, commands, inputs], f"{self.out}/"), sort_keys=True)
        fingerprint = hashlib.sha256(f"{described}\n{text}".encode()).hexdigest()
        for stage in self.result.stages.values():
            if stage.fingerprint == fingerprint:
                stage.arms += [arm] if arm not in stage.arms else []
                return stage
        folder = self._folder(kind, label, fingerprint[:SHORT])
        place = {FOLDER.strip("{}"): str(folder)}
        stage = Stage(
            kind,
            f"{kind}-{label}" if label else kind,
            folder,
            filled(commands, place),
            [*needs, *after],
            fingerprint,
            overlay=filled(overlay, place),
            arms=[arm] if arm else [],
        )
        self.result.stages[stage.name] = stage
        return stage

    def _folder(self, kind: str, label: str, fingerprint: str) -> Path:
        """A stage's folder: the one that is there already, else a new name.

        A stage that several arms share is called after the first of them, which another choice of tables may change.
        """
        there = sorted((self.out / kind).glob(f"*-{fingerprint}"))
        return there[0] if there else self.out / kind / "-".join(part for part in (label, fingerprint) if part)


def _configs(words: list[str]) -> list[str]:
    """The config files that a command line names."""
    return [file for option, file in pairwise(words) if option == "--config"]


def _without_place(value: Any, place: str) -> Any:
    """A value whose paths in the folder `place` are relative to it: moving the folder changes no fingerprint."""
    if isinstance(value, Mapping):
        return {key: _without_place(child, place) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_place(child, place) for child in value]
    return value.removeprefix(place) if isinstance(value, str) else value


def _streams(tables: Mapping[str, Table]) -> dict[str, list[str]]:
    """The streams with which each arm is evaluated."""
    found: dict[str, dict[str, None]] = {}
    for table in tables.values():
        for arm in table.arms:
            found.setdefault(arm, {}).update(dict.fromkeys(table.modalities))
    return {arm: list(streams) for arm, streams in found.items()}


def _judged(tables: Mapping[str, Table]) -> set[tuple[str, str]]:
    """The arms and streams for which tables want to know what the replies claim."""
    wanted = [table for table in tables.values() if table.kind == "claims"]
    return {(arm, modalities) for table in wanted for arm in table.arms for modalities in table.modalities}


def find_config(path: str) -> Path:
    """A config file: of the working directory, or of the installed presets.

    Raises:
        UsageError: there is no such file.
    """
    own = Path(path)
    if own.is_file():
        return own
    preset = preset_folder().parent / path
    if preset.is_file():
        return preset
    raise UsageError(f"{path}: there is no such config file")
