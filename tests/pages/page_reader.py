"""A report's page and data files, read back for tests."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The tables of a page as rows of texts, its scripts, and every element with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
        elif ("td" in self._open or "th" in self._open) and "svg" not in self._open:
            self.rows[-1][-1] += data

    def row(self, *begin: str) -> list[str]:
        """The only row that begins with these texts."""
        found = [row for row in self.rows if [cell.strip() for cell in row[: len(begin)]] == list(begin)]
        assert len(found) == 1, f"{len(found)} rows begin with {begin}"
        return [cell.strip() for cell in found[0]]


def details_of(out: Path) -> list[dict]:
    """The data of every item, in order."""
    details = []
    for number, path in enumerate(sorted((out / "data").iterdir())):
        text = path.read_text(encoding="ascii")
        begin = f"avrtReport.receive({number},"
        assert text.startswith(begin)
        assert text.endswith(");\n")
        details += json.loads(text[len(begin) : -3])
    return details
