"""What an evaluation run leaves on disk: one JSON line per item, appended as it happens.

Layout of a run folder, one sub-folder per benchmark::

    <run>/<benchmark>/run.json              what was run: `RunInfo`
    <run>/<benchmark>/records.rank0.jsonl   appended by process 0, one fsynced line per item; likewise rank1, ...
    <run>/<benchmark>/records.jsonl         all items once, in the benchmark's order, written when the run is complete
    <run>/<benchmark>/metrics.json          every number, see `avrt.evaluation.scoring`

The rank files are the log and are never rewritten, except that the torn last line of a killed process is cut off when
its file is opened again. ``records.jsonl`` is made from them and can be made again. A reader takes the union of all of
them, so a run may be resumed with another number of processes, and a folder with ``records.jsonl`` alone is a whole
run too.

A record has a raw part (the question, the reply, what it cost) and a derived part (`DERIVED_FIELDS`: what scoring made
of the reply). The derived part follows from the raw part alone and can be computed again at any time.

Only the standard library is imported here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, get_args

from avrt.atomic import sync_folder, write_atomic
from avrt.folder_lock import LOCK_NAME, FolderLock

RUN_FILE = "run.json"
RECORDS_FILE = "records.jsonl"
METRICS_FILE = "metrics.json"
_RANK_FILE = re.compile(r"records\.rank(\d+)\.jsonl")

DERIVED_FIELDS = ("answer", "reason", "correct_strict", "correct_official", "error_type")
"""The fields of a `Record` that scoring fills in; None until then."""

ErrorType = Literal["none", "instruction_format", "logic", "no_reply"]
Modalities = Literal["AV", "A", "V"]
AnswerFormat = Literal["tags", "letter"]
Profile = Literal["paper", "robust"]


@dataclass(frozen=True)
class RunInfo:
    """What was run on one benchmark; the same for every record of the folder.

    Attributes:
        run: name of the run, for tables.
        benchmark: name of the benchmark, see `avrt.evaluation.benchmarks.BENCHMARKS`.
        model: what answered: a checkpoint, a folder, a hub id or a server's model name.
        items: number of items that the run covers: the denominator of every accuracy.
        dataset_fingerprint: sha256 over the covered items, see `avrt.evaluation.benchmarks.fingerprint`.
        modalities: which streams were shown: ``AV``; ``A`` (frames blanked); ``V`` (sound silenced).
        answer_format: what the prompt asked for: ``tags`` (think and answer tags) or ``letter``.
        profile: how replies are read, see `avrt.answers`: ``paper`` or ``robust``.
        subset: name of the id file that the items were limited to, or None for the whole benchmark.
        data_root: folder that the records' media paths are relative to.
        decoding: decoding and media settings (max_completion_length, temperature, num_frames, ...).
        prompt: what else decides the prompts (wording, chat template, shards that the clips come from); empty for
            replies made elsewhere, None in folders of versions that did not record it.
        weights: tells two students apart that have the same `model` path; empty where the weights are not at hand.
        avrt_version: version of this project that made the replies.
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

    def __post_init__(self) -> None:
        for name, allowed in (("modalities", Modalities), ("answer_format", AnswerFormat), ("profile", Profile)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"`{name}` must be one of {', '.join(get_args(allowed))}, is {getattr(self, name)!r}")

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read ``run.json`` of one benchmark's folder.

        Raises:
            ValueError: it is missing, is no JSON, or has unknown or missing keys.
        """
        path = Path(folder) / RUN_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"{folder}: is no run of a benchmark (it has no {RUN_FILE})") from error
        except ValueError as error:
            raise ValueError(f"{path}: is no valid JSON: {error}") from error
        return _from_dict(cls, values, str(path))

    def write(self, folder: str | Path) -> None:
        """Write ``run.json``; for a run that is resumed, check that it is still the same run.

        Raises:
            ValueError: the folder holds a run with other settings: its records would mean something else. The run's
                name and the place of the data may differ.
        """
        folder = Path(folder)
        if (folder / RUN_FILE).exists():
            old = RunInfo.read(folder)
            if old.prompt is None and self.prompt is not None:
                raise ValueError(
                    f"{folder}: its {RUN_FILE} has no `prompt` (an earlier version of AVRT began it), so "
                    "it is unknown whether this run has the same one; use another run folder to ask again "
                    "(score, compare and report read this one as it is)"
                )
            before, now = _settings(old), _settings(self)
            for name in [*now, *(set(before) - set(now))]:
                if before.get(name) != now.get(name):
                    raise ValueError(
                        f"{folder}: holds a run with `{name}` {_shown(before.get(name))}, this one has "
                        f"{_shown(now.get(name))}; use another run folder, or remove that one"
                    )
            if old == self:
                return  # so that the file's date tells when the run began
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RUN_FILE, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())


def _settings(info: RunInfo) -> dict[str, Any]:
    """All that must be the same in a run that is resumed, by name; `decoding` and `prompt` setting by setting."""
    values = {item.name: getattr(info, item.name) for item in dataclasses.fields(info)}
    nested = {name: values.pop(name) or {} for name in ("decoding", "prompt")}
    flat = {f"{name}.{key}": value for name, settings in nested.items() for key, value in settings.items()}
    return {name: value for name, value in values.items() if name not in ("run", "data_root")} | flat


def _shown(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


@dataclass(frozen=True)
class Record:
    """One item of one run. Keys of the JSON line stand in the order of the fields.

    Attributes:
        id: the item's id, unique in its benchmark.
        benchmark: as in `RunInfo`.
        index: place of the item in the benchmark's own order, from 0.
        question: the question's text.
        options: the options' texts without letters.
        gold: letter of the right option.
        official_gold: what the benchmark's own scorer compares with, where that is not `gold` (an option's text).
        categories: the benchmark's categories that the item is broken down by, name to value.
        media: where to find what the model saw and heard: paths relative to `RunInfo.data_root` under ``video``,
            ``audio``, ``image``; or ``shard`` (a tar file) and ``key`` (its sample).
        text: the reply as decoded, untouched; empty where there is none.
        finish_reason: ``stop`` or ``length``; ``missing`` where nothing was generated.
        failure: why there is no reply (``missing_media``, ``server_error``, ...), else None. Such an item counts as
            wrong, with this as its reason, and is tried again when the run is resumed.
        failure_detail: one line for the reader: which file, which error.
        prompt_tokens, completion_tokens: lengths in tokens, None where unknown.
        latency_seconds: time that the reply took, None where unknown. Never part of the metrics.
        answer: the letter that the strict parser read, or None.
        reason: the parser's reason code (`avrt.answers.Reason`), or `failure`.
        correct_strict: right by this project's rule.
        correct_official: right by the benchmark's own rule; None where that rule leaves the item out of its
            denominator.
        error_type: ``none`` (right), ``instruction_format`` (no clear answer), ``logic`` (a clear wrong one), or
            ``no_reply`` (`failure`: the model was not asked or could not be, which is no fault of its format).
    """

    id: str
    benchmark: str
    index: int
    question: str
    options: tuple[str, ...]
    gold: str
    official_gold: str | None = None
    categories: dict[str, str] = field(default_factory=dict)
    media: dict[str, str] = field(default_factory=dict)
    text: str = ""
    finish_reason: str = "stop"
    failure: str | None = None
    failure_detail: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_seconds: float | None = None
    answer: str | None = None
    reason: str | None = None
    correct_strict: bool | None = None
    correct_official: bool | None = None
    error_type: ErrorType | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))

    @property
    def scored(self) -> bool:
        """Whether the derived fields are filled in."""
        return self.correct_strict is not None

    def raw(self) -> Record:
        """The record without its derived part."""
        cleared: dict[str, Any] = dict.fromkeys(DERIVED_FIELDS)
        return dataclasses.replace(self, **cleared)

    def to_json(self) -> str:
        """One line of JSON, without the line break; the same record always gives the same text."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        # ASCII only: a lone surrogate in a reply could not be encoded, and U+2028 would look like a line break.
        return json.dumps(values, ensure_ascii=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes, where: str = "record") -> Self:
        """Read one line.

        Raises:
            ValueError: no JSON object, or unknown or missing keys; `where` (file and line) is named.
        """
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: is no valid JSON: {error}") from error
        return _from_dict(cls, values, where)


