"""Tables of a page as HTML text.

Titles, notes and heads are plain text and are escaped here; cells are HTML.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

MAX_TEXT = 1_000
"""Characters of one text in a table; a browser needs half a minute for a line of a hundred thousand."""


def escape(text: str) -> str:
    """A text as HTML; the end of a very long one is left out."""
    return html.escape(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} ...")


def section(name: str, title: str, content: str, note: str = "") -> str:
    """A part of the page: a heading, HTML, and a plain note below; `name` is its id."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    heading = f'<h2 id="part-{escape(name)}">{escape(title)}</h2>'
    return f'<section aria-labelledby="part-{escape(name)}">{heading}{content}{below}</section>'


def table(heads: Sequence[str], *groups: Sequence[Sequence[str]]) -> str:
    """A table of head cells and of groups of rows of cells."""
    bodies = "".join(f"<tbody>{''.join(map(_row, group))}</tbody>" for group in groups if group)
    return f'<div class="wide"><table><thead>{_row(heads)}</thead>{bodies}</table></div>'


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def text_heads(*titles: str) -> list[str]:
    """Heads of columns of text."""
    return [f'<th scope="col">{escape(title)}</th>' for title in titles]


def number_heads(*titles: str) -> list[str]:
    """Heads of columns of numbers."""
    return [f'<th scope="col" class="number">{escape(title)}</th>' for title in titles]


def plot_head(drawing: str = "") -> list[str]:
    """The head of a column of plots: their axis, as SVG."""
    return [f'<th scope="col" class="plot">{drawing}</th>']


def number_cell(content: str) -> str:
    """A cell of a column of numbers."""
    return f'<td class="number">{content}</td>'
