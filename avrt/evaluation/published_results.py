"""The paper's Tables 3, 8 and 9 as data with their sources, and its averages. Percentages as printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from avrt.evaluation.benchmarks import BENCHMARKS

COLUMNS = {
    "avqa": "AVQA",
    "dailyomni": "DailyOmni",
    "omnibench": "OmniBench",
    "videomme": "Video-MME",
    "rivabench_standup": "Riva-S",
    "rivabench_academic": "Riva-A",
    "mmar": "MMAR",
    "mmau": "MMAU",
}
"""Benchmark name to column head, in the order of Table 3."""

AVERAGES = {"av_average": "AV Avg.", "audio_average": "A Avg."}
"""Average name to column head; see `averaged` for the benchmarks of each."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of Table 3.

    Attributes:
        model, size: as printed (size empty for the teachers).
        group: the heading of the row.
        model_source: the paper's reference for the model.
        scores: benchmark name to percent; a benchmark without a number is absent.
        av_average, audio_average: percent as printed, or None.
    """

    model: str
    size: str
    group: str
    model_source: str
    scores: dict[str, float]
    av_average: float | None
    audio_average: float | None

    @property
    def label(self) -> str:
        """Model and size, the row's name."""
        return f"{self.model} {self.size}".strip()


def published_table3() -> tuple[list[PublishedRow], str]:
    """The rows of the paper's Table 3 in its order, and their source."""
    table = _read("paper_table3.json")
    return [PublishedRow(**row) for row in table["rows"]], table["source"]


@dataclass(frozen=True)
class PublishedAnalysis:
    """The paper's Tables 8 and 9, which are of OmniBench.

    Attributes:
        accuracy: Table 8: model's label to difficulty to percent.
        items: Table 8: number of questions by difficulty.
        errors: Table 9: model's label to `Record.error_type` to percent of all items.
        source: where the numbers are from.
    """

    accuracy: dict[str, dict[str, float]]
    items: dict[str, int]
    errors: dict[str, dict[str, float]]
    source: str


ANALYZED = "omnibench"
"""The benchmark of `PublishedAnalysis`."""


def published_analysis() -> PublishedAnalysis:
    """The paper's Tables 8 and 9."""
    table = _read("paper_omnibench.json")
    rows = {f"{row['model']} {row['size']}": row for row in table["rows"]}
    return PublishedAnalysis(
        accuracy={label: row["accuracy"] for label, row in rows.items()},
        items=table["items"],
        errors={label: row["errors"] for label, row in rows.items()},
        source=table["source"],
    )


def _read(name: str) -> dict[str, Any]:
    return json.loads((files("avrt.evaluation") / "data" / name).read_text(encoding="utf-8"))


def averaged(average: str) -> list[str]:
    """The benchmarks of an average: ``av_average`` excludes AVQA (in-domain), ``audio_average`` is MMAR and MMAU."""
    group = {"av_average": "audio_visual", "audio_average": "audio"}[average]
    return [name for name in COLUMNS if BENCHMARKS[name].group == group and BENCHMARKS[name].in_average]


def average_of(scores: Mapping[str, float], average: str) -> float | None:
    """The mean of a table row over the benchmarks of an average; None if one of them is missing."""
    names = averaged(average)
    if any(name not in scores for name in names):
        return None
    return sum(scores[name] for name in names) / len(names)
