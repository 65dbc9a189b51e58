"""The paper's tables as data, each with its source, and the averages that the paper forms.

Percentages as printed. The files lie in ``avrt/evaluation/data``.
"""

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
"""Average name to column head; which benchmarks each is over: `averaged`."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of Table 3.

    Attributes:
        model, size: as printed (size empty for the teachers).
        group: the heading that the row stands under.
        model_source: where the paper refers to for the model.
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
    """The rows of the paper's Table 3 in its order (its own, its baselines', the rivals'), and their source."""
    table = read_table("paper_table3")
    return [PublishedRow(**row) for row in table["rows"]], table["source"]


def omnibench_analysis() -> dict[str, Any]:
    """The paper's Tables 8 (difficulty subsets) and 9 (error types), with their source."""
    return read_table("paper_omnibench_analysis")


def read_table(name: str) -> dict[str, Any]:
    """One of the packaged data files, without its ending."""
    return json.loads((files("avrt.evaluation") / "data" / f"{name}.json").read_text(encoding="utf-8"))


def averaged(average: str) -> list[str]:
    """The benchmarks that an average is over: ``av_average`` without AVQA (in-domain), ``audio_average`` the two."""
    group = {"av_average": "audio_visual", "audio_average": "audio"}[average]
    return [name for name in COLUMNS if BENCHMARKS[name].group == group and BENCHMARKS[name].in_average]


def average_of(scores: Mapping[str, float], average: str) -> float | None:
    """The mean of a table row over the benchmarks of an average; None unless all of them are there."""
    names = averaged(average)
    if any(name not in scores for name in names):
        return None
    return sum(scores[name] for name in names) / len(names)
