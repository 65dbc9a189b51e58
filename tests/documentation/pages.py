"""The commands, files and names that a Markdown page shows its readers."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
AVRT = ["python", "-m", "avrt"]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word behind the fence, or nothing.
        text: the lines inside it.
        line: number of its first line on the page, from 1.
    """

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command line, without the comment behind it.

    Attributes:
        place: page and line, as editors understand them.
        words: the line as a shell splits it, without ``uv run`` in front.
    """

    place: str
    words: tuple[str, ...]

    @property
    def avrt(self) -> list[str] | None:
        """The words after ``python -m avrt``; None for another program."""
        return list(self.words[3:]) if list(self.words[:3]) == AVRT else None

    @property
    def module(self) -> str | None:
        """The module of ``python -m MODULE``; None for another program."""
        return self.words[2] if list(self.words[:2]) == AVRT[:2] else None

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in _BLOCK.finditer(text)]


def commands(page: Path) -> list[Command]:
    """The lines of a page's ``bash`` blocks, in order; a line that ends in a backslash continues on the next."""
    found = []
    for block in blocks(page):
        if block.language != "bash":
            continue
        pending = ""
        for number, line in enumerate(block.text.splitlines(), block.line):
            if line.endswith("\\"):
                pending += line[:-1] + " "
                continue
            words, pending = shlex.split(pending + line, comments=True), ""
            if words[:2] == ["uv", "run"]:
                words = words[2:]
            if words:
                found.append(Command(f"{page.relative_to(ROOT)}:{number}", tuple(words)))
    return found


def shown_files(page: Path) -> dict[str, str]:
    """Files that a page shows: blocks whose first line is a comment that begins with the file's name."""
    found = {}
    for block in blocks(page):
        match = re.match(r"#\s*([\w./-]+\.(?:py|yaml))\b", block.text)
        if match:
            found[match[1]] = block.text
    return found


def code_spans(page: Path) -> list[str]:
    """Inline code of a page, outside fenced blocks."""
    return _SPAN.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> list[str]:
    """Targets of a page's links to other files, without anchors."""
    return re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
