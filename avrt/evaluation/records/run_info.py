"""The settings of a run on one benchmark: ``run.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_args

from avrt.evaluation.records.json_fields import from_dict
from avrt.files.atomic import write_atomic
from avrt.files.json_text import decode_json
from avrt.media.masking import Modalities
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RunInfo:
    """The settings of a run on one benchmark; the same for every record of the folder.

    Attributes:
        run: name of the run, for tables.
        benchmark: name of the benchmark, see `avrt.evaluation.benchmarks.BENCHMARKS`.
        model: the model: a checkpoint, a folder, a hub id or a server's model name.
        items: number of items that the run covers: the denominator of every accuracy.
        dataset_fingerprint: sha256 over the covered items, see `avrt.evaluation.benchmarks.fingerprint`.
        modalities: streams that the model got: ``AV``; ``A`` (black frames); ``V`` (silent audio).
        answer_format: format that the prompt asks for: ``tags`` (think and answer tags) or ``letter``.
        profile: parser profile, see `avrt.text.answers`: ``paper`` or ``robust``.
        subset: name of the id file to which the items are limited, or None for the whole benchmark.
        data_root: folder that the records' media paths are relative to.
        decoding: decoding and media settings (max_completion_length, temperature, num_frames, ...).
        prompt: other settings that change the prompts (wording, chat template, shards that the clips come from); empty
            for imported replies, None in folders of versions that did not record it.
        weights: fingerprint that distinguishes two students with the same `model` path; empty if the weights are not
            available.
        avrt_version: version of this project that generated the replies.
        started: date and time when the run began (ISO 8601, UTC); empty where it is unknown.
        hardware: what the model ran on, for tables; empty where it is unknown (a server, imported replies).
        benchmark_class: class path of the benchmark, if another package has it and its scoring rule; else empty.
    """

    run: str
    benchmark: str
    model: str
    items: int
    dataset_fingerprint: str
    modalities: Modalities = "AV"
    answer_format: AnswerFormat = "tags"
    profile: Profile = "paper"
    subset: str | None = None
    data_root: str = ""
    decoding: dict[str, Any] = field(default_factory=dict)
    prompt: dict[str, Any] | None = None
    weights: str = ""
    avrt_version: str = ""
    started: str = ""
    hardware: str = ""
    benchmark_class: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("modalities", Modalities), ("answer_format", AnswerFormat), ("profile", Profile)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"`{name}` must be one of {', '.join(get_args(allowed))}, got {getattr(self, name)!r}")

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read ``run.json`` of one benchmark's folder.

        Raises:
            ValueError: it is missing, is not JSON, or has unknown or missing keys.
        """
        path = Path(folder) / RUN_FILE
        try:
            values = decode_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"{folder}: is not a benchmark's folder of a run (it has no {RUN_FILE})") from error
        except ValueError as error:
            raise ValueError(f"{path}: is not valid JSON: {error}") from error
        return from_dict(cls, values, str(path))

    def write(self, folder: str | Path) -> None:
        """Write ``run.json``; for a run that is resumed, check that it is still the same run.

        A resumed run keeps its first date, and lists the hardware of all its parts.

        Raises:
            ValueError: the folder contains a run with other settings, whose records are not comparable. The run's name,
                the place of the data, and the hardware may differ.
        """
        folder, info = Path(folder), self
        if (folder / RUN_FILE).exists():
            old = RunInfo.read(folder)
            if old.prompt is None and self.prompt is not None:
                raise ValueError(
                    f"{folder}: its {RUN_FILE} has no `prompt` (an earlier version of AVRT began it), so "
                    "it is unknown whether this run has the same one; use another run folder "
                    "(score, compare and report still read this one)"
                )
            before, now = _settings(old), _settings(self)
            for name in [*now, *(set(before) - set(now))]:
                if before.get(name) != now.get(name):
                    raise ValueError(
                        f"{folder}: contains a run with `{name}` {_shown(before.get(name))}, this one has "
                        f"{_shown(now.get(name))}; use another run folder, or remove that one"
                    )
            parts = dict.fromkeys(part for part in [*old.hardware.split("; "), self.hardware] if part)
            info = dataclasses.replace(self, started=old.started, hardware="; ".join(parts))
            if old == info:
                return
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RUN_FILE, (json.dumps(dataclasses.asdict(info), indent=2) + "\n").encode())


def _settings(info: RunInfo) -> dict[str, Any]:
    """All settings that must be the same in a resumed run, by name; `decoding` and `prompt` key by key."""
    values = {item.name: getattr(info, item.name) for item in dataclasses.fields(info)}
    nested = {name: values.pop(name) or {} for name in ("decoding", "prompt")}
    flat = {f"{name}.{key}": value for name, settings in nested.items() for key, value in settings.items()}
    free = ("run", "data_root", "started", "hardware")
    return {name: value for name, value in values.items() if name not in free} | flat


def _shown(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def benchmark_folders(run: str | Path) -> list[Path]:
    """The benchmarks' folders of a run, by name; of a benchmark's own folder, this folder.

    Raises:
        ValueError: there is none.
    """
    run = Path(run)
    if (run / RUN_FILE).is_file():
        return [run]
    folders = sorted(path.parent for path in run.glob(f"*/{RUN_FILE}"))
    if not folders:
        raise ValueError(f"{run}: is not an evaluation run (no <benchmark>/{RUN_FILE} in it)")
    return folders
