"""Files of replies that other programs write.

Read are lines of ``{"id": ..., "text": ...}``; sample files of lm-evaluation-harness (``doc_id``, ``doc``, ``resps``)
and of lmms-eval (``doc_id``, ``input``, ``filtered_resps``, and ``resps`` only where the two differ); and Video-MME's
results template (videos with ``questions``, each with a ``response``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks import Item
from avrt.evaluation.benchmarks.videomme import questions_of
from avrt.files.json_rows import read_json_rows


@dataclass(frozen=True)
class Prediction:
    """One reply of a file.

    Attributes:
        text: the reply, unchanged.
        finish_reason: ``stop`` or ``length``.
        prompt_tokens, completion_tokens: lengths in tokens, None where the file has none.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class PredictionFile:
    """The replies of a file.

    Attributes:
        replies: item id to its replies, one or more.
    """

    replies: Mapping[str, tuple[Prediction, ...]]

    @property
    def repeats(self) -> int:
        """The largest number of replies to one item."""
        return max(map(len, self.replies.values()))

    def only(self, repeat: int) -> PredictionFile:
        """Reply number `repeat` (from 1) alone, to every item that has as many.

        Raises:
            ValueError: no item has as many.
        """
        if not 1 <= repeat <= self.repeats:
            raise ValueError(f"--repeat: must be 1 to {self.repeats}, the file's replies per question; got {repeat}")
        chosen = {item: replies[repeat - 1 : repeat] for item, replies in self.replies.items()}
        return PredictionFile({item: replies for item, replies in chosen.items() if replies})


def read_predictions(path: str | Path, items: Sequence[Item]) -> PredictionFile:
    """The replies of a file, by item id.

    A sample of a harness belongs to the item that ``doc.id`` names, or else to item number ``doc_id`` in the
    benchmark's order; the sample must then contain its question. A reply may occur again (a harness writes a sample
    once per filter), but not a different one to the same item.

    Raises:
        ValueError: an entry has none of the formats, belongs to no item, or contradicts an earlier one; names file and
            entry.
    """
    path = Path(path)
    by_id = {item.sample.id: item for item in items}
    by_place = {item.index: item for item in items}
    found: dict[str, tuple[Prediction, ...]] = {}
    rows = read_json_rows(path, trailing_commas=True)
    for number, row in enumerate(rows, start=1):
        where = f"{path}: entry {number}"
        for item_id, replies in _replies(row, by_id, by_place, path, where):
            if item_id not in by_id:
                raise ValueError(
                    f"{where}: {item_id!r} is not an item of this benchmark, whose ids are like {items[0].sample.id!r} "
                    "(docs/evaluation.md, section 4)"
                )
            if found.setdefault(item_id, replies) != replies:
                raise ValueError(f"{where}: an earlier entry gives another reply to {item_id!r}")
    if not found:
        raise ValueError(f"{path}: has no predictions; write a line per question, see docs/evaluation.md, section 4")
    return PredictionFile(found)


def _replies(
    row: dict[str, Any], by_id: Mapping[str, Item], by_place: Mapping[int, Item], path: Path, where: str
) -> Iterator[tuple[str, tuple[Prediction, ...]]]:
    if "questions" in row:
        for question in questions_of(path, [row]):
            yield from _template_reply(question, by_id, where)
    elif "resps" in row or "filtered_resps" in row:
        yield _sample_item(row, by_id, by_place, where), _sample_replies(row, where)
    elif "id" in row and "text" in row:
        if not isinstance(row["text"], str):
            raise ValueError(
                f"{where}: `text` of {str(row['id'])!r} must be a text, got {json.dumps(row['text'])[:80]}; write "
                '"" for an empty reply, or leave the entry out where there was none'
            )
        yield str(row["id"]), (Prediction(row["text"], _finish_reason(row, where)),)
    else:
        raise ValueError(
            f"{where}: needs `id` and `text`; `doc_id` with `resps` or `filtered_resps`; or `questions`, each with a "
            "`response`"
        )


