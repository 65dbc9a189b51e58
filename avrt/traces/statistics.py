"""Statistics of a finished set of traces: the rows of the paper's Table 2 and Figure 0.B.4, and the filter's yield."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from avrt.storage.locations import join, shown
from avrt.text.answers import answer_body, first_think, is_formatted
from avrt.traces.config import TracesConfig
from avrt.traces.teacher_replies import TeacherReply

SPLITS = ("train", "val")

WORDS = "words and punctuation marks"
_PIECES = re.compile(r"\w+|[^\w\s]")


def token_counter(folder: str | None) -> tuple[Callable[[str], int], str]:
    """A function from text to its number of tokens, and the unit's name.

    Args:
        folder: a tokenizer as transformers saves it. Without one, words and single punctuation marks are counted,
            within a few percent of Qwen's tokens on English prose; use a tokenizer where exact numbers matter.

    Raises:
        ValueError: the folder has no tokenizer.
    """
    if folder is None:
        return (lambda text: len(_PIECES.findall(text))), WORDS
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"tokenizer: {folder} is not a folder; give a tokenizer saved by transformers, or null")
    from transformers import AutoTokenizer

    from avrt.config.remote_code import check_no_remote_code

    try:
        check_no_remote_code(path)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"tokenizer: {folder} has no tokenizer that transformers can load: {reason}; give another folder, or null"
        ) from error
    return (lambda text: len(tokenizer.encode(text, add_special_tokens=False))), f"tokens of {path.name}"


@dataclass
class SplitStatistics:
    """The traces of one split, added one by one.

    Attributes:
        formatted: traces of the form ``<think>...</think><answer>X</answer>``.
        think_tokens, answer_tokens: lengths of the two parts of each trace.
        durations: seconds of each clip.
        resolutions, question_types, letters, modalities: samples by value.
        sources: names of the clips.
    """

    formatted: int = 0
    think_tokens: list[int] = field(default_factory=list)
    answer_tokens: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    resolutions: Counter[str] = field(default_factory=Counter)
    question_types: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    sources: set[str] = field(default_factory=set)

    def add(self, record: dict[str, Any], trace: str, letter: str, count_tokens: Callable[[str], int]) -> None:
        """Count one trace.

        Args:
            record: the sample's JSON member.
            trace: its target text.
            letter: the answer that the target teaches.
            count_tokens: see `token_counter`.
        """
        self.formatted += is_formatted(trace)
        self.think_tokens.append(count_tokens(first_think(trace) or ""))
        body = answer_body(trace)
        self.answer_tokens.append(count_tokens(trace if body is None else body))
        clip = record["clip"]
        self.durations.append(float(clip["duration"]))
        self.resolutions[f"{clip['width']}x{clip['height']}"] += 1
        self.question_types[record["question_type"] or "unknown"] += 1
        self.letters[letter] += 1
        self.modalities[record["modality"] or "unknown"] += 1
        self.sources.add(record["source"])

    def summary(self) -> dict[str, Any]:
        """JSON values; shares are in percent, means come with the standard deviation (n - 1)."""
        total = len(self.think_tokens)
        return {
            "samples": total,
            "clips": len(self.sources),
            "format_compliance": _percent(self.formatted, total),
            "think_tokens": mean_and_deviation(self.think_tokens),
            "answer_tokens": mean_and_deviation(self.answer_tokens),
            "duration_seconds": mean_and_deviation(self.durations),
            "resolutions": _shares(self.resolutions, total),
            "question_types": _shares(self.question_types, total),
            "answer_letters": dict(sorted(_shares(self.letters, total).items())),
            "modalities": _shares(self.modalities, total),
        }


@dataclass
class CertaintyStatistics:
    """How sure a teacher with several samples is, and how right; questions are added one by one.

    Attributes:
        agreements: the share of equal answers of each question.
        right_shares: the share of right answers of each question.
        questions: questions by share of equal answers.
        right: those whose most common answer is right, likewise.
    """

    agreements: list[float] = field(default_factory=list)
    right_shares: list[float] = field(default_factory=list)
    questions: Counter[float] = field(default_factory=Counter)
    right: Counter[float] = field(default_factory=Counter)

    def add(self, reply: TeacherReply) -> None:
        """Count the replies to one question."""
        self.agreements.append(reply.agreement)
        self.right_shares.append(reply.right_share)
        share = round(reply.agreement, 4)
        self.questions[share] += 1
        self.right[share] += reply.right

    def summary(self) -> dict[str, Any]:
        """JSON values: means with standard deviations, and accuracy in percent by the share of equal answers."""
        return {
            "agreement": mean_and_deviation(self.agreements),
            "right_share": mean_and_deviation(self.right_shares),
            "by_agreement": {
                f"{share:g}": {"questions": count, "right": _percent(self.right[share], count)}
                for share, count in sorted(self.questions.items(), reverse=True)
            },
        }


def mean_and_deviation(values: Sequence[float]) -> list[float] | None:
    """Mean and sample standard deviation (0 for one value), or None for none."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return [round(mean, 4), round(math.sqrt(squares / (len(values) - 1)), 4) if len(values) > 1 else 0.0]


