"""Frames and audio of an evaluation's clips as small files beside the report's page, see `avrt.pages.clip_files`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from avrt.data.faults import ShardError
from avrt.data.records import EncodedClip, encode_clip
from avrt.data.shards import ShardSet
from avrt.evaluation.benchmarks import BENCHMARKS, Item, paths_of
from avrt.evaluation.item_clips import KINDS, MAX_FRAMES, MAX_SOURCE_SECONDS, join_clips, read_sample
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.media.errors import MediaError, MediaReason
from avrt.pages.clip_files import (
    JPEG_QUALITY,
    THUMBNAIL_PIXELS,
    ShownClip,
    clip_folder,
    read_clip,
    thumbnails,
    write_clip,
)
from avrt.sample import LETTERS, Sample
from avrt.storage.locations import is_remote, parent_and_name

_HIGHEST = {"num_frames": MAX_FRAMES, "frames_per_second": 1000, "max_audio_seconds": MAX_SOURCE_SECONDS}


def clip_key(record: Record) -> str:
    """The name of the clip's folder: the same for items that share a clip."""
    named = json.dumps([record.benchmark, sorted(record.media.items())])
    return hashlib.sha256(named.encode()).hexdigest()[:16]


class ClipExporter:
    """Writes thumbnails and audio of clips, each clip once.

    Args:
        out: the report's folder.
        data: folder of the benchmarks' data, if it is not where the run found it. Nothing outside it is opened then,
            except through links in it.
    """

    def __init__(self, out: str | Path, data: str | Path | None = None) -> None:
        self.out = Path(out)
        self.data = None if data is None else Path(data)
        self._shards: dict[Path | str, tuple[ShardSet, dict[str, int]]] = {}
        self._lock = Lock()

    def export(
        self,
        items: Iterable[tuple[RunInfo, Record]],
        *,
        workers: int | None = None,
        on_clip: Callable[[], None] | None = None,
    ) -> dict[str, ShownClip]:
        """Write the clips of all items.

        Args:
            items: records, each with its run, which has the place of the data and the media settings.
            workers: threads (decoding runs outside Python's lock); one per core by default.
            on_clip: called after each clip, for a progress bar.

        Returns:
            The clips by `clip_key`.
        """
        clips: dict[str, tuple[RunInfo, Record]] = {}
        for info, record in items:
            clips.setdefault(clip_key(record), (info, record))
        with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
            shown = {}
            results = pool.map(lambda entry: self.export_clip(*entry), clips.values())
            for key, clip in zip(clips, results, strict=True):
                shown[key] = clip
                if on_clip is not None:
                    on_clip()
        return shown

    def export_clip(self, info: RunInfo, record: Record) -> ShownClip:
        """Write one clip's files, unless they exist already."""
        if not record.media:
            return ShownClip(problem="the record names no media")
        folder = clip_folder(self.out, clip_key(record))
        try:
            settings = _settings(info)
            root, sources = self._find(info, record)
        except (FileNotFoundError, ValueError) as error:
            return ShownClip(problem=str(error))
        except OSError as error:  # a name that is too long, a folder without permission
            return ShownClip(problem=f"cannot be opened: {error.strerror}")
        made_from = {
            "sources": {kind: _version(source) for kind, source in sorted(sources.items())},
            "thumbnail_pixels": THUMBNAIL_PIXELS,
            "jpeg_quality": JPEG_QUALITY,
            **settings,
        }
        known = read_clip(folder, made_from)
        if known is not None:
            return known
        try:
            encoded = self._encode(info, record, root, sources)
        except (MediaError, ShardError) as error:
            return ShownClip(problem=f"{error.reason}: {error.detail}")
        except (OSError, ValueError) as error:  # of a remote shard
            return ShownClip(problem=str(error))
        return write_clip(folder, encoded, made_from)

    def _find(self, info: RunInfo, record: Record) -> tuple[Path, dict[str, Path | str]]:
        """The folder that a record's media paths are relative to, and its files by kind; the URL of a remote shard.

        Raises:
            FileNotFoundError: no folder has them all. The message has no absolute path, since the page shows it.
            ValueError: a path leads outside the folder, or a URL of a kind that is not read.
        """
        kinds = ("shard",) if "shard" in record.media else KINDS
        names = {
            kind if len(paths) == 1 else f"{kind} {number}": path
            for kind, paths in ((kind, paths_of(value)) for kind, value in record.media.items() if kind in kinds)
            for number, path in enumerate(paths, start=1)
        }
        if is_remote(names.get("shard", "")):
            if self.data is None:
                return Path(), {"shard": names["shard"]}
            names["shard"] = parent_and_name(names["shard"])[1]  # a copy in that folder; no address is opened
        for name in names.values():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"the media path {name!r} leads outside the data folder")
        missing: list[str] = []
        for root in self._roots(info):
            missing = [name for name in names.values() if not (root / name).is_file()]
            if not missing:
                return root, {kind: root / name for kind, name in names.items()}
        raise FileNotFoundError(f"not found: {', '.join(missing)}")

    def _roots(self, info: RunInfo) -> Iterator[Path]:
        if self.data is None:
            yield Path(info.data_root)
            return
        benchmark = BENCHMARKS.get(info.benchmark)
        for name in benchmark.folders if benchmark else (info.benchmark,):
            yield self.data / name
        yield self.data

    def _encode(self, info: RunInfo, record: Record, root: Path, sources: dict[str, Path | str]) -> EncodedClip:
        if "shard" in sources:
            return self._from_shard(sources["shard"], record)
        sample = Sample(
            id=record.id, question=record.question, options=record.options, answer=LETTERS.index(record.gold)
        )
        item = Item(sample, record.index, record.media)
        clips = read_sample(item, root, max_pixels=THUMBNAIL_PIXELS, **_settings(info)).clips
        return encode_clip(join_clips(clips), jpeg_quality=JPEG_QUALITY)

    def _from_shard(self, location: Path | str, record: Record) -> EncodedClip:
        with self._lock:
            if location not in self._shards:
                shards = ShardSet(location)
                self._shards[location] = shards, {key: index for index, key in enumerate(shards.keys)}
            shards, places = self._shards[location]
        key = record.media.get("key", record.id)
        if key not in places:
            raise MediaError(MediaReason.MISSING_FILE, f"the shard has no sample {key!r}", location)
        return thumbnails(shards.media(places[key]))


def _version(source: Path | str) -> int | str:
    """What changes with a file's content, as far as that is known without reading it."""
    return source if isinstance(source, str) else source.stat().st_size


def _settings(info: RunInfo) -> dict[str, Any]:
    """How much of each clip the model got, as arguments of `read_sample`.

    Raises:
        ValueError: a run that others wrote asks for no frames or audio, or for more than there can be.
    """
    given = {name: info.decoding[name] for name in _HIGHEST if info.decoding.get(name)}
    for name, value in given.items():
        kinds = int if name == "num_frames" else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= _HIGHEST[name]:
            limit = _HIGHEST[name]
            raise ValueError(f"the run's {name} is {value!r:.40}, which is not a number above 0 and up to {limit:g}")
    return given