def _template_reply(
    question: dict[str, Any], by_id: Mapping[str, Item], where: str
) -> Iterator[tuple[str, tuple[Prediction, ...]]]:
    """The reply to a question of Video-MME's template; none if it has no ``response``."""
    item_id, response = str(question.get("question_id")), question.get("response")
    item = by_id.get(item_id)
    if item is not None and question.get("question") != item.sample.question:
        raise ValueError(
            f"{where}: {item_id!r} has another question than here; the file is of another version of the benchmark"
        )
    if response is not None and not isinstance(response, str):
        raise ValueError(f"{where}: `response` of {item_id!r} must be a text")
    if response is not None:
        yield item_id, (Prediction(response),)


def _sample_item(row: dict[str, Any], by_id: Mapping[str, Item], by_place: Mapping[int, Item], where: str) -> str:
    doc = row.get("doc")
    if isinstance(doc, dict) and str(doc.get("id")) in by_id:
        named = by_id[str(doc["id"])].sample
        if "question" in doc and doc["question"] != named.question:
            raise ValueError(
                f"{where}: `doc.id` is {named.id!r}, which has another question here; the file is of another "
                "benchmark or version"
            )
        return named.id
    place = row.get("doc_id")
    item = by_place.get(place) if isinstance(place, int) and not isinstance(place, bool) else None
    if item is None:
        raise ValueError(
            f"{where}: neither `doc.id` nor `doc_id` ({place!r}) names an item of this benchmark; `doc_id` must be the "
            "item's number, from 0"
        )
    sample = item.sample
    shown = json.dumps([doc, row.get("arguments"), row.get("input")], ensure_ascii=False)
    if json.dumps(sample.question.strip(), ensure_ascii=False)[1:-1] not in shown:
        raise ValueError(
            f"{where}: `doc_id` {place} is item {sample.id!r} here, whose question is not in the sample; "
            "the file has another order: convert it to lines of {id, text}"
        )
    if isinstance(row.get("input"), str) and not _in_order(row["input"], sample.question, sample.options):
        raise ValueError(
            f"{where}: the prompt (`input`) does not list the options of item {sample.id!r} in this benchmark's order, "
            "so that a letter may name another option; convert the file to lines of {id, text} with options' texts"
        )
    return sample.id


def _in_order(prompt: str, question: str, options: Sequence[str]) -> bool:
    """Whether a prompt has the question and then all options, one after the other."""
    place = prompt.find(question.strip())
    for option in options:
        place = prompt.find(option.strip(), place)
        if place < 0:
            return False
        place += len(option.strip())
    return True


def _sample_replies(row: dict[str, Any], where: str) -> tuple[Prediction, ...]:
    """The replies of a sample: the raw ones, which lmms-eval leaves out if they are the filtered ones.

    One reply is written as ``"text"``, ``["text"]`` or ``[["text"]]``, repeats as lists of either.
    """
    name = "resps" if "resps" in row else "filtered_resps"
    texts = _texts(row[name])
    if not texts or None in texts:
        raise ValueError(f"{where}: `{name}` must have a reply as text, or a list of them")
    counts = row.get("token_counts")
    tokens = counts if isinstance(counts, list) and len(counts) == len(texts) else [None] * len(texts)
    return tuple(
        Prediction(
            str(text),
            prompt_tokens=_count(count, "input_tokens"),
            completion_tokens=_count(count, "output_tokens"),
        )
        for text, count in zip(texts, tokens, strict=True)
    )


def _texts(value: Any) -> list[str | None]:
    """All texts of nested lists; None for anything else."""
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value if isinstance(value, str) else None]


def _count(tokens: Any, name: str) -> int | None:
    value = tokens.get(name) if isinstance(tokens, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


def _finish_reason(row: dict[str, Any], where: str) -> str:
    reason = row.get("finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise ValueError(f"{where}: `finish_reason` must be 'stop' or 'length', got {reason!r}")
    return reason