OTHERS = "Others"

PAPER: dict[str, dict[str, Any]] = {
    "train": {
        "samples": 18_279,
        "format_compliance": 100.0,
        "think_tokens": [165.5, 33.9],
        "answer_tokens": [1.0, 0.0],
        "duration_seconds": [10.0, 0.1],
        "resolutions": {"1280x720": 62.0},
        "question_types": {
            "Which": 45.2,
            "Come From": 30.9,
            "Happening": 15.5,
            "Where": 8.0,
            "Why": 0.2,
            OTHERS: 0.2,
        },
        "answer_letters": {"A": 24.5, "B": 25.2, "C": 24.9, "D": 25.4},
        "modalities": {"Both": 99.0, "Sound": 0.7, "View": 0.3},
    },
    "val": {
        "samples": 945,
        "format_compliance": 100.0,
        "think_tokens": [163.4, 32.5],
        "answer_tokens": [1.0, 0.0],
        "duration_seconds": [10.0, 0.2],
        "resolutions": {"1280x720": 43.0},
        "question_types": {
            "Which": 45.7,
            "Come From": 29.8,
            "Happening": 14.1,
            "Where": 9.7,
            "Why": 0.4,
            OTHERS: 0.3,
        },
    },
}
"""The paper's AVRT-20K in the layout of `SplitStatistics.summary`: Table 2 and Figure 0.B.4.

The figure gives answers for the training split, and modalities for both splits together (listed under ``train``).
"""


def print_statistics(statistics: dict[str, Any], console: Console | None = None, *, with_paper: bool = False) -> None:
    """Print `statistics.json` in the layout of the paper's Table 2, then the distributions and the yield.

    Args:
        with_paper: print the numbers of the paper's AVRT-20K beside it.
    """
    console = console or Console()
    splits = statistics["splits"]
    paper = ("Paper",) if with_paper else ()
    table = Table("Metric", "Train / Val", *paper, title=f"Traces ({statistics['variant']})")
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("Total Samples", lambda split: f"{split['samples']:,}"),
        ("Reasoning Format Compliance", lambda split: f"{split['format_compliance']:.1f}%"),
        (f"Thinking Section Length ({statistics['unit']})", lambda split: plus_minus(split["think_tokens"])),
        (f"Answer Section Length ({statistics['unit']})", lambda split: plus_minus(split["answer_tokens"])),
        ("Video and Audio Duration (sec)", lambda split: plus_minus(split["duration_seconds"])),
        ("Primary Resolution", lambda split: largest(split["resolutions"])),
    ]
    for title, cell in rows:
        table.add_row(title, _both(splits, cell), *(_both(PAPER, cell) for _ in paper))
    console.print(table)
    for key, title in (
        ("question_types", "Question Type"),
        ("answer_letters", "Answer"),
        ("modalities", "Modality Requirement"),
    ):
        detail = Table(title, "Train / Val", *paper)
        listed = PAPER["train"][key] if with_paper else {}
        names = dict.fromkeys([*_names(splits, key), *listed])
        for name in sorted(names) if key == "answer_letters" else names:
            shares = _both(splits, _share_of(key, name, listed if name == OTHERS else ()))
            published = _both(PAPER, _share_of(key, name)) if name in listed else "-"
            detail.add_row(name, shares, *(published for _ in paper))
        console.print(detail)
    console.print(_yield_table(statistics))
    if certainty := statistics.get("certainty"):
        console.print(_certainty_table(certainty))


