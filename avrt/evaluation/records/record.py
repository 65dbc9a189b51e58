"""One item of an evaluation run, and its JSON line."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from avrt.evaluation.records.json_fields import from_dict
from avrt.files.json_text import decode_json

DERIVED_FIELDS = ("answer", "reason", "correct_strict", "correct_official", "error_type")
"""The fields of a `Record` that scoring fills in; None until then."""

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
            path or several; or ``shard`` (a tar file) and ``key`` (its sample).
        text: the reply as decoded, unchanged; empty where there is none.
        finish_reason: ``stop`` or ``length``; ``missing`` if nothing was generated.
        failure: why there is no reply (``missing_media``, ``server_error``, ...), else None. Such an item counts as
            wrong, with this as its reason, and is repeated when the run is resumed.
        failure_detail: one line for the reader, with the file and the error.
        prompt_tokens, completion_tokens: lengths in tokens, None where unknown.
        latency_seconds: time of the reply, None where unknown. Never part of the metrics.
        answer: the letter that the strict parser read, or None.
        reason: the parser's reason code (`avrt.text.answers.Reason`), or `failure`.
        correct_strict: right by this project's rule.
        correct_official: right by the benchmark's own rule; None where that rule leaves the item out of its
            denominator.
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
    answer: str | None = None
    reason: str | None = None
    correct_strict: bool | None = None
    correct_official: bool | None = None
    error_type: ErrorType | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        media = {kind: tuple(path) if isinstance(path, list) else path for kind, path in self.media.items()}
        object.__setattr__(self, "media", media)

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
            ValueError: not a JSON object, or unknown or missing keys; names `where` (file and line).
        """
        try:
            values = decode_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: is not valid JSON: {error}") from error
        return from_dict(cls, values, where)