class RecordWriter:
    """Appends records to one process's file. At most one writer per file, checked with a lock.

    Args:
        folder: ``<run>/<benchmark>``; made if absent.
        rank: number of this process among those that share the run.

    Raises:
        FolderInUseError: another process writes this file at the moment.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.path = Path(folder) / f"records.rank{rank}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One lock per process of a run: they share the folder.
        self._lock = FolderLock(folder, "evaluation", name=f".rank{rank}{LOCK_NAME}")
        self._lock.__enter__()
        self._file: BinaryIO = open(self.path, "ab+")  # noqa: SIM115 - closed by close()
        self._drop_torn_line()
        sync_folder(self.path.parent)

    def append(self, *records: Record) -> None:
        """Write records and wait until they are on disk: when this returns, a kill or power cut cannot lose them."""
        lines = "".join(record.to_json() + "\n" for record in records)
        self._file.write(lines.encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and give up the lock."""
        if not self._file.closed:
            self._file.close()
            self._lock.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        """Cut off what a killed process left after the last line break."""
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            self._file.truncate(complete)


def read_records(folder: str | Path) -> list[Record]:
    """All records of ``<run>/<benchmark>``, finished or not, each item once, in the benchmark's order.

    Where an item was written more than once (tried again, or given to two processes), the first with a reply counts:
    ``records.jsonl`` first, then the files of rank 0, 1, ... A last line without a line break is still being written
    and is left out.

    Raises:
        ValueError: a line is no record (file and line are named), or there is no file of records.
    """
    folder = Path(folder)
    paths = record_files(folder)
    if not paths:
        raise ValueError(f"{folder}: holds no records ({RECORDS_FILE} or records.rank*.jsonl)")
    found: dict[str, Record] = {}
    for path in paths:
        # Split at line feeds alone: JSON lines may hold other line separators.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            record = Record.from_json(line, f"{path}: line {number}")
            earlier = found.get(record.id)
            if earlier is None or (earlier.failure is not None and record.failure is None):
                found[record.id] = record
    return in_order(found.values())


