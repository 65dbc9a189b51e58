"""What every benchmark's reader shares: the item, the benchmark's description, finding its files, reading JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from avrt.evaluation.records.record import Record
from avrt.sample import LETTERS, Sample

OfficialRule = Callable[[Record], bool | None]
"""A benchmark's own scoring rule, see `avrt.evaluation.benchmarks.official_rules`."""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, with where its media lie.

    Attributes:
        sample: the question; its clip is not read yet.
        index: place in the benchmark's own order, from 0.
        media: paths relative to the benchmark's folder, under ``video``, ``audio``, ``image``.
        missing: those of the media that the item cannot be shown without and that are not there.
        categories: what the benchmark breaks its results down by, name to value.
        official_gold: what the benchmark's own scorer compares with, where that is not the gold letter.
    """

    sample: Sample
    index: int
    media: dict[str, str]
    missing: tuple[str, ...] = ()
    categories: dict[str, str] = field(default_factory=dict)
    official_gold: str | None = None


@dataclass(frozen=True)
class Entry:
    """What a reader makes of one annotation, before its media are looked for.

    Attributes:
        sample, categories, official_gold: as in `Item`.
        media: kind to path relative to the benchmark's folder, the ones that must be there.
        optional_media: likewise, kept only if they are there (a sound file beside a video that has its own sound).
    """

    sample: Sample
    media: dict[str, str]
    optional_media: dict[str, str] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    official_gold: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: how it is laid out, read and scored.

    Attributes:
        name: as in commands, configs and run folders.
        title: as in tables.
        items: number of items its authors state.
        group: the paper's part of Table 3, ``audio_visual`` or ``audio``.
        in_average: whether it enters its group's average (AVQA does not: the students were trained on it).
        folders: names that its folder may have under the data root; else the root itself is tried.
        annotation_files: names that its annotation file may have within its folder.
        read: annotation file to entries.
        official: the benchmark's own scoring rule, or None where none is published.
        official_source: whose rule that is, in a few words.
    """

    name: str
    title: str
    items: int
    group: Literal["audio_visual", "audio"]
    folders: tuple[str, ...]
    annotation_files: tuple[str, ...]
    read: Callable[[Path], list[Entry]]
    official: OfficialRule | None
    official_source: str
    in_average: bool = True

    def annotations(self, root: str | Path) -> Path | None:
        """The benchmark's annotation file under a data root (or in its own folder), None where there is none."""
        root = Path(root)
        for folder in (*(root / name for name in self.folders), root):
            for name in self.annotation_files:
                if (folder / name).is_file():
                    return folder / name
        return None

    def locate(self, root: str | Path, annotations: str | Path | None = None) -> tuple[Path, Path]:
        """The annotation file, and the folder that media paths are relative to (`RunInfo.data_root`).

        Args:
            root: folder that holds the benchmark's folder, or that folder itself.
            annotations: the annotation file, where it has another name or place; `root` is the media's folder then.

        Raises:
            ValueError: there is no annotation file.
        """
        if annotations is not None:
            if not Path(annotations).is_file():
                raise ValueError(f"{annotations}: there is no such annotation file")
            return Path(annotations), Path(root)
        path = self.annotations(root)
        if path is None:
            raise ValueError(
                f"{root}: holds no {self.title}; expected {' or '.join(self.annotation_files)} in it "
                f"or in its folder {' or '.join(self.folders)}"
            )
        return path, self.media_folder(path)

    def load(self, root: str | Path, *, annotations: str | Path | None = None) -> list[Item]:
        """All items, in the annotation file's order, those without media too; arguments as in `locate`.

        Raises:
            ValueError: no annotation file, or one that cannot be read right (a gold answer that is no option, ...).
        """
        path, folder = self.locate(root, annotations)
        entries = self.read(path)
        if not entries:
            raise ValueError(f"{path}: holds no questions of {self.title}")
        seen: set[str] = set()
        for entry in entries:
            if entry.sample.id in seen:
                raise ValueError(f"{path}: id {entry.sample.id!r} occurs twice; every question needs an id of its own")
            seen.add(entry.sample.id)
        return [_locate(entry, index, folder) for index, entry in enumerate(entries)]

    def media_folder(self, annotations: Path) -> Path:
        """The benchmark's folder, which its media paths are relative to."""
        for name in self.annotation_files:
            if annotations.match(f"*/{name}"):
                return annotations.parents[len(Path(name).parts) - 1]
        return annotations.parent


