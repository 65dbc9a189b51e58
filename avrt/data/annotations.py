"""Annotation files of AVQA and AVRT-20K to samples.

AVQA gives ``id, video_name, video_id, question_text, multi_choice, answer (an index), question_relation,
question_type``; AVRT-20K gives ``question, choices, answer (a text), av_reasoning`` for the same things. Both forms
are read, even mixed in one file, from a JSON array or JSON lines.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from avrt.files.json_rows import read_json_rows
from avrt.sample import LETTERS, Sample, check_key
from avrt.text.option_labels import unlabeled

ALIASES = {
    "question": ("question_text", "question"),
    "options": ("multi_choice", "choices"),
}
KNOWN_KEYS = frozenset(
    {"id", "video_name", "question_relation", "question_type", "answer", "av_reasoning"}
    | {name for names in ALIASES.values() for name in names}
)

REQUIRED = {"id": ("id",), "video_name": ("video_name",), **ALIASES, "answer": ("answer",)}
"""The fields that every entry needs, each with its possible keys."""

FORM = ", ".join(" or ".join(f"`{name}`" for name in names) for names in REQUIRED.values())

OTHER_FORMS = {
    "MUSIC-AVQA's": {"question_content", "templ_values"},
    "EchoInk's or Video-R1's": {"problem", "solution"},
    "ShareGPT's": {"conversations"},
    "a chat log's": {"messages"},
}
"""Other projects' forms of annotations, by their characteristic keys."""

PLACEHOLDER = re.compile(r"<(?:Object|LR|FL|TH)\w*>")
"""MUSIC-AVQA's placeholders for `templ_values` in questions."""


def read_avqa(path: str | Path, *, split: str) -> list[Sample]:
    """Read one annotation file; the samples have no media yet.

    `source` is the clip's name, see `avrt.media.clip_files`. Options that are null or numbers become their JSON text
    ("null", "3"). Options that all begin with their own letter ("A. dog") lose it, because prompts add it. A number as
    answer is an option's index, from 0. A text as answer is an option's text, or else its letter; where options came
    with letters, an answer that could be either is refused. `av_reasoning` becomes `trace`. Unknown keys are kept in
    `extra`.

    Args:
        split: the split of every sample (AVQA has one file per split).

    Raises:
        ValueError: a blank split, or an entry that is not a question, named by file and id: a missing key (the message
            lists the keys found), a gold answer that is not an option, a duplicate id, an id that cannot be a key.
    """
    if not split.strip():
        raise ValueError("split: must be a name, such as train, is blank")
    path = Path(path)
    samples: list[Sample] = []
    seen: set[str] = set()
    for number, record in enumerate(read_json_rows(path), start=1):
        _check_form(record, f"{path}: entry {number}")
        try:
            sample = _to_sample(record, split)
        except ValueError as error:
            raise ValueError(f"{path}: id {record['id']!r}: {error}") from error
        if sample.id in seen:
            raise ValueError(f"{path}: id {record['id']!r} occurs twice; every question needs an id of its own")
        seen.add(sample.id)
        samples.append(sample)
    if not samples:
        raise ValueError(f"{path}: holds no questions")
    return samples


def _check_form(record: dict[str, Any], entry: str) -> None:
    """Refuse an entry that lacks keys; the message lists its keys, since the file may be in another form."""
    missing = [names for names in REQUIRED.values() if not any(name in record for name in names)]
    if not missing:
        return
    number = f" (id {record['id']!r})" if "id" in record else ""
    lacking = ", ".join(" or ".join(f"`{name}`" for name in names) for names in missing)
    found = ", ".join(f"`{name}`" for name in list(record)[:12]) or "none"
    form = next((name for name, keys in OTHER_FORMS.items() if keys <= record.keys()), None)
    whose = f", which is {form} form; convert it" if form else ""
    raise ValueError(
        f"{entry}{number} has no {lacking}; expected AVQA's form with the keys {FORM}, found {found}{whose}"
    )


def _to_sample(record: dict[str, Any], split: str) -> Sample:
    number = record["id"]
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise ValueError("`id` must be a number or a text")
    key = check_key(str(number))
    question = _first(record, "question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question must be a text, got {question!r}")
    if placeholder := PLACEHOLDER.search(question):
        raise ValueError(
            f"the question holds the placeholder {placeholder[0]!r}; put the words of `templ_values` there"
        )
    choices = _first(record, "options")
    if not isinstance(choices, list):
        raise ValueError(f"the options must be a list, got {choices!r}")
    given = tuple(option if isinstance(option, str) else json.dumps(option) for option in choices)
    options = unlabeled(given)
    name = record.get("video_name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"`video_name` must be the clip's name as a text, got {name!r}")
    if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise ValueError(f"`video_name` must be a plain file name without a folder, got {name!r}")
    trace = record.get("av_reasoning")
    if trace is not None and not isinstance(trace, str):
        raise ValueError(f"`av_reasoning` must be a text, got {trace!r}")
    return Sample(
        id=key,
        question=question,
        options=options,
        answer=_answer_index(record["answer"], options, given),
        split=split,
        question_type=_text(record, "question_type"),
        modality=_text(record, "question_relation"),
        source=name,
        trace=trace or None,
        extra={name: value for name, value in record.items() if name not in KNOWN_KEYS},
    )


def _first(record: dict[str, Any], field: str) -> Any:
    return next(record[name] for name in ALIASES[field] if name in record)


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    return "" if value is None else str(value)


def _answer_index(answer: Any, options: tuple[str, ...], given: tuple[str, ...]) -> int:
    """The index of the gold option, given as an index (AVQA) or as a text (AVRT-20K).

    Args:
        options: the options' texts.
        given: the options as written in the file, with their letters if they have any.
    """
    listing = ", ".join(repr(option) for option in options)
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(options):
            raise ValueError(
                f"the gold answer {answer} is not an index of the {len(options)} options; indices begin at 0"
            )
        return answer
    if isinstance(answer, str):
        text = answer.strip()
        by_letter = LETTERS.index(text) if len(text) == 1 and text in LETTERS[: len(options)] else None
        if by_letter is not None and given != options:
            if any(option == text for index, option in enumerate(options) if index != by_letter):
                raise ValueError(f"the gold answer {answer!r} is the letter of one option and the text of another")
            return by_letter
        for texts in (options, given):
            matches = [index for index, option in enumerate(texts) if option == answer]
            matches = matches or [index for index, option in enumerate(texts) if option.strip() == text]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise ValueError(f"the gold answer {answer!r} is more than once among the options {listing}")
        if by_letter is not None:
            return by_letter
        if re.fullmatch(r"[A-Z](\s*[,;/&]\s*[A-Z])+", text):
            raise ValueError(f"the gold answer {answer!r} names several options; a question needs exactly one")
    raise ValueError(
        f"the gold answer {answer!r} is not one of the options {listing}; give an option's text, its letter, or its "
        "index from 0 as a number"
    )
