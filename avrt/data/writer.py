"""Writing shards: samples to uncompressed tar files, deterministic byte for byte and written atomically."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from webdataset.writer import TarWriter

from avrt.data.manifest import MANIFEST_NAME, Manifest, ShardSummary, write_manifest
from avrt.data.records import JSON_MEMBER, EncodedClip, encode_clip, sample_members
from avrt.files.atomic import PARTIAL_SUFFIX, atomic_file
from avrt.sample import Sample


class OpenShard:
    """One shard being written; it takes its name only when the block ends without an exception.

    Equal samples give equal bytes: members are sorted and carry no time, user or group.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.summary: ShardSummary | None = None
        self._stack = ExitStack()
        self._keys: dict[str, int] = {}
        """The byte at which each sample begins."""
        self._sources: list[str] = []
        self._splits: list[str] = []
        self._checksums: list[int] = []

    def __enter__(self) -> Self:
        self._file = _HashingFile(self._stack.enter_context(atomic_file(self.path)))
        self._tar = TarWriter(self._file, user="", group="", mode=0o644, mtime=0, encoder=False)
        return self

    def __len__(self) -> int:
        return len(self._keys)

    def write(self, sample: Sample, encoded: EncodedClip) -> None:
        """Append one sample.

        Raises:
            ValueError: the sample's id cannot be a key, or is in the shard already.
        """
        members = sample_members(sample, encoded)
        if sample.id in self._keys:
            raise ValueError(f"sample {sample.id!r} is written twice to {self.path}")
        # tarfile's own count: what it was given, where the file has only what was flushed.
        self._keys[sample.id] = self._tar.tarstream.offset
        self._sources.append(sample.source)
        self._splits.append(sample.split)
        self._checksums.append(zlib.crc32(members[JSON_MEMBER]))
        self._tar.write({"__key__": sample.id, **members})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._file.abandoned = True
            self._stack.__exit__(kind, error, trace)
            return
        try:
            with self._stack:
                self._tar.close()
        finally:
            self._file.abandoned = True
        self.summary = ShardSummary(
            name=self.path.name,
            samples=len(self._keys),
            bytes=self._file.size,
            sha256=self._file.digest.hexdigest(),
            splits=dict(sorted(Counter(self._splits).items())),
            keys=list(self._keys),
            offsets=list(self._keys.values()),
            sources=self._sources,
            split_runs=[[split, len(list(run))] for split, run in groupby(self._splits)],
            checksums=self._checksums,
        )


class _HashingFile:
    """Passes writes to a file and computes their SHA-256.

    When `abandoned`, writes are dropped: the tar stream closes itself on garbage collection, when the file is gone.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.abandoned = False
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        if self.abandoned:
            return len(data)
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


class ShardWriter:
    """Write samples one by one to a set of shards, and the manifest at the end.

    ::

        with ShardWriter("shards/train", samples_per_shard=256) as writer:
            for sample in samples:
                writer.write(sample)

    If the block ends with an exception, no manifest is written, and the next writer starts over.

    Args:
        out_dir: made if absent. Must not hold a finished set, unless `overwrite`.
        prefix: shards are called ``<prefix>-000000.tar`` and so on.
        samples_per_shard: samples of each shard but the last.
        image_format: ``jpg``, or ``png`` for exact frames.
        jpeg_quality: 1 to 100.
        settings: how the samples were made (JSON values); stored in the manifest.
        overwrite: replace a finished set.
    """

    def __init__(
        self,
        out_dir: str | Path,
        *,
        prefix: str = "shard",
        samples_per_shard: int = 256,
        image_format: str = "jpg",
        jpeg_quality: int = 95,
        settings: dict[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard: must be at least 1, got {samples_per_shard}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", prefix):
            raise ValueError(f"prefix: must be letters, digits, '-' and '_', got {prefix!r}")
        self.out_dir = Path(out_dir)
        self.prefix = prefix
        self.samples_per_shard = samples_per_shard
        self.image_format = image_format
        self.jpeg_quality = jpeg_quality
        self.settings = {"image_format": image_format, "jpeg_quality": jpeg_quality, **(settings or {})}
        self.overwrite = overwrite
        self._summaries: list[ShardSummary] = []
        self._keys: set[str] = set()
        self._open: OpenShard | None = None

    def __enter__(self) -> Self:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        manifest = self.out_dir / MANIFEST_NAME
        if manifest.exists() and not self.overwrite:
            raise ValueError(f"{self.out_dir}: already holds a finished set of shards; choose another folder")
        # The manifest is deleted first: from here on the folder is an unfinished set, whatever happens.
        manifest.unlink(missing_ok=True)
        own = re.compile(rf"{re.escape(self.prefix)}-\d{{6}}\.tar({re.escape(PARTIAL_SUFFIX)})?")
        for path in self.out_dir.iterdir():
            if own.fullmatch(path.name):
                path.unlink()
        return self

    def write(self, sample: Sample, encoded: EncodedClip | None = None) -> None:
        """Append one sample.

        Args:
            encoded: media to store unchanged, for example from `ShardSet.media`; else the sample's clip is encoded.

        Raises:
            ValueError: the sample has no clip, an id that cannot be a key, or one that was written before.
        """
        if sample.id in self._keys:
            raise ValueError(f"sample {sample.id!r} is written twice to {self.out_dir}")
        if encoded is None:
            if sample.clip is None:
                raise ValueError(f"sample {sample.id!r} has no clip to write")
            try:
                encoded = encode_clip(sample.clip, image_format=self.image_format, jpeg_quality=self.jpeg_quality)
            except ValueError as error:
                raise ValueError(f"sample {sample.id!r}: {error}") from error
        if self._open is None:
            name = f"{self.prefix}-{len(self._summaries):06d}.tar"
            self._open = OpenShard(self.out_dir / name).__enter__()
        self._open.write(sample, encoded)
        self._keys.add(sample.id)
        if len(self._open) == self.samples_per_shard:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._open is not None:
            shard, self._open = self._open, None
            shard.__exit__(None, None, None)
            assert shard.summary is not None
            self._summaries.append(shard.summary)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            if self._open is not None:
                self._open.__exit__(kind, error, trace)
            return
        self._finish_shard()
        write_manifest(self.out_dir, Manifest(tuple(self._summaries), self.settings))
