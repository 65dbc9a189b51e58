"""RivaBench, StandUp and Academic: five options; a video and its audio file per clip.

The authors publish lists in LLaVA's format (``video``, ``audio``, ``conversations``: a human turn with the question and
its options, a reply that is the gold letter), one file per scenario. A plain format is read too: ``video``,
``question``, ``options``, ``answer``, and ``scenario`` where one file has both. They publish no script: the strict
score is used.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    entries_of,
    gold_by_letter,
    relative_path,
)
from avrt.files.json_rows import read_json_rows
from avrt.sample import LETTERS, Sample
from avrt.text.option_labels import strip_labels

_PLACEHOLDER = re.compile(r"<(?:image|video|audio|speech)>\s*")
_OPTION_LINE = re.compile(r"\(?([A-Z])\s*[.):]\s*\S")
_CHOOSE_FROM = re.compile(r"\s*(?:please\s+)?choose\s+from:?\s*\\?$|\\+$", re.IGNORECASE)


def read(path: Path, scenario: str) -> list[Entry]:
    """Read the questions of one scenario. They have no id; it is composed of the clip's name and their number within
    it."""
    counts: Counter[str] = Counter()

    def convert(row: dict[str, Any], _: int) -> Entry:
        question, labelled, answer = _conversation(row) if "conversations" in row else _plain(row)
        options = strip_labels(labelled)
        video = relative_path(row["video"])
        audio = relative_path(row["audio"]) if row.get("audio") else str(Path(video).with_suffix(".wav"))
        source = re.sub(r"[^A-Za-z0-9_-]", "_", str(Path(video).with_suffix("")))
        number = counts[source]
        counts[source] += 1
        return Entry(
            sample=Sample(
                id=f"{source}-{number}",
                question=question,
                options=options,
                answer=gold_by_letter(answer, options),
                split="test",
                source=video,
            ),
            media={"video": video},
            optional_media={"audio": audio},
        )

    rows = [row for row in read_json_rows(path) if str(row.get("scenario", scenario)).lower() == scenario.lower()]
    return entries_of(path, rows, convert)


def _plain(row: dict[str, Any]) -> tuple[str, list[str], Any]:
    return row["question"], row["options"], row["answer"]


def _conversation(row: dict[str, Any]) -> tuple[str, list[str], Any]:
    """Question, labelled options and gold letter of a human turn and the reply to it."""
    turns = row["conversations"]
    if len(turns) < 2:
        raise ValueError(f"`conversations` needs a question and its answer, got {len(turns)} turns")
    lines = [line.strip() for line in _PLACEHOLDER.sub("", turns[0]["value"]).strip().splitlines()]
    question: list[str] = []
    options: list[str] = []
    for line in lines:
        match = _OPTION_LINE.match(line)
        if match and match[1] == LETTERS[len(options)]:
            options.append(line.rstrip("\\").rstrip())
        elif not options:
            question.append(line)
        # Text after the options says how to answer; the project's own prompt does that.
    text = _CHOOSE_FROM.sub("", "\n".join(question)).strip()
    if not options:
        raise ValueError(f"found no options (lines such as 'A. ...') in {turns[0]['value']!r}")
    answer = str(turns[1]["value"]).strip()
    match = _OPTION_LINE.match(answer)
    return text, options, match[1] if match else answer


def _benchmark(scenario: str, items: int, names: tuple[str, ...]) -> Benchmark:
    return Benchmark(
        name=f"rivabench_{scenario.lower()}",
        title=f"RivaBench {scenario}",
        items=items,
        group="audio_visual",
        folders=("rivabench", "RivaBench"),
        annotation_files=(*(f"{name}.json" for name in names), "questions.json"),
        read=partial(read, scenario=scenario),
        official=None,
        official_source="ours: the authors publish no script",
    )


STANDUP = _benchmark("StandUp", 2_128, ("standup", "StandUp", "standup_test", "rivabench_standup"))
ACADEMIC = _benchmark("Academic", 1_912, ("academic", "Academic", "academic_test", "rivabench_academic"))
