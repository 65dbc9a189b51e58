"""The report's table of the runs: models, settings, when and on what they ran, and how fast."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from avrt.evaluation.number_format import ABSENT
from avrt.evaluation.report.run_labels import badge
from avrt.evaluation.run_media import seconds_per_reply, tokens_per_second
from avrt.evaluation.scoring import BenchmarkRun
from avrt.pages.tables import escape, section, table, text_heads

NOTE = (
    "Seconds per reply: the mean time of a call, or of a batch divided by its questions; tokens per second: generated "
    "tokens in these times."
)


def about_runs(runs: Sequence[Mapping[str, BenchmarkRun]]) -> str:
    """One column per run, one row per fact."""
    columns = [_facts(list(run.values())) for run in runs]
    letters = [badge(number) if len(runs) > 1 else "" for number in range(len(runs))]
    names = [escape(next(iter(run.values())).info.run) for run in runs]
    heads = text_heads("") + [
        f'<th scope="col">{letter} {name}</th>' for letter, name in zip(letters, names, strict=True)
    ]
    rows = [
        [
            f'<th scope="row">{escape(title)}</th>',
            *(f'<td class="settings">{escape(facts[title])}</td>' for facts in columns),
        ]
        for title in columns[0]
        if any(facts[title] != ABSENT for facts in columns)
    ]
    return section("about", "Runs", table(heads, rows), NOTE)


def _facts(entries: Sequence[BenchmarkRun]) -> dict[str, str]:
    infos = [entry.info for entry in entries]
    done, planned = sum(len(entry.records) for entry in entries), sum(info.items for info in infos)
    speeds = [(seconds_per_reply(entry), tokens_per_second(entry)) for entry in entries]
    return {
        "Model": _all_of(info.model for info in infos),
        "Items": f"{done:,}" if done == planned else f"{done:,} of {planned:,} (unfinished)",
        "Modalities": _all_of(info.modalities for info in infos),
        "Answer format": _all_of(info.answer_format for info in infos),
        "Parser profile": _all_of(info.profile for info in infos),
        "Subset": _all_of(info.subset for info in infos),
        "Settings": _all_of(_settings(info.decoding) for info in infos),
        "Started": _span(info.started for info in infos),
        "Hardware": _all_of(info.hardware for info in infos),
        "Seconds per reply": _range([seconds for seconds, _ in speeds], ".2f"),
        "Tokens per second": _range([tokens for _, tokens in speeds], ".0f"),
        "AVRT version": _all_of(info.avrt_version for info in infos),
    }


def _all_of(values: Iterable[object]) -> str:
    """The different values of a run's benchmarks; `ABSENT` where there are none."""
    return "; ".join(dict.fromkeys(str(value) for value in values if value not in (None, ""))) or ABSENT


def _settings(decoding: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in sorted(decoding.items()))


def _span(dates: Iterable[str]) -> str:
    """The dates of the first and the last benchmark, without seconds and in UTC."""
    known = sorted(date[:16].replace("T", " ") for date in dates if date)
    return f"{' to '.join(dict.fromkeys([known[0], known[-1]]))} UTC" if known else ABSENT


def _range(values: Sequence[float | None], form: str) -> str:
    known = sorted(value for value in values if value is not None)
    return " to ".join(dict.fromkeys(format(value, form) for value in (known[0], known[-1]))) if known else ABSENT
