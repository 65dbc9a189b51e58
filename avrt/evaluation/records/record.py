"""One item of an evaluation run, and its JSON line."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from avrt.evaluation.records.json_fields import from_dict
from avrt.files.json_text import decode_json

DERIVED_FIELDS = ("answer", "reason", "correct_strict", "correct_official", "correct_official_answer", "error_type")
"""The fields of a `Record` that scoring fills in; None until then."""

_TEXTS = ("id", "benchmark", "question", "gold", "text", "finish_reason")

MAX_COUNT = 2**53
"""Highest count of tokens; above it floating-point numbers are not exact."""

Variant = tuple[int, int | None]
"""One of the replies to an item: number of the sample, and the curve's thinking budget or None."""

FIRST: Variant = (0, None)
"""The reply that an item's scores are of; the only one unless a run samples several or measures a curve."""

ErrorType = Literal["none", "instruction_format", "logic", "no_reply"]


@dataclass(frozen=True)
class Record:
    """One item of one run. The keys of the JSON line have the order of the fields.

    Attributes:
        id: the item's id, unique in its benchmark.
        benchmark: as in `RunInfo`.
        index: position of the item in the benchmark's own order, from 0.
        question: the question's text.
        options: the options' texts without letters.
        gold: letter of the right option.
        official_gold: the answer that the benchmark's own scorer compares with, if it is not `gold` (an option's text).
        categories: the benchmark's categories of the item, name to value.
        media: the item's media: paths relative to `RunInfo.data_root` under ``video``, ``audio``, ``image``, each one
            path or several; or ``shard`` (a tar file), ``key`` (its sample) and ``clip`` (name of the clip that the
            sample was made from, where it is known).
        text: the reply as decoded, unchanged; empty where there is none.
        finish_reason: ``stop`` or ``length``; ``missing`` if nothing was generated.
        failure: why there is no reply (``missing_media``, ``server_error``, ...), else None. Such an item counts as
            wrong, with this as its reason, and is repeated when the run is resumed.
        failure_detail: one line for the reader, with the file and the error.
        prompt_tokens, completion_tokens: lengths in tokens, None where unknown.
        latency_seconds: time of the reply, None where unknown. Never part of the metrics.
        repeat: number of the reply among those sampled for the same item, from 0.
        thinking_budget: in a further reply for the curve of budgets, the tokens after which its thinking was closed;
            None in the run's own replies.
        answer: the letter that the strict parser read, or None.
        reason: the parser's reason code (`avrt.text.answers.Reason`), or `failure`.
        correct_strict: right by this project's rule.
        correct_official: right by the benchmark's own rule; None where that rule leaves the item out of its
            denominator.
        correct_official_answer: likewise, where that rule reads the answer's text alone instead of the whole reply.
        error_type: ``none`` (right), ``instruction_format`` (no clear answer), ``logic`` (a clear wrong one), or
            ``no_reply`` (see `failure`).
    """

    id: str
    benchmark: str
    index: int
    question: str
    options: tuple[str, ...]
    gold: str
    official_gold: str | None = None
    categories: dict[str, str] = field(default_factory=dict)
    media: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    text: str = ""
    finish_reason: str = "stop"
    failure: str | None = None
    failure_detail: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_seconds: float | None = None
    repeat: int = 0
    thinking_budget: int | None = None
    answer: str | None = None
    reason: str | None = None
    correct_strict: bool | None = None
    correct_official: bool | None = None
    correct_official_answer: bool | None = None
    error_type: ErrorType | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if isinstance(self.media, dict):
            media = {kind: tuple(path) if isinstance(path, list) else path for kind, path in self.media.items()}
            object.__setattr__(self, "media", media)

    @property
    def variant(self) -> Variant:
        """Which of the item's replies this is."""
        return self.repeat, self.thinking_budget

    @property
    def clip(self) -> str:
        """Name of the clip that the item is about; items about the same clip are not independent."""
        found = (self.media.get(kind) for kind in ("clip", "video", "audio", "image", "key"))
        files = next((files for files in found if files), self.id)
        return files if isinstance(files, str) else " ".join(files)

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
            ValueError: not a JSON object, unknown or missing keys, or a value of another type; names `where` (file and
                line).
        """
        try:
            values = decode_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: is not valid JSON: {error}") from error
        record: Self = from_dict(cls, values, where)
        for name in _TEXTS:
            if not isinstance(getattr(record, name), str):
                raise ValueError(f"{where}: `{name}` must be text")
        if not _is_text_table(record.categories):
            raise ValueError(f"{where}: `categories` must be an object whose values are texts")
        if not _is_text_table(record.media, or_several=True):
            raise ValueError(f"{where}: `media` must be an object whose values are texts or lists of texts")
        if not all(isinstance(option, str) for option in record.options):
            raise ValueError(f"{where}: `options` must be a list of texts")
        for name in ("index", "prompt_tokens", "completion_tokens"):
            value = getattr(record, name)
            if value is not None and (not isinstance(value, int) or not 0 <= value <= MAX_COUNT):
                raise ValueError(f"{where}: `{name}` must be a whole number from 0 to 2^53")
        return record


def _is_text_table(table: Any, or_several: bool = False) -> bool:
    if not isinstance(table, dict):
        return False
    several = (value if or_several and isinstance(value, tuple) else (value,) for value in table.values())
    return all(isinstance(text, str) for texts in several for text in texts)
