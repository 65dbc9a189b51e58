"""Shared by all benchmarks: the item, the benchmark's description, finding its files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from avrt.evaluation.records.record import Record
from avrt.media.clip_files import ClipFolder, has_extension, is_image
from avrt.sample import LETTERS, Sample

MediaPaths = dict[str, str | tuple[str, ...]]
"""Media of an item by kind (``video``, ``audio``, ``image``): a path, or several in their order."""

MAX_FILES = 32
"""Most files of an item: each takes the memory of a clip."""

OfficialRule = Callable[[Record], bool | None]
"""A benchmark's own scoring rule, see `avrt.evaluation.benchmarks.official_rules`."""

OwnScores = Callable[[Sequence[Record]], dict[str, Any]]
"""What a benchmark reports beside the accuracy, from all scored records of a run, as JSON values."""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, with the paths of its media.

    Attributes:
        sample: the question; its clip is not read yet.
        index: position in the benchmark's own order, from 0.
        media: paths relative to the benchmark's folder.
        missing: required media that do not exist.
        categories: the benchmark's own categories of the item, name to value.
        official_gold: the answer that the benchmark's own scorer compares with, if it is not the gold letter.
    """

    sample: Sample
    index: int
    media: MediaPaths
    missing: tuple[str, ...] = ()
    categories: dict[str, str] = field(default_factory=dict)
    official_gold: str | None = None


@dataclass(frozen=True)
class Entry:
    """One annotation as its reader returns it, before its media are looked for.

    Attributes:
        sample, categories, official_gold: as in `Item`.
        media: paths relative to the benchmark's folder; required.
        optional_media: likewise, used only if they exist (an audio file beside a video that has its own audio).
    """

    sample: Sample
    media: MediaPaths
    optional_media: MediaPaths = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    official_gold: str | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark: its files, reader and scoring rule.

    Attributes:
        name: as in commands, configs and run folders.
        title: as in tables.
        items: number of items its authors state; 0 if they state none.
        group: the paper's part of Table 3, ``audio_visual`` or ``audio``.
        in_average: whether it is part of its group's average (AVQA is not: the students were trained on it).
        own_scores: numbers that its authors report beside the accuracy (scores of groups of questions, F1), or None.
        folders: names that its folder may have under the data root; else the root itself is tried.
        annotation_files: names that its annotation file may have within its folder.
        read: annotation file to entries.
        official: the benchmark's own scoring rule, or None where none is published.
        official_source: source of that rule, in a few words.
        compares_texts: the rule compares the reply with the options' texts, so that it cannot read a bare letter.
        older_rules: earlier official rules by name, each with its source.
        media_folders: folders below its own in which media are looked for, in order, also by names without extension;
            empty if paths are used as they are.
    """

    name: str
    title: str
    items: int = 0
    group: Literal["audio_visual", "audio"] = "audio_visual"
    folders: tuple[str, ...]
    annotation_files: tuple[str, ...]
    read: Callable[[Path], list[Entry]]
    official: OfficialRule | None = None
    official_source: str = "ours: the authors publish no rule for free text"
    in_average: bool = True
    own_scores: OwnScores | None = None
    compares_texts: bool = False
    older_rules: Mapping[str, tuple[OfficialRule, str]] = field(default_factory=dict)
    media_folders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"a benchmark's name is a folder's: letters, digits, '-' and '_'; got {self.name!r}")

    def annotations(self, root: str | Path) -> Path | None:
        """The benchmark's annotation file under a data root (or in its own folder); None if there is none."""
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
            annotations: the annotation file, if it has another name or place; `root` is then the media's folder.

        Raises:
            ValueError: there is no annotation file.
        """
        if annotations is not None:
            if not Path(annotations).is_file():
                raise ValueError(f"{annotations}: there is no annotation file at this path")
            return Path(annotations), Path(root)
        path = self.annotations(root)
        if path is None:
            raise ValueError(
                f"{root}: has no {self.title}; expected {' or '.join(self.annotation_files)} in it "
                f"or in its folder {' or '.join(self.folders)}"
            )
        return path, self.media_folder(path)

    def load(self, root: str | Path, *, annotations: str | Path | None = None) -> list[Item]:
        """All items, in the annotation file's order, including those without media; arguments as in `locate`.

        Raises:
            ValueError: no annotation file, or a wrong one (a gold answer that is not an option, ...).
        """
        path, folder = self.locate(root, annotations)
        entries = self.read(path)
        if not entries:
            raise ValueError(f"{path}: has no questions of {self.title}")
        seen: set[str] = set()
        for entry in entries:
            if entry.sample.id in seen:
                raise ValueError(f"{path}: id {entry.sample.id!r} occurs twice; every question needs an id of its own")
            seen.add(entry.sample.id)
            count = sum(len(paths_of(value)) for value in entry.media.values())
            if count > MAX_FILES:
                raise ValueError(f"{path}: {entry.sample.id!r} has {count} media files; at most {MAX_FILES} are read")
        files = _MediaFiles(folder, self.media_folders)
        return [_locate(entry, index, files) for index, entry in enumerate(entries)]

    def media_folder(self, annotations: Path) -> Path:
        """The benchmark's folder, which its media paths are relative to."""
        for name in self.annotation_files:
            if annotations.match(f"*/{name}"):
                return annotations.parents[len(Path(name).parts) - 1]
        return annotations.parent