def done_ids(folder: str | Path) -> set[str]:
    """Ids of the items that have a reply, over all processes' files; a resumed run leaves them out."""
    if not record_files(Path(folder)):
        return set()
    return {record.id for record in read_records(folder) if record.failure is None}


def write_records(folder: str | Path, records: Iterable[Record]) -> Path:
    """Write ``records.jsonl`` whole or not at all, in the benchmark's order; return its path."""
    path = Path(folder) / RECORDS_FILE
    write_atomic(path, "".join(record.to_json() + "\n" for record in in_order(records)).encode("ascii"))
    return path


def merge_records(folder: str | Path) -> list[Record]:
    """Gather all processes' files into ``records.jsonl`` (call on one process, after all have finished)."""
    records = read_records(folder)
    write_records(folder, records)
    return records


def in_order(records: Iterable[Record]) -> list[Record]:
    """Records in the benchmark's own order."""
    return sorted(records, key=lambda record: (record.index, record.id))


def record_files(folder: Path) -> list[Path]:
    """The record files of a folder: ``records.jsonl``, then rank 0, 1, 2, ..."""
    ranks = sorted((int(match[1]), path) for path in folder.glob("*") if (match := _RANK_FILE.fullmatch(path.name)))
    merged = folder / RECORDS_FILE
    return [merged] * merged.is_file() + [path for _, path in ranks]


def benchmark_folders(run: str | Path) -> list[Path]:
    """The benchmarks' folders of a run, by name; a benchmark's own folder stands for itself.

    Raises:
        ValueError: there is none.
    """
    run = Path(run)
    if (run / RUN_FILE).is_file():
        return [run]
    folders = sorted(path.parent for path in run.glob(f"*/{RUN_FILE}"))
    if not folders:
        raise ValueError(f"{run}: is no evaluation run (no <benchmark>/{RUN_FILE} in it)")
    return folders


def _from_dict(cls: type, values: Any, where: str) -> Any:
    """An instance of a data class from JSON values, refusing unknown and missing keys."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must be a JSON object")
    fields = dataclasses.fields(cls)
    unknown: Sequence[str] = sorted(set(values) - {item.name for item in fields})
    if unknown:
        raise ValueError(f"{where}: has unknown keys {', '.join(unknown)}")
    missing = [
        item.name
        for item in fields
        if item.name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: lacks the keys {', '.join(missing)}")
    return cls(**values)
