"""How the report names benchmarks, runs and scores: letters with colors, and numbers in words."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from avrt.evaluation.benchmarks import BENCHMARKS
from avrt.evaluation.number_format import interval, percent
from avrt.pages.plots import SERIES


def title_of(benchmark: str) -> str:
    """A benchmark's name for tables."""
    return BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else benchmark


def run_letter(number: int) -> str:
    """The letter of run 0, 1, ...: A to Z, then AA, AB, ..."""
    first, last = divmod(number, 26)
    return (run_letter(first - 1) if first else "") + string.ascii_uppercase[last]


def series_of(number: int) -> str:
    """The color of a run, one of `SERIES`."""
    return SERIES[number % len(SERIES)]


def badge(number: int) -> str:
    """The letter of a run, in its color."""
    return f'<span class="badge series-{series_of(number)}">{run_letter(number)}</span>'


def accuracy(score: Mapping[str, Any]) -> str:
    """A score in words."""
    return f"{percent(score['accuracy'])} percent, interval {interval(score['interval'])}, of {score['items']} items"
