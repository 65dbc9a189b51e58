"""Questions about clips in shards of other tools: from the shards' own JSON members, or from a file beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rich.progress import track

from avrt.data.clip_sources import ShardClips
from avrt.data.faults import FaultReason, ShardError
from avrt.data.foreign_index import ForeignEntry, index_shard, read_record
from avrt.data.foreign_members import clean_key, sort_members
from avrt.data.foreign_shards import NoClipError, failure_of, foreign_record, is_foreign, own_id
from avrt.data.records import RecordError
from avrt.media.clip_files import without_extension
from avrt.media.errors import MediaReason
from avrt.sample import LeftOut, Sample
from avrt.storage.locations import expand, is_folder, join, shown
from avrt.storage.shard_cache import ShardCache, ShardFile

KEY = "the key"
NAME_COLUMNS = (
    "video_name",
    "video_id",
    "videoid",
    "videoID",
    "video",
    "clip_name",
    "clip_id",
    "name",
    "filename",
    "file_name",
    "path",
    "url",
    "id",
)
"""Keys of a JSON member that may hold the name by which annotations call the clip."""


@dataclass(frozen=True)
class ShardQuestions:
    """Questions, those that have no clip or are not questions, and where the clips are.

    Attributes:
        found_by: what annotations and shards have in common, such as ``video_name``; None without annotations.
    """

    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...]
    clips: ShardClips
    found_by: str | None = None


def read_shards(
    locations: Sequence[str], cache: ShardCache, *, split: str = "train", show_progress: bool = True
) -> ShardQuestions:
    """The questions in the JSON members of shards, in the shards' order.

    An id that is only the key of a sample, and occurs in several shards, gets the shard's name in front.

    Raises:
        ValueError: no question, an id that the JSON members state twice, or shards of this project.
        ShardError: a shard that is damaged or hostile.
    """
    found: list[tuple[Sample, ForeignEntry, bool]] = []
    left_out: list[LeftOut] = []
    for entry, record, fault in _entries(locations, cache, show_progress):
        try:
            if fault is not None:
                raise fault
            sample = foreign_record(entry.members, record, entry.key, split)
            found.append((sample, entry, own_id(record) is not None))
        except NoClipError as error:
            name = clean_key(own_id(record) or entry.key)
            left_out.append(LeftOut(name, entry.key, MediaReason.MISSING_FILE.value, error.detail))
        except RecordError as error:
            left_out.append(LeftOut(clean_key(entry.key), entry.key, error.reason, error.detail))
    if not found:
        example = f"; for example {left_out[0].source!r}: {left_out[0].detail}" if left_out else ""
        raise ValueError(f"shards: {len(left_out)} samples in {len(locations)} shards, and none can be used{example}")
    counts = Counter(sample.id for sample, _, _ in found)
    samples: list[Sample] = []
    entries: dict[str, ForeignEntry] = {}
    for sample, entry, stated in found:
        if counts[sample.id] > 1 and not stated:
            sample = replace(sample, id=clean_key(f"{PurePosixPath(entry.location).stem}_{entry.key}"))
        if sample.id in entries:
            raise ValueError(
                f"shards: id {sample.id!r} occurs twice, in {shown(entries[sample.id].location)} and "
                f"{shown(entry.location)}; every "
                "question needs an id of its own"
            )
        entries[sample.id] = entry
        samples.append(sample)
    return ShardQuestions(tuple(samples), tuple(left_out), ShardClips(entries, cache))


def match_questions(
    samples: Sequence[Sample], locations: Sequence[str], cache: ShardCache, *, show_progress: bool = True
) -> ShardQuestions:
    """Questions of an annotation file with their clips in shards.

    Annotations name a clip by the sample's key in the shard or by one of the keys of its JSON member
    (`NAME_COLUMNS`), with or without folder and extension, or by the video's id in a YouTube address. Of these the one
    that finds the most clips is used for all questions.

    Raises:
        ValueError: no clip is found; the message shows names of both sides.
        ShardError: a shard that is damaged or hostile.
    """
    columns: dict[str, dict[str, list[ForeignEntry]]] = {}
    failures: dict[str, str] = {}
    examples: dict[str, str] = {}
    for entry, record, _ in _entries(locations, cache, show_progress):
        record = record if isinstance(record, dict) else {}
        if not sort_members(entry.members).has_clip:
            failures[f"{entry.location}/{entry.key}"] = failure_of(record) or "the sample in the shard has no clip"
        for column, value in ((KEY, entry.key), *((name, record.get(name)) for name in NAME_COLUMNS)):
            if isinstance(value, str | int) and not isinstance(value, bool):
                examples.setdefault(column, str(value))
                for name in _names(str(value)):
                    columns.setdefault(column, {}).setdefault(name, []).append(entry)
    wanted = {sample.source: next(iter(_names(sample.source)), "") for sample in samples}
    hits = {column: sum(name in known for name in wanted.values()) for column, known in columns.items()}
    found_by = max(hits, key=lambda column: hits[column], default=KEY)
    if not hits.get(found_by):
        theirs = ", ".join(f"{column} {value!r}" for column, value in examples.items()) or "nothing"
        raise ValueError(
            f"shards: none of the annotations' clips, such as {next(iter(wanted), '')!r}, is in the shards; their "
            f"first sample is called {theirs}; name the clips in the annotations by one of these"
        )
    entries: dict[str, ForeignEntry] = {}
    kept, left_out = [], []
    for sample in samples:
        candidates = columns[found_by].get(wanted[sample.source], [])
        usable = [entry for entry in candidates if f"{entry.location}/{entry.key}" not in failures]
        if not candidates:
            detail = f"no sample in the shards is called so by {found_by}"
        elif not usable:
            detail = failures[f"{candidates[0].location}/{candidates[0].key}"]
        elif len({_media_sizes(entry) for entry in usable}) > 1:
            places = ", ".join(f"{shown(entry.location)}/{entry.key}" for entry in usable[:2])
            detail = f"several different clips are called so by {found_by}, such as {places}"
        else:
            entries[sample.id] = usable[0]
            kept.append(sample)
            continue
        left_out.append(LeftOut(sample.id, sample.source, MediaReason.MISSING_FILE.value, detail))
    if not kept:
        raise ValueError(f"shards: no question has a clip; for example {left_out[0].source!r}: {left_out[0].detail}")
    return ShardQuestions(tuple(kept), tuple(left_out), ShardClips(entries, cache), found_by)


def _entries(
    locations: Sequence[str], cache: ShardCache, show_progress: bool
) -> Iterator[tuple[ForeignEntry, Any, RecordError | None]]:
    """Every sample of the shards with its JSON member, or the reason why that cannot be read."""
    shards = list(dict.fromkeys(name for location in locations for name in _shards_at(location)))
    cache.fetch_ahead([ShardFile(location) for location in shards])
    for location in track(shards, "reading shards", disable=not show_progress):
        with cache.open(ShardFile(location)) as file:
            for entry in index_shard(file, location):
                record: Any = None
                fault: RecordError | None = None
                try:
                    record = read_record(file, entry)
                except RecordError as error:
                    if error.reason == FaultReason.FORBIDDEN_MEMBER:
                        raise ShardError(location, FaultReason.FORBIDDEN_MEMBER, error.detail, entry.key) from error
                    fault = error
                if isinstance(record, dict) and not is_foreign(entry.members, record):
                    raise ValueError(f"shards: {shown(location)} was packed already; train on it as it is")
                yield entry, record, fault


def _shards_at(location: str) -> list[str]:
    """The shard itself, or those in a folder."""
    return expand(join(location, "*.tar")) if is_folder(location) else [location]


def _names(text: str) -> list[str]:
    """What a clip may be called: the name without folder and extension, the whole text, the id in a video's address."""
    address = urlsplit(text) if "://" in text else None
    path = address.path if address else text
    names = [without_extension(PurePosixPath(path).name), text]
    if address:
        names += parse_qs(address.query).get("v", [])
    return [name for name in dict.fromkeys(names) if name]


def _media_sizes(entry: ForeignEntry) -> tuple[int, ...]:
    kinds = sort_members(entry.members)
    names: Mapping[str, None] = dict.fromkeys(
        name for name in (kinds.video, kinds.audio, kinds.image, *kinds.frames) if name
    )
    return tuple(entry.members[name][1] for name in names)
