"""The files of a page: HTML with tables and a list of items, and data of single items, loaded on demand.

The page opens from the disk, without a server or a network::

    DIR/index.html             the page: tables, script, style, and an index of the items
    DIR/data/items-0000.js     data of items 0 to 199, loaded when one of them is opened; ...
    DIR/media/<clip>/          thumbnails and audio, see `avrt.pages.clip_files`

A page opened from the disk may load scripts but not read files, so the data are scripts. Replies are untrusted text:
they reach the page as JSON, never as HTML, and the page's content security policy allows only its own script.

The same content gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

from avrt.files.atomic import write_atomic

PAGE_FILE = "index.html"
DATA_FOLDER = "data"
CHUNK_ITEMS = 200
"""Items per data file: small enough to load at once, large enough that 30,000 items do not become too many files."""

GENERATOR = "avrt report"
"""Marks a page of this project, which may be overwritten."""

_FIRST_PARTS = ("elements", "chunks")
_LAST_PARTS = ("form", "clip", "list", "item", "main")
"""Files of the script that all pages share, before and behind a page's own."""


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Attributes:
        page: the file to open.
        items: items on it.
        clips: clips of these items.
        problems: why a clip cannot be shown, by its first item.
    """

    page: Path
    items: int
    clips: int
    problems: dict[str, str]


@dataclass(frozen=True)
class PageContent:
    """What a page has of its own.

    Attributes:
        kind: what the page is about, for the window's title.
        title: name of what it shows, plain text.
        heading: the same as HTML.
        summary: the tables, HTML.
        legend: the line below the list, HTML.
        search: what the search field looks in, in words; and beyond, with its check box.
        index: the data of all items that list and filters need, as JSON values; `chunk` is added.
        package: package whose folder ``assets`` has the page's own script and style.
        scripts: names of the script's parts, without ``.js``. They define ``index``, ``items`` and the functions that
            the shared parts call; ``assets/main.js`` lists these.
        style: name of the style sheet, if there is one.
    """

    kind: str
    title: str
    heading: str
    summary: str
    legend: str
    search: tuple[str, str]
    index: dict[str, Any]
    package: str
    scripts: Sequence[str]
    style: str | None = None


def check_out(out: Path, kind: str) -> None:
    """Refuse a folder with a page of something else.

    Args:
        kind: `PageContent.kind` of the page that is to be written.

    Raises:
        ValueError: writing would overwrite it.
    """
    page = out / PAGE_FILE
    if page.is_file() and f'content="{_generator(kind)}"' not in page.read_text("utf-8", errors="replace")[:2000]:
        raise ValueError(f"{page}: is not a report on {kind} and would be overwritten; choose another --out")


def _generator(kind: str) -> str:
    return f"{GENERATOR} ({kind})"


def write_page(out: Path, content: PageContent, details: Iterable[Any]) -> Path:
    """Write the page and its data files; those of an earlier page are replaced.

    Args:
        details: the data of every item that the page shows when it is opened, as JSON values, in the index's order.
    """
    _write_chunks(out / DATA_FOLDER, details)
    write_atomic(out / PAGE_FILE, _html(content).encode("utf-8", "xmlcharrefreplace"))
    return out / PAGE_FILE


def embed_json(value: Any) -> str:
    """JSON for a script element or file: ASCII, and without the characters that could end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _write_chunks(folder: Path, details: Iterable[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    entries = iter(details)
    for number, part in enumerate(iter(lambda: list(islice(entries, CHUNK_ITEMS)), [])):
        path = folder / f"items-{number:04d}.js"
        write_atomic(path, f"avrtReport.receive({number},{embed_json(part)});\n".encode("ascii"))
        written.add(path)
    for path in folder.glob("items-*.js"):
        if path not in written:
            path.unlink()


def _html(content: PageContent) -> str:
    style = _asset("avrt.pages", "page.css")
    if content.style is not None:
        style += _asset(content.package, content.style)
    script = _script(content)
    place, beyond = content.search
    return Template(_asset("avrt.pages", "page.html")).substitute(
        generator=escape(_generator(content.kind)),
        kind=escape(content.kind),
        title=escape(content.title),
        heading=content.heading,
        policy=_policy(style, script),
        style=style,
        script=script,
        summary=content.summary,
        legend=content.legend,
        place=escape(place),
        beyond=escape(beyond),
        index=embed_json({**content.index, "chunk": CHUNK_ITEMS}),
    )


def _policy(style: str, script: str) -> str:
    """The content security policy: this page's own script and style, and files beside it; nothing from a network.

    ``'self'`` applies to a page on a server; opened from the disk, the files beside it have the scheme ``file:``.
    """
    return (
        f"default-src 'none'; script-src '{_hash(script)}' 'self' file:; style-src '{_hash(style)}'; "
        "img-src 'self' file:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


def style_policy(style: str) -> str:
    """The content security policy of a page without a script: its own style sheet, and files beside it."""
    return f"default-src 'none'; style-src '{_hash(style)}'; img-src 'self' file:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script(content: PageContent) -> str:
    """All parts of the page's script, in one scope."""
    parts = [_asset("avrt.pages", f"{name}.js") for name in _FIRST_PARTS]
    parts += [_asset(content.package, f"{name}.js") for name in content.scripts]
    parts += [_asset("avrt.pages", f"{name}.js") for name in _LAST_PARTS]
    joined = "\n".join(parts)
    return f'"use strict";\nconst avrtReport = (() => {{\n{joined}\nreturn {{ receive }};\n}})();\n'


def _asset(package: str, name: str) -> str:
    return (files(package) / "assets" / name).read_text(encoding="utf-8")
