"""Tables of short texts, for the terminal, Markdown and LaTeX.

A terminal narrower than a table gets it in parts, one below the other, each with some of the columns: a number is never
broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

RowStyle = Literal["plain", "strong", "minor", "heading"]
GAP = 2
"""Spaces between columns."""
LEAST_LABEL = 16
"""Columns that the labels have at least."""


@dataclass(frozen=True)
class Row:
    """One row: its label, and a text per column, empty where it has none.

    Attributes:
        style: ``strong`` for numbers of the reader's own runs, ``minor`` for what belongs to the row above (its label
            is indented), ``heading`` for the title of the rows below.
    """

    label: str
    cells: tuple[str, ...]
    style: RowStyle = "plain"

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", _printable(self.label))
        object.__setattr__(self, "cells", tuple(map(_printable, self.cells)))


@dataclass(frozen=True)
class TextTable:
    """A table: groups of rows with a line between them.

    Attributes:
        title: a line above it.
        label: head of the first column.
        heads: heads of the others.
        groups: the rows; rows without any text in their cells are not shown.
        notes: lines below it.
    """

    title: str
    label: str
    heads: tuple[str, ...]
    groups: tuple[tuple[Row, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("title", "label"):
            object.__setattr__(self, name, _printable(getattr(self, name)))
        for name in ("heads", "notes"):
            object.__setattr__(self, name, tuple(map(_printable, getattr(self, name))))


def _printable(text: str) -> str:
    """Names come from files of others: a line break would end LaTeX's comment, and an escape reach the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(table: TextTable, console: Console) -> None:
    """Print a table in the console's width."""
    _line(console, table.title, "bold")
    labels = [_label(row) for group in table.groups for row in group if row.style != "heading"]
    widths = [
        max(map(cell_len, [head, *(row.cells[place] for group in table.groups for row in group if row.cells)]))
        for place, head in enumerate(table.heads)
    ]
    longest = max(map(cell_len, [table.label, *labels]))
    left = console.width - sum(width + GAP for width in widths)  # for the labels, if the table is in one part
    narrow = max(LEAST_LABEL, console.width // 3)
    label_width = min(longest, max(left, narrow))
    for part in _parts(widths, console.width - label_width):
        _print_part(table, part, widths, label_width, console)
    for note in table.notes:
        console.print(Text(note, style="dim"))


def _parts(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns, by their places, in as many parts as `width` needs."""
    parts: list[list[int]] = [[]]
    for place in range(len(widths)):
        if parts[-1] and sum(widths[other] + GAP for other in [*parts[-1], place]) > width:
            parts.append([])
        parts[-1].append(place)
    return parts


def _print_part(
    table: TextTable, places: Sequence[int], widths: Sequence[int], label_width: int, console: Console
) -> None:
    rule = "─" * (label_width + sum(widths[place] + GAP for place in places))
    heads = "".join(f"{' ' * GAP}{_right(table.heads[place], widths[place])}" for place in places)
    _line(console, _left(table.label, label_width) + heads, "dim")
    for group in table.groups:
        rows = _shown(group, places)
        if rows:
            _line(console, rule, "dim")
        for row in rows:
            cells = "".join(f"{' ' * GAP}{_right(row.cells[place], widths[place])}" for place in places if row.cells)
            first, *rest = _folded(_label(row), len(rule) if row.style == "heading" else label_width)
            style = {"strong": "bold", "minor": "dim", "heading": "italic", "plain": ""}[row.style]
            _line(console, _left(first, label_width) + cells, style)
            for more in rest:
                _line(console, more, style)
    console.print()


def _shown(group: Sequence[Row], places: Sequence[int]) -> list[Row]:
    """The rows with a text in one of the columns; a heading only with a row below it."""
    rows = [row for row in group if row.style == "heading" or any(row.cells[place] for place in places)]
    return [
        row
        for row, after in pairwise([*rows, Row("", (), "heading")])
        if row.style != "heading" or after.style != "heading"
    ]


def _label(row: Row) -> str:
    return f"  {row.label}" if row.style == "minor" else row.label


def _folded(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces where possible; later ones are indented."""
    lines, rest, indent = [], text, ""
    while cell_len(indent + rest) > width:
        cut = len(rest)
        while cell_len(indent + rest[:cut]) > width:
            cut -= 1
        space = rest.rfind(" ", 1, cut + 1)
        cut = space if space > len(rest) - len(rest.lstrip()) else max(1, cut)
        lines.append(indent + rest[:cut])
        rest, indent = rest[cut:].lstrip(), "  "
    return [*lines, indent + rest]


def _left(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _right(text: str, width: int) -> str:
    return " " * (width - cell_len(text)) + text


def _line(console: Console, text: str, style: str) -> None:
    console.print(Text(text.rstrip(), style=style), soft_wrap=True)


def as_markdown(table: TextTable) -> str:
    """The table in GitHub's Markdown, with its title above and its notes below."""
    lines = [f"**{_markdown(table.title)}**", ""]
    lines.append(f"| {' | '.join(map(_markdown, [table.label, *table.heads]))} |")
    lines.append(f"|{'---|'}{'---:|' * len(table.heads)}")
    for group in table.groups:
        for row in _shown(group, range(len(table.heads))):
            cells = row.cells or ("",) * len(table.heads)
            mark = {"strong": "**", "heading": "*"}.get(row.style, "")
            texts = [f"{mark}{_markdown(text)}{mark}" if text else "" for text in (row.label, *cells)]
            lines.append(f"| {' | '.join(texts)} |")
    lines += [line for note in table.notes for line in ("", _markdown(note))]
    return "\n".join(lines) + "\n"


def as_latex(table: TextTable) -> str:
    """The table as LaTeX with booktabs; title and notes are comments."""
    lines = [f"% {table.title}", f"\\begin{{tabular}}{{l{'r' * len(table.heads)}}}", "\\toprule"]
    lines.append(" & ".join(map(_latex, [table.label, *table.heads])) + r" \\")
    for group in table.groups:
        rows = _shown(group, range(len(table.heads)))
        lines += [r"\midrule"] if rows else []
        for row in rows:
            label, *cells = map(_latex, (row.label, *row.cells))
            if row.style == "heading":
                lines.append(rf"\multicolumn{{{1 + len(table.heads)}}}{{l}}{{\textit{{{label}}}}} \\")
                continue
            if row.style == "strong":
                label, cells = rf"\textbf{{{label}}}", [rf"\textbf{{{cell}}}" if cell else "" for cell in cells]
            elif row.style == "minor":
                label = rf"\quad {label}"
            lines.append(" & ".join([label, *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    for character in "\\|*_`<>[]#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
