"""Compare two evaluation runs, in the form of the paper's Table 3.

Prints accuracy with its interval for each benchmark, the difference with a paired interval, and its significance (exact
McNemar test, Holm's correction over the benchmarks), beside the paper's numbers and those of the models that it quotes.
"""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run_a", metavar="RUN_A", help="folder of a run (its benchmarks in sub-folders)")
    parser.add_argument("run_b", metavar="RUN_B", nargs="?", help="folder of another; differences are RUN_B - RUN_A")
    parser.add_argument(
        "--official",
        action="store_true",
        help="score by the benchmarks' own rules, not strictly; items that a rule leaves out count as wrong",
    )
    parser.add_argument("--partial", action="store_true", help="accept unfinished runs, over the items both have")
    parser.add_argument("--json", metavar="FILE", help="write the same numbers, unrounded, as JSON; - for the screen")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="bootstrap draws (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    import json
    import sys
    from pathlib import Path

    from avrt.evaluation.comparison import compare
    from avrt.files.atomic import write_atomic

    if args.resamples < 100:
        raise ValueError(f"--resamples must be at least 100, is {args.resamples}")
    result = compare(
        args.run_a,
        args.run_b,
        score="official" if args.official else "strict",
        partial=args.partial,
        resamples=args.resamples,
        seed=args.seed,
    )
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return 0
    if args.json:
        write_atomic(Path(args.json), text.encode())
    _print(result)
    return 0


def _print(result: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from avrt.evaluation.comparison import masks_of
    from avrt.evaluation.tables import AVERAGES, COLUMNS

    known = {name for row in result["runs"] for name in row["benchmarks"]}
    heads = COLUMNS | {name: name for name in sorted(known - set(COLUMNS))}
    audio = [name for name in heads if name in ("mmar", "mmau")]
    columns = [name for name in heads if name not in audio] + ["av_average", *audio, "audio_average"]
    titles = heads | AVERAGES

    table = Table(
        title=f"accuracy in percent ({result['score']} score)",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    labels = [row["group"] for row in result["published"]] + ["  " + row["label"] for row in result["published"]]
    table.add_column("model", overflow="fold", min_width=max(map(len, labels)))
    for name in columns:
        table.add_column(titles[name], justify="right", overflow="fold")
    for row in result["runs"]:
        table.add_row(escape(row["run"] + masks_of(row)), *(_accuracy(row, name) for name in columns), style="bold")
        table.add_row("  95 % interval", *(_interval(row["benchmarks"].get(name)) for name in columns), style="dim")
        table.add_row("  items", *(_items(row["benchmarks"].get(name)) for name in columns), style="dim")
        if left_out := _left_out(row):
            table.add_row("  counted by the rule", *(left_out.get(name, "") for name in columns), style="dim")
    changes = result["differences"] | result["averages"]
    if len(result["runs"]) == 2:
        table.add_section()
        table.add_row("difference", *(_signed(changes.get(name)) for name in columns), style="bold")
        table.add_row("  95 % interval", *(_interval(changes.get(name), signed=True) for name in columns), style="dim")
        table.add_row("  p (McNemar, Holm)", *(_p_value(changes.get(name)) for name in columns))
    group = ""
    for row in result["published"]:
        if row["group"] != group:
            table.add_section()
            group = row["group"]
            table.add_row(group, style="italic")
        values = row["scores"] | {name: row[name] for name in AVERAGES}
        table.add_row("  " + row["label"], *(_percent(values.get(name)) for name in columns))
    # A pipe or a log has no width of its own, and a screen may be narrow: rather long lines than broken numbers.
    console = Console()
    if not console.is_terminal or console.width < 120:
        console = Console(width=200)
    console.print(table)
    if len(result["runs"]) == 2:
        console.print("* p < 0.05   ** p < 0.01   *** p < 0.001, over all compared benchmarks together", style="dim")
    console.print(f"Lower part: {result['published_source']}. AV Avg. leaves AVQA out.", style="dim", highlight=False)
    if result["score"] == "official":
        console.print(
            "Accuracies and differences are over all items; one that a benchmark's rule leaves out (no answer found) "
            "counts as wrong. Counted by the rule: the accuracy over the items that it counts, and their number.",
            style="dim",
            highlight=False,
        )
    for name, change in result["differences"].items():
        recorded = [row["benchmarks"][name]["recorded"] for row in result["runs"]]
        if recorded != [change["items"]] * 2:
            console.print(
                f"{name}: accuracies and difference are over the {change['items']} items that both runs have; the "
                f"runs have {recorded[0]} and {recorded[1]}",
                highlight=False,
                markup=False,
            )
    if result["only_in_one"]:
        console.print(f"Only in one of the runs, not compared: {', '.join(result['only_in_one'])}")


def _items(score: dict[str, Any] | None) -> str:
    return "" if score is None else f"{score['items']:,}"


def _left_out(row: dict[str, Any]) -> dict[str, str]:
    """The accuracy over the items that a rule counts, with their number, where it leaves items out."""
    shown = {}
    for name, score in row["benchmarks"].items():
        counted = score.get("counted")
        if counted is not None and counted["items"] < score["items"]:
            shown[name] = f"{_percent(counted['accuracy'], 100)} of {counted['items']:,}"
    return shown


def _accuracy(row: dict[str, Any], name: str) -> str:
    if name in row:
        return _percent(row[name], 100)
    return _percent(row["benchmarks"].get(name, {}).get("accuracy"), 100)


def _percent(value: float | None, factor: float = 1) -> str:
    return "-" if value is None else f"{factor * value:.1f}"


def _signed(change: dict[str, Any] | None) -> str:
    return "" if change is None else f"{100 * change['difference']:+.1f}"


def _interval(score: dict[str, Any] | None, signed: bool = False) -> str:
    if score is None or score.get("items") == 0:
        return ""
    low, high = (100 * limit for limit in score["interval"])
    # Where the column is narrow, this breaks after the comma.
    return f"[{low:+.1f}, {high:+.1f}]" if signed else f"[{low:.1f}, {high:.1f}]"


def _p_value(change: dict[str, Any] | None) -> str:
    if change is None or "p_holm" not in change:
        return ""
    p = change["p_holm"]
    stars = "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""
    return ("<.001" if p < 0.001 else f"{p:.3f}") + stars
