"""Annotation files to samples, and one row to its sample."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from avrt.data.annotations.choices import AnswerBase, gold_index, read_options, split_question
from avrt.data.annotations.files import Row, is_untyped, iterate_rows
from avrt.data.annotations.forms import MEDIA, Form, find_form, mapped_form
from avrt.data.annotations.media_names import Embedded, media_name, write_embedded
from avrt.data.annotations.music_avqa import PLACEHOLDER, Pools, answers_by_question
from avrt.data.annotations.rows import RowError, RowReason
from avrt.sample import LeftOut, Sample, check_key


@dataclass(frozen=True)
class ReadOptions:
    """How the rows of a file are read.

    Attributes:
        split: the split of every sample.
        fields: ``question=prompt,options=choices,...`` for rows in no known form; see `forms.mapped_form`.
        answer_base: 0 or 1, the number of the first option where answers are numbers; ``letter`` where they are
            letters and options may be letters too; None for numbers from 0, letters or texts.
        dataset_split: which split of a `datasets` folder that has several.
        max_bad_rows: refuse a file of which more than this share of the rows is faulty. 0 refuses the first one.
        media_folder: where media that lie in the rows themselves are written; None refuses such rows.
    """

    split: str = "train"
    fields: str | None = None
    answer_base: AnswerBase | None = None
    dataset_split: str | None = None
    max_bad_rows: float = 0.0
    media_folder: Path | None = None

    def __post_init__(self) -> None:
        if not self.split.strip():
            raise ValueError("split: must be a name, such as train, is blank")
        if self.answer_base not in (None, *get_args(AnswerBase)):
            raise ValueError(f"answer_base: must be 0, 1 or letter, got {self.answer_base}")
        if not 0 <= self.max_bad_rows <= 1:
            raise ValueError(f"max_bad_rows: must be a share from 0 to 1, got {self.max_bad_rows}")


@dataclass(frozen=True)
class Annotations:
    """The questions of a file.

    Attributes:
        form: the form it was read in.
        has_reasoning: whether the form is for fine-tuning.
        samples: the questions, without media; `source` is a path below the folder of videos. A row's reasoning is in
            `trace`, unchecked (see `avrt.traces.published.filter_reasoning`).
        left_out: the other rows.
    """

    form: str
    has_reasoning: bool
    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...]


def read_annotations(path: str | Path, options: ReadOptions | None = None) -> Annotations:
    """Read a file or folder of annotations, in any form of `forms.FORMS` or mapped by `options.fields`.

    Rows that are no multiple-choice question by their data set's own design (open-ended ones) are left out and
    counted. Faulty rows too, up to `options.max_bad_rows`.

    Raises:
        ValueError: a file that cannot be read, whose first row is in no known form or incomplete, with too many faulty
            rows, or without a question. The message names file and row, the form, and the keys found.
    """
    path, options = Path(path), options or ReadOptions()
    rows = iter(iterate_rows(path, options.dataset_split))
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path}: holds no questions")
    place = f"{path}: entry 1"
    form = mapped_form(options.fields, first, place) if options.fields else find_form(first, place)
    rows = itertools.chain([first], rows)
    pools: Pools = {}
    if form.name == "MUSIC-AVQA":
        rows = iter(kept := list(rows))
        pools = answers_by_question(kept)
    reader = _Reader(path, form, options, pools)
    for number, row in enumerate(rows, start=1):
        reader.add(row, number)
    return reader.result(number)


def sample_of(
    row: Row, *, split: str, id: str | None = None, needs_media: bool = False, answer_base: AnswerBase | None = None
) -> Sample:
    """One row in any known form as a sample, such as the ``.json`` member of a shard.

    Args:
        split: the sample's split.
        id: the sample's id; None for the row's own.
        needs_media: whether the row must name its media; otherwise `source` may be empty.
        answer_base: see `ReadOptions`.

    Raises:
        ValueError: the row is in no known form (`FormError`), or faulty (`RowError`).
    """
    form = find_form(row if id is None else {"id": id, **row}, "the row", needs_media)
    return _to_sample(row, form, ReadOptions(split=split, answer_base=answer_base), {}, id=id, needs_media=needs_media)


class _Reader:
    """Collects the samples of one file, and its other rows."""

    def __init__(self, path: Path, form: Form, options: ReadOptions, pools: Pools) -> None:
        self.path, self.form, self.options, self.pools = path, form, options, pools
        self.untyped = is_untyped(path)
        self.samples: list[Sample] = []
        self.left_out: list[LeftOut] = []
        self.faults: list[str] = []
        self._seen: set[str] = set()

    def add(self, row: Row, number: int) -> None:
        try:
            if missing := self.form.missing(row):
                raise RowError(RowReason.MISSING_KEY, f"has no {', '.join(missing)}")
            sample = _to_sample(row, self.form, self.options, self.pools, number=number, untyped=self.untyped)
            if sample.id in self._seen:
                raise RowError(
                    RowReason.BAD_ID, "occurs twice; every question needs an id (`--fields id=` numbers the rows)"
                )
            self._seen.add(sample.id)
            self.samples.append(sample)
        except RowError as error:
            key = next((row[name] for name in self.form.keys.get("id", ()) if name in row), None)
            if error.reason.is_fault:
                self.faults.append(f"entry {number}{'' if key is None else f' (id {key!r})'}: {error.detail}")
                if not self.options.max_bad_rows:
                    raise ValueError(f"{self.path}: {self._as_read()}: {self.faults[0]}") from error
            source = next((row[name] for kind in MEDIA for name in self.form.keys.get(kind, ()) if name in row), "")
            self.left_out.append(
                LeftOut(
                    id=f"row {number}" if key is None else str(key),
                    source=source if isinstance(source, str) else "",
                    reason=error.reason.value,
                    detail=error.detail,
                )
            )

    def result(self, rows: int) -> Annotations:
        faulty = Counter(entry.reason for entry in self.left_out if RowReason(entry.reason).is_fault)
        if len(self.faults) > self.options.max_bad_rows * rows:
            reasons = ", ".join(f"{reason} {count}" for reason, count in faulty.most_common())
            raise ValueError(
                f"{self.path}: {self._as_read()}: {len(self.faults)} of {rows} rows are faulty ({reasons}), more than "
                f"the allowed share of {self.options.max_bad_rows:g}; for example {self.faults[0]}. If such rows may "
                "be left out, raise max_bad_rows"
            )
        if not self.samples:
            reasons = ", ".join(f"{name} {n}" for name, n in Counter(x.reason for x in self.left_out).most_common())
            raise ValueError(
                f"{self.path}: {self._as_read()}: holds no questions: none of {rows} rows is multiple choice "
                f"({reasons}); for example {self.left_out[0].detail}"
            )
        return Annotations(self.form.name, self.form.has_reasoning, tuple(self.samples), tuple(self.left_out))

    def _as_read(self) -> str:
        return f"read in the form of {self.form.name}"


def _to_sample(
    row: Row,
    form: Form,
    options: ReadOptions,
    pools: Pools,
    *,
    number: int = 1,
    id: str | None = None,
    untyped: bool = False,
    needs_media: bool = True,
) -> Sample:
    values, extra = _plain(row, form, pools)
    # pandas writes NaN for an empty cell.
    values = {name: None if _is_nan(value) else value for name, value in values.items()}
    key = _key(values.get("id"), number) if id is None else check_key(id)
    question, choices = values.get("question"), values.get("options")
    if not isinstance(question, str) or not question.strip():
        raise RowError(RowReason.BAD_QUESTION, f"the question must be a text, got {question!r}")
    if gap := PLACEHOLDER.search(question):
        raise RowError(
            RowReason.BAD_QUESTION,
            f"the question holds the placeholder {gap[0]!r}; put words of `templ_values` there",
        )
    if choices is None or choices in ("", []):
        parts = split_question(question)
        if parts is None:
            raise RowError(RowReason.BAD_OPTIONS, "there are no options, nor lines such as 'A. dog' in the question")
        question, choices = parts
    offered = read_options(choices)
    trace = values.get("reasoning")
    if trace is not None and not isinstance(trace, str):
        raise RowError(RowReason.BAD_REASONING, f"the reasoning must be a text, got {trace!r}")
    answer = gold_index(values.get("answer"), offered, options.answer_base, untyped=untyped)
    source, audio = _media(values, form, options, needs_media)
    return Sample(
        id=key,
        question=question,
        options=offered.texts,
        answer=answer,
        split=options.split,
        question_type=_text(values.get("question_type")),
        modality=_text(values.get("modality")),
        source=source,
        audio_source=audio,
        trace=trace or None,
        extra=extra,
    )


def _plain(row: Row, form: Form, pools: Pools) -> tuple[Row, Row]:
    """A row's fields, and its other keys."""
    if form.convert is not None:
        values = form.convert(row, pools)
        values |= {name: _cell(row, key) for name, key in form.mapped.items()}
        return values, _json_values(values.pop("extra", {}))
    values, used = {}, set()
    for name, keys in form.keys.items():
        for key in keys:
            if key in row:
                values[name] = row[key]
                used.add(key)
                break
            if "+" in key:
                values[name] = _cell(row, key)
                used |= set(key.split("+"))
    return values, _json_values({name: value for name, value in row.items() if name not in used})