def _locate(entry: Entry, index: int, folder: Path) -> Item:
    missing = tuple(path for path in entry.media.values() if not (folder / path).is_file())
    extra = {kind: path for kind, path in entry.optional_media.items() if (folder / path).is_file()}
    return Item(
        sample=entry.sample,
        index=index,
        media=entry.media | extra,
        missing=missing,
        categories=entry.categories,
        official_gold=entry.official_gold,
    )


def read_json_rows(path: Path) -> list[Any]:
    """The entries of a JSON array, or of a JSON lines file.

    Raises:
        ValueError: the file is neither; file and line are named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: no valid JSON at line {error.lineno}: {error.msg}") from error
    else:
        entries = []
        # Not splitlines(): it would also split at U+2028, which JSON strings may hold.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    entries.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}: line {number} is no valid JSON ({error.msg})") from error
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: entry {number} is no JSON object")
    return entries


def entries_of(
    path: Path, rows: Iterable[dict[str, Any]], convert: Callable[[dict[str, Any], int], Entry]
) -> list[Entry]:
    """Convert rows (given with their place), naming file and entry in errors."""
    entries = []
    for index, row in enumerate(rows):
        try:
            entries.append(convert(row, index))
        except KeyError as error:
            raise ValueError(f"{path}: entry {index + 1} has no key {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: entry {index + 1}: {error}") from error
    return entries


def gold_by_letter(letter: Any, options: Sequence[str]) -> int:
    """The index of the option that a letter names.

    Raises:
        ValueError: the letter is no option's.
    """
    text = str(letter).strip().rstrip(".)").strip("(").upper()
    if len(text) != 1 or text not in LETTERS[: len(options)]:
        raise ValueError(f"the gold answer {letter!r} is no letter of its {len(options)} options")
    return LETTERS.index(text)


def gold_by_text(answer: Any, options: Sequence[str]) -> int:
    """The index of the option with the answer's text; of options with the same text, the first.

    Raises:
        ValueError: no option has that text.
    """
    for index, option in enumerate(options):
        if option == answer:
            return index
    for index, option in enumerate(options):
        if option.strip() == str(answer).strip():
            return index
    raise ValueError(f"the gold answer {answer!r} is none of the options {', '.join(map(repr, options))}")


def option_texts(choices: Any) -> tuple[str, ...]:
    """Options given as plain texts; null and numbers become their JSON text.

    Raises:
        ValueError: not a list.
    """
    if not isinstance(choices, Iterable) or isinstance(choices, str | dict):
        raise ValueError(f"the options must be a list, are {choices!r}")
    return tuple(option if isinstance(option, str) else json.dumps(option) for option in choices)


def relative_path(path: Any) -> str:
    """A media path of an annotation, checked to stay within the benchmark's folder; a leading ``./`` goes away.

    Raises:
        ValueError: empty, absolute, or with ``..`` in it.
    """
    text = str(path or "").strip()
    parts = Path(text).parts
    if not parts or Path(text).is_absolute() or ".." in parts or "\0" in text:
        raise ValueError(f"the media path {path!r} must be a path inside the benchmark's folder")
    return str(Path(text))


def category(value: Any) -> str:
    """A category's value as text; lists (as in 13 rows of MMAU) are joined."""
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    return "unknown" if value is None or value == "" else str(value)