def print_folders(config: TracesConfig, statistics: dict[str, Any], console: Console | None = None) -> None:
    """Print where each split's shards are, and a hint if fine-tuning's split ``val`` is not among them."""
    console = console or Console()
    for name, split in statistics["splits"].items():
        line = f"{name}: {split['samples']:,} samples in {shown(join(config.output, name))}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if "val" not in statistics["splits"]:
        reason = "val_share is 0" if config.val_share == 0 else "val_share is null and the input has no split val"
        line = f"no split val ({reason}): give fine-tuning another `data.val`, or set val_share"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _share_of(key: str, name: str, all_but: Collection[str] = ()) -> Callable[[dict[str, Any]], str]:
    """The share of a value, or of all values that are not among `all_but`."""

    def cell(split: dict[str, Any]) -> str:
        shares = split.get(key)
        if shares is None:
            return "-"
        if all_but:
            return f"{sum(share for value, share in shares.items() if value not in all_but):.1f}%"
        return f"{shares.get(name, 0):.1f}%"

    return cell


def _yield_table(statistics: dict[str, Any]) -> Table:
    total = statistics["considered"]
    table = Table("Yield", "Samples", "Share")
    for reason, count in sorted(statistics["yield"].items(), key=lambda item: (item[0] != "kept", -item[1], item[0])):
        table.add_row(reason, f"{count:,}", f"{_percent(count, total):.1f}%")
    for stage, outcomes in statistics["outcomes"].items():
        table.add_section()
        for outcome, count in sorted(outcomes.items(), key=lambda item: (-item[1], item[0])):
            table.add_row(f"{stage}: {outcome}", f"{count:,}", f"{_percent(count, total):.1f}%")
    return table


def _certainty_table(certainty: dict[str, Any]) -> Table:
    """Whether the teachers are right where their samples agree."""
    table = Table("Teacher", "Equal answers", "Questions", "Most common answer right")
    for name, found in certainty.items():
        table.add_section()
        for share, counts in found["by_agreement"].items():
            table.add_row(name, f"{float(share):.0%}", f"{counts['questions']:,}", f"{counts['right']:.1f}%")
    return table


def _both(splits: dict[str, dict[str, Any]], cell: Callable[[dict[str, Any]], str]) -> str:
    names = [name for name in SPLITS if name in splits] + sorted(set(splits) - set(SPLITS))
    return " / ".join(cell(splits[name]) for name in names) or "-"


def _names(splits: dict[str, dict[str, Any]], key: str) -> list[str]:
    total: dict[str, float] = defaultdict(float)
    for split in splits.values():
        for name, share in split[key].items():
            total[name] += share * split["samples"]
    return sorted(total) if key == "answer_letters" else sorted(total, key=lambda name: (-total[name], name))


def largest(shares: dict[str, float]) -> str:
    """The most frequent resolution, with its share."""
    if not shares:
        return "-"
    name = max(sorted(shares), key=lambda key: shares[key])
    return f"{name.replace('x', '×')} ({shares[name]:.0f}%)"


def plus_minus(pair: list[float] | None) -> str:
    """Mean and standard deviation, as the paper prints them."""
    return "-" if pair is None else f"{pair[0]:.1f} ± {pair[1]:.1f}"


def _percent(count: float, total: float) -> float:
    return round(100 * count / total, 4) if total else 0.0


def _shares(counts: Counter[str], total: int) -> dict[str, float]:
    return {name: _percent(count, total) for name, count in sorted(counts.items())}