def _cell(row: Row, key: str) -> Any:
    """The value of a key, or those of columns that are joined by ``+``."""
    return _columns(row, key.split("+")) if "+" in key and key not in row else row.get(key)


def _columns(row: Row, columns: list[str]) -> list[Any]:
    """The values of several columns; the last ones may be empty, as for a question with fewer options."""
    cells = [row.get(column) for column in columns]
    while cells and cells[-1] is None:
        cells.pop()
    if None in cells:
        raise RowError(RowReason.BAD_OPTIONS, f"has no `{columns[cells.index(None)]}`, but columns after it")
    return cells


def _key(value: Any, number: int) -> str:
    if value is None:
        return f"row-{number:06d}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RowError(RowReason.BAD_ID, "`id` must be a whole number or a text")
    try:
        return check_key(str(value))
    except ValueError as error:
        raise RowError(RowReason.BAD_ID, f"{error}; `--fields id=` numbers the rows instead") from error


def _media(values: Row, form: Form, options: ReadOptions, needs_media: bool) -> tuple[str, str]:
    """`source` and `audio_source` of a sample, see `Sample`."""
    found: dict[str, str] = {}
    for kind in MEDIA:
        name = media_name(values.get(kind), " or ".join(form.keys.get(kind, (kind,))))
        if isinstance(name, Embedded):
            if options.media_folder is None:
                raise RowError(RowReason.BAD_MEDIA, f"the {kind} lies in the row itself, with no folder to write it to")
            name = write_embedded(name, options.media_folder)
        if name is not None:
            found[kind] = name
    if "video" in found and "image" in found:
        raise RowError(RowReason.BAD_MEDIA, f"there are a video {found['video']!r} and an image {found['image']!r}")
    if not found and needs_media:
        raise RowError(RowReason.BAD_MEDIA, f"there is no {', '.join(MEDIA[:-1])} or {MEDIA[-1]}")
    audio = found.get("audio", "")
    return found.get("video") or found.get("image") or audio, audio


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _json_values(row: Row) -> Row:
    """Values that JSON can hold; bytes are left away, and what else a table holds (dates) becomes text."""
    if all(isinstance(value, str | int | None) for value in row.values()):
        return row
    kept = {name: value for name, value in row.items() if not _has_bytes(value)}
    result: Row = json.loads(json.dumps(kept, default=str, allow_nan=True), parse_constant=lambda _: None)
    return result


def _has_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return _has_bytes_any(value.values())
    return _has_bytes_any(value) if isinstance(value, list) else isinstance(value, bytes | bytearray)


def _has_bytes_any(values: Iterable[Any]) -> bool:
    return any(_has_bytes(value) for value in values)
