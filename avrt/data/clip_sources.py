"""Where `avrt.data.packing` takes clips from: a folder of files, or shards that other tools made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from avrt.data.clip_workers import ClipReader, ClipSettings
from avrt.data.foreign_index import ForeignEntry, read_record
from avrt.data.foreign_members import sort_members
from avrt.data.foreign_shards import ForeignReader
from avrt.data.records import EncodedClip, RecordError
from avrt.data.tar_members import read_part
from avrt.files.anonymous_file import anonymous_file
from avrt.media.clip_files import ClipFolder, is_image
from avrt.media.errors import MediaError, MediaReason
from avrt.sample import Sample
from avrt.storage.locations import is_remote
from avrt.storage.shard_cache import ShardCache, ShardFile

COPY_BYTES = 2**24


class SampleReader(Protocol):
    """Reads the clips of samples, one at a time."""

    def read(self, sample: Sample) -> EncodedClip:
        """Read and encode a sample's clip.

        Raises:
            MediaError: it cannot be used.
        """
        ...

    def close(self) -> None:
        """End the child process, at once."""
        ...


class ClipSource(Protocol):
    """The clips of a set of questions."""

    def state(self, sample: Sample) -> list[Any]:
        """JSON values that change when the sample's clip does."""
        ...

    def clip_of(self, sample: Sample) -> str:
        """A name of the sample's clip; samples with equal names share it."""
        ...

    def open_reader(self, settings: ClipSettings, timeout_seconds: float) -> SampleReader:
        """A reader for one thread; its child process starts at the first clip."""
        ...


class VideoFolder:
    """Clips as files below one folder, found by `Sample.source` and `Sample.audio_source`."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"videos: {folder} is not a folder")
        self._files = ClipFolder(folder)

    def state(self, sample: Sample) -> list[Any]:
        state: list[Any] = [self._file_state(sample.source)]
        if sample.audio_source:
            state += [sample.audio_source, self._file_state(sample.audio_source)]
        return state

    def _file_state(self, name: str) -> list[int] | None:
        """Size and time of change of a clip's file, or None where there is none."""
        path = self._files.find(name)
        try:
            status = None if path is None else path.stat()
        except FileNotFoundError:
            return None  # a broken link
        return None if status is None else [status.st_size, status.st_mtime_ns]

    def clip_of(self, sample: Sample) -> str:
        return json.dumps([sample.source, sample.audio_source])

    def open_reader(self, settings: ClipSettings, timeout_seconds: float) -> SampleReader:
        return _FolderReader(self._files, ClipReader(settings, timeout_seconds=timeout_seconds))


class _FolderReader:
    def __init__(self, files: ClipFolder, reader: ClipReader) -> None:
        self._files = files
        self._reader = reader

    def read(self, sample: Sample) -> EncodedClip:
        audio = self._files.path(sample.audio_source) if sample.audio_source else None
        if sample.source == sample.audio_source:
            return self._reader.read_files(audio=audio)
        path = self._files.path(sample.source)
        if is_image(path.name):
            return self._reader.read_files(image=path, audio=audio)
        return self._reader.read_files(video=path, audio=audio)

    def close(self) -> None:
        self._reader.close()


class ShardClips:
    """Clips in shards of other tools.

    Args:
        entries: the shard's sample with each question's clip, by the question's id.
        cache: where remote shards are kept.
    """

    def __init__(self, entries: Mapping[str, ForeignEntry], cache: ShardCache) -> None:
        self.entries = entries
        self.cache = cache

    @property
    def has_frames(self) -> bool:
        """Whether any clip can have frames."""
        kinds = (sort_members(entry.members) for entry in self.entries.values())
        return any(kind.video or kind.image or kind.frames for kind in kinds)

    @property
    def has_audio(self) -> bool:
        """Whether any clip can have audio."""
        kinds = (sort_members(entry.members) for entry in self.entries.values())
        return any(kind.video or kind.audio for kind in kinds)

    def state(self, sample: Sample) -> list[Any]:
        entry = self.entries[sample.id]
        # A remote shard's copy is as new as its last transfer, which says nothing.
        changed = None if is_remote(entry.location) else Path(entry.location).stat().st_mtime_ns
        return [entry.location, changed, dict(entry.members)]

    def clip_of(self, sample: Sample) -> str:
        entry = self.entries[sample.id]
        return f"{entry.location}/{entry.key}"

    def open_reader(self, settings: ClipSettings, timeout_seconds: float) -> SampleReader:
        return _ShardReader(self, ForeignReader(settings, timeout_seconds=timeout_seconds))


class _ShardReader:
    def __init__(self, clips: ShardClips, reader: ForeignReader) -> None:
        self._clips = clips
        self._reader = reader

    def read(self, sample: Sample) -> EncodedClip:
        entry = self._clips.entries[sample.id]
        with self._clips.cache.open(ShardFile(entry.location)) as shard:

            def as_file(name: str) -> AbstractContextManager[Path]:
                offset, size = entry.members[name]
                return anonymous_file(_blocks(shard, entry.location, offset, size), size)

            try:
                record = read_record(shard, entry) if sort_members(entry.members).frames else None
                encoded = self._reader.encoded(entry.members, record if isinstance(record, dict) else None, as_file)
                self._reader.require_streams(encoded)
                return encoded
            except RecordError as error:
                raise MediaError(MediaReason.UNREADABLE, error.detail) from error

    def close(self) -> None:
        self._reader.close()


def _blocks(shard: BinaryIO, location: str, offset: int, size: int) -> Iterator[bytes]:
    """A member in parts: a video may not fit into memory."""
    for begin in range(offset, offset + size, COPY_BYTES):
        yield read_part(shard, location, begin, min(begin + COPY_BYTES, offset + size))
