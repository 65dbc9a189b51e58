"""The printed form of ``gpu.json``."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_result(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the machine, one table per part, and what was skipped or failed."""
    console = console or Console(width=160)
    device = result["device"]
    console.print(", ".join(f"{key} {value}" for key, value in device.items()), highlight=False)
    for name, part in result["parts"].items():
        title = f"{name}: {part['status']}, {part['seconds']:.0f} s"
        if "reason" in part:
            title += f": {part['reason']}"
        if part["rows"]:
            console.print(_table(title, part["rows"]))
        else:
            console.print(title, highlight=False, markup=False)
    if result["hardware"]:
        rows = [{"what": key, "measured": value} for key, value in result["hardware"].items()]
        console.print(_table("hardware, as `avrt plan --measured` reads it", rows))


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