class _MediaFiles:
    """Finds the media of a benchmark below its folder."""

    def __init__(self, folder: Path, below: Sequence[str]) -> None:
        self._folder = folder
        self._below = [ClipFolder(folder / name) for name in below]

    def find(self, path: str) -> str | None:
        """A file's path relative to the folder, or None."""
        if not self._below:
            return path if (self._folder / path).is_file() else None
        found = next((found for clips in self._below if (found := clips.find(path)) is not None), None)
        return None if found is None else str(found.relative_to(self._folder))

    def expected(self, path: str) -> str:
        """Where a file that is missing was looked for first."""
        name = path if has_extension(path) or is_image(path) else f"{path}.mp4"
        return str((self._below[0].folder / name).relative_to(self._folder)) if self._below else path


def _locate(entry: Entry, index: int, files: _MediaFiles) -> Item:
    media: MediaPaths = {}
    missing: list[str] = []
    for kind, value in entry.media.items():
        paths = paths_of(value)
        found = [files.find(path) for path in paths]
        missing += [files.expected(path) for path, file in zip(paths, found, strict=True) if file is None]
        shown = tuple(file or files.expected(path) for path, file in zip(paths, found, strict=True))
        media[kind] = shown[0] if isinstance(value, str) else shown
    for kind, value in entry.optional_media.items():
        if all(files.find(path) for path in paths_of(value)):
            media[kind] = value
    return Item(
        sample=entry.sample,
        index=index,
        media=media,
        missing=tuple(missing),
        categories=entry.categories,
        official_gold=entry.official_gold,
    )


def paths_of(value: str | Sequence[str]) -> tuple[str, ...]:
    """One path or several, as several."""
    return (value,) if isinstance(value, str) else tuple(value)


def entries_of(
    path: Path, rows: Iterable[dict[str, Any]], convert: Callable[[dict[str, Any], int], Entry]
) -> list[Entry]:
    """Convert rows (`convert` gets each with its number); errors name file and entry."""
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
        ValueError: no option has this letter.
    """
    text = str(letter).strip().rstrip(".)").strip("(").upper()
    if len(text) != 1 or text not in LETTERS[: len(options)]:
        raise ValueError(f"the gold answer {letter!r} is not a letter of its {len(options)} options")
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
        raise ValueError(f"the options must be a list, got {choices!r}")
    return tuple(option if isinstance(option, str) else json.dumps(option) for option in choices)


def relative_path(path: Any) -> str:
    """A media path of an annotation, checked to stay inside the benchmark's folder; a leading ``./`` is removed.

    Raises:
        ValueError: empty, absolute, or with ``..`` in it.
    """
    text = str(path or "").strip()
    parts = Path(text).parts
    if not parts or Path(text).is_absolute() or ".." in parts or "\0" in text:
        raise ValueError(f"the media path {path!r} must be a path inside the benchmark's folder")
    return str(Path(text))


def relative_paths(paths: Any) -> list[str]:
    """Media paths of an annotation, each checked as in `relative_path`; a single one may be given without a list.

    Raises:
        ValueError: there is none, or one is wrong.
    """
    listed = [paths] if isinstance(paths, str) else [path for path in paths or () if path]
    if not listed:
        raise ValueError("a question needs at least one file of this kind, got none")
    return [relative_path(path) for path in listed]


def category(value: Any) -> str:
    """A category's value as text; lists (as in 13 rows of MMAU) are joined."""
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    return "unknown" if value is None or value == "" else str(value)
