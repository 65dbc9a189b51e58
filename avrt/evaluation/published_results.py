"""The paper's Table 3 as data with its source, and the averages that the paper reports. Percentages as printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

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
    text = (files("avrt.evaluation") / "data" / "paper_table3.json").read_text(encoding="utf-8")
    table = json.loads(text)
    return [PublishedRow(**row) for row in table["rows"]], table["source"]


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
