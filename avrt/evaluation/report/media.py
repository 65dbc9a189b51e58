"""Frames and audio of an evaluation's clips as small files beside the report's page.

A clip ``K`` becomes ``media/K/frame00.jpg`` ..., ``media/K/audio.flac`` and ``media/K/clip.json``, which is written
last: with it the clip is complete, and a second report in the same folder does not write it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from avrt.data.faults import ShardError
from avrt.data.records import AUDIO_MEMBER, EncodedClip, decode_clip, encode_clip
from avrt.data.shards import ShardSet
from avrt.evaluation.benchmarks import BENCHMARKS, Item, paths_of
from avrt.evaluation.item_clips import KINDS, MAX_FRAMES, MAX_SOURCE_SECONDS, join_clips, read_sample
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.files.atomic import write_atomic
from avrt.files.json_text import decode_json
from avrt.media.errors import MediaError, MediaReason
from avrt.media.video import fit
from avrt.sample import LETTERS, SAMPLING_RATE, Sample
from avrt.storage.locations import is_remote, parent_and_name

MEDIA_FOLDER = "media"
CLIP_FILE = "clip.json"
THUMBNAIL_PIXELS = 384 * 216
JPEG_QUALITY = 80
_HIGHEST = {"num_frames": MAX_FRAMES, "frames_per_second": 1000, "max_audio_seconds": MAX_SOURCE_SECONDS}
_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class ShownClip:
    """The media of one clip on the page; paths are relative to the page.

    Attributes:
        frames: thumbnails in order of time.
        times: time of each frame in seconds.
        audio: audio file, or None.
        audio_seconds: length of the audio, at most what the model got.
        seconds: length of the source.
        width, height: display size of the source in pixels, 0 without frames.
        is_image: the one frame is an image.
        problem: why the clip cannot be shown, else None.
    """

    frames: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    audio: str | None = None
    audio_seconds: float = 0.0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    is_image: bool = False
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without empty ones."""
        return {name: value for name, value in asdict(self).items() if value}


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
        folder = self.out / MEDIA_FOLDER / clip_key(record)
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
        known = _read_made(folder, made_from)
        if known is not None:
            return known
        try:
            encoded = self._encode(info, record, root, sources)
        except (MediaError, ShardError) as error:
            return ShownClip(problem=f"{error.reason}: {error.detail}")
        except (OSError, ValueError) as error:  # of a remote shard
            return ShownClip(problem=str(error))
        folder.mkdir(parents=True, exist_ok=True)
        shown = _write_members(folder, encoded)
        description = {"made_from": made_from, "shown": asdict(shown)}
        write_atomic(folder / CLIP_FILE, (json.dumps(description, indent=1) + "\n").encode())
        return shown

    def remove_others(self, keys: Iterable[str]) -> None:
        """Remove clips of an earlier report in the same folder that this one does not have."""
        kept = set(keys)
        for folder in (self.out / MEDIA_FOLDER).glob("*"):
            if folder.name not in kept and _KEY.fullmatch(folder.name) and (folder / CLIP_FILE).is_file():
                shutil.rmtree(folder)

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
        stored = shards.media(places[key])
        clip = decode_clip(stored)
        if clip.frames is None:
            return stored
        _, _, height, width = clip.frames.shape
        thumbnails = torch.stack([fit(frame, width, height, THUMBNAIL_PIXELS) for frame in clip.frames])
        small = encode_clip(replace(clip, frames=thumbnails, waveform=None), jpeg_quality=JPEG_QUALITY)
        audio = {name: data for name, data in stored.members.items() if name == AUDIO_MEMBER}
        return EncodedClip(small.members | audio, stored.info)


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


def _write_members(folder: Path, encoded: EncodedClip) -> ShownClip:
    """Write the members of a clip."""
    names = sorted(encoded.members)
    for name in names:
        write_atomic(folder / _file_name(name), encoded.members[name])
    info = encoded.info
    place = f"{MEDIA_FOLDER}/{folder.name}"
    return ShownClip(
        frames=tuple(f"{place}/{name}" for name in names if name.startswith("frame")),
        times=tuple(round(time, 3) for time in info["timestamps"]),
        audio=f"{place}/{_file_name(AUDIO_MEMBER)}" if AUDIO_MEMBER in names else None,
        audio_seconds=round(info["num_audio_samples"] / SAMPLING_RATE, 3),
        seconds=round(info["duration"], 3),
        width=info["width"],
        height=info["height"],
        is_image=info["is_image"],
    )


def _file_name(member: str) -> str:
    return "audio.flac" if member == AUDIO_MEMBER else member


def _read_made(folder: Path, made_from: dict[str, Any]) -> ShownClip | None:
    """The clip as an earlier report wrote it from the same sources with the same settings, or None."""
    try:
        description = decode_json((folder / CLIP_FILE).read_text(encoding="utf-8"))
        if description["made_from"] != made_from:
            return None
        values = description["shown"]
        if set(values) != {field.name for field in fields(ShownClip)}:
            return None  # by another version of this program
        shown = ShownClip(**values | {"frames": tuple(values["frames"]), "times": tuple(values["times"])})
    except (OSError, ValueError, KeyError, TypeError):
        # Missing, or of something else: it is written again.
        return None
    files = [*shown.frames, *([shown.audio] if shown.audio else [])]
    return shown if all((folder.parents[1] / name).is_file() for name in files) else None
