"""Clips and questions to shards, in parallel and resumable.

The questions are cut into groups of fixed size; each group becomes one shard, whatever the number of workers, so the
shards' bytes depend on the input and the settings alone. A group's record in ``.pack/`` is written after its shard:
a run that was stopped, or killed, goes on with the groups that have none. `manifest.json` comes last.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avrt.data.clip_workers import ClipReader, ClipSettings
from avrt.data.manifest import MANIFEST_NAME, Manifest, sum_counts, write_manifest
from avrt.data.pack_plan import (
    Group,
    GroupResult,
    LeftOut,
    check_samples,
    find_leftovers,
    finished_result,
    make_groups,
    prepare,
    write_record,
)
from avrt.data.records import EncodedClip
from avrt.data.writer import OpenShard
from avrt.files.atomic import write_atomic
from avrt.files.folder_lock import FolderLock
from avrt.media.clip_files import clip_file
from avrt.media.errors import MediaError
from avrt.media.reader import MAX_FRAME_PIXELS
from avrt.sample import Sample

LEFT_OUT_NAME = "left_out.jsonl"

FULL_SHARD = 256
FEWEST_SAMPLES = 4
WANTED_SHARDS = 32
"""Default size of a shard: `FULL_SHARD` samples, less where that would make fewer than `WANTED_SHARDS` shards, because
a shard is one worker's task; never below `FEWEST_SAMPLES`."""

TRIED_BEFORE_STOPPING = 50
"""Questions to try before the share of failures can stop the run early."""


@dataclass(frozen=True)
class PackReport:
    """What came of packing; `resumed_shards` of the manifest's were there from an earlier run."""

    manifest: Manifest
    left_out: tuple[LeftOut, ...]
    resumed_shards: int
    seconds: float


class _Stopped(Exception):
    """Another worker's error, or the user, ended the run."""


def pack(
    samples: Sequence[Sample],
    videos_dir: str | Path,
    out_dir: str | Path,
    *,
    workers: int | None = None,
    num_frames: int = 8,
    max_audio_seconds: float = 10.0,
    max_pixels: int = MAX_FRAME_PIXELS,
    image_format: str = "jpg",
    jpeg_quality: int = 95,
    require_video: bool = True,
    require_audio: bool = True,
    samples_per_shard: int | None = None,
    clip_timeout_seconds: float = 120.0,
    max_failures: float = 0.5,
    show_progress: bool = True,
) -> PackReport:
    """Pack questions and their clips, found in `videos_dir` by their `source`, into shards.

    A question whose clip cannot be read is left out, with its reason in ``left_out.jsonl`` and in the report. A run
    that was stopped resumes when called again with the same settings. So does a finished one: only the groups whose
    questions or clip files (by size and time of change) are different are packed again.

    Args:
        workers: processes; None for one per core this process may use.
        samples_per_shard: questions per shard; None for `FULL_SHARD`, less for small sets.
        clip_timeout_seconds: longest time for one clip.
        max_failures: stop when more than this share of the questions is left out.
        show_progress: show a progress bar.
        others: see `avrt.media.reader.read_clip` and `avrt.data.records.encode_clip`.

    Raises:
        ValueError: wrong arguments, other settings than in the run that is to be resumed, too many failures, or another
            process that writes to `out_dir`.
        OSError: the shards cannot be written (a full disk); call again when they can.
    """
    videos_dir, out_dir = Path(videos_dir), Path(out_dir)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers: must be at least 1, is {workers}")
    if not 0 <= max_failures <= 1:
        raise ValueError(f"max_failures: must be a share from 0 to 1, is {max_failures}")
    if not 0 < clip_timeout_seconds < math.inf:
        raise ValueError(f"clip_timeout_seconds: must be positive and finite, is {clip_timeout_seconds}")
    if samples_per_shard is None:
        samples_per_shard = min(FULL_SHARD, max(FEWEST_SAMPLES, -(-len(samples) // WANTED_SHARDS)))
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard: must be at least 1, is {samples_per_shard}")
    check_samples(samples)
    if not videos_dir.is_dir():
        raise ValueError(f"videos: {videos_dir} is no folder")
    settings = ClipSettings(
        num_frames=num_frames,
        max_audio_seconds=max_audio_seconds,
        max_pixels=max_pixels,
        require_video=require_video,
        require_audio=require_audio,
        image_format=image_format,
        jpeg_quality=jpeg_quality,
    )
    stated = {**settings.as_dict(), "samples_per_shard": samples_per_shard}
    with FolderLock(out_dir, "pack"):
        return _pack_locked(
            samples, videos_dir, out_dir, settings, stated, workers, clip_timeout_seconds, max_failures, show_progress
        )


def _pack_locked(
    samples: Sequence[Sample],
    videos_dir: Path,
    out_dir: Path,
    settings: ClipSettings,
    stated: dict[str, Any],
    workers: int,
    clip_timeout_seconds: float,
    max_failures: float,
    show_progress: bool,
) -> PackReport:
    """Pack into a folder that nobody else writes to; `stated` are the settings that the manifest records."""
    started = time.monotonic()
    records = prepare(out_dir, stated)
    groups = make_groups(samples, videos_dir, stated["samples_per_shard"])
    results = {
        group.index: result for group in groups if (result := finished_result(group, out_dir, records)) is not None
    }
    resumed = sum(result.shard is not None for result in results.values())
    manifest_path = out_dir / MANIFEST_NAME
    leftovers = find_leftovers(groups, out_dir, records)
    todo = [group for group in groups if group.index not in results]
    if todo or leftovers or not manifest_path.exists():
        # From here on the folder is an unfinished set, whatever happens.
        manifest_path.unlink(missing_ok=True)
        for path in leftovers:
            path.unlink()
        run = _Run(videos_dir, out_dir, records, settings, clip_timeout_seconds, max_failures)
        results |= run.work(todo, results, min(workers, max(1, len(todo))), show_progress)
        left_out = [entry for _, result in sorted(results.items()) for entry in result.left_out]
        _check_share(len(left_out), len(samples), max_failures, left_out)
        lines = "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in left_out)
        write_atomic(out_dir / LEFT_OUT_NAME, lines.encode())
        write_manifest(out_dir, _manifest(results, stated))
    return PackReport(
        manifest=_manifest(results, stated),
        left_out=tuple(entry for _, result in sorted(results.items()) for entry in result.left_out),
        resumed_shards=resumed,
        seconds=time.monotonic() - started,
    )


class _Run:
    """The parallel part of packing: threads that each lead one reading process and write one shard at a time."""

    def __init__(
        self,
        videos_dir: Path,
        out_dir: Path,
        records: Path,
        settings: ClipSettings,
        clip_timeout_seconds: float,
        max_failures: float,
    ) -> None:
        self.videos_dir = videos_dir
        self.out_dir = out_dir
        self.records = records
        self.settings = settings
        self.clip_timeout_seconds = clip_timeout_seconds
        self.max_failures = max_failures
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._tried = 0
        self._left_out: list[LeftOut] = []
        self._advance: Callable[[int], None] = lambda left_out: None

    def work(
        self, todo: Sequence[Group], done: dict[int, GroupResult], workers: int, show_progress: bool
    ) -> dict[int, GroupResult]:
        """Pack the groups that are left to do."""
        for result in done.values():
            self._tried += len(result.left_out) + (result.shard.samples if result.shard else 0)
            self._left_out.extend(result.left_out)
        total = self._tried + sum(len(group.samples) for group in todo)
        readers = [ClipReader(self.settings, timeout_seconds=self.clip_timeout_seconds) for _ in range(workers)]
        free: queue.SimpleQueue[ClipReader] = queue.SimpleQueue()
        for reader in readers:
            free.put(reader)
        results: dict[int, GroupResult] = {}
        with _progress(total, self._tried, show_progress) as self._advance:
            pool = ThreadPoolExecutor(workers, thread_name_prefix="pack")
            try:
                futures = {pool.submit(self._pack_group, group, free): group.index for group in todo}
                for future in as_completed(futures):
                    results[futures[future]] = future.result()
            finally:
                # After an error or an interrupt: let no thread begin or wait for another clip.
                self._stop.set()
                for reader in readers:
                    reader.close()
                pool.shutdown(wait=True, cancel_futures=True)
        return results

    def _pack_group(self, group: Group, free: queue.SimpleQueue[ClipReader]) -> GroupResult:
        reader = free.get()
        try:
            result = self._write_group(group, reader)
        finally:
            free.put(reader)
        write_record(group, result, self.records)
        return result

    def _write_group(self, group: Group, reader: ClipReader) -> GroupResult:
        path = self.out_dir / group.shard_name
        left_out: list[LeftOut] = []
        # Questions about one clip share its media: read it at the first, drop it after the last.
        uses = Counter(sample.source for sample in group.samples)
        clips: dict[str, EncodedClip | MediaError] = {}
        shard = OpenShard(path)
        with shard:
            for sample in group.samples:
                if sample.source not in clips:
                    clips[sample.source] = self._read(sample, reader)
                clip = clips[sample.source]
                uses[sample.source] -= 1
                if not uses[sample.source]:
                    del clips[sample.source]
                if isinstance(clip, MediaError):
                    left_out.append(LeftOut(sample.id, sample.source, clip.reason.value, clip.detail))
                else:
                    shard.write(sample, clip)
                self._count(left_out[-1] if isinstance(clip, MediaError) else None)
        assert shard.summary is not None
        if not shard.summary.samples:
            path.unlink()
            return GroupResult(group.inputs, None, tuple(left_out))
        return GroupResult(group.inputs, shard.summary, tuple(left_out))

    def _read(self, sample: Sample, reader: ClipReader) -> EncodedClip | MediaError:
        if self._stop.is_set():
            raise _Stopped
        try:
            return reader.read(clip_file(self.videos_dir, sample.source))
        except MediaError as error:
            if self._stop.is_set():
                # The reader was ended together with the run; that says nothing about the clip.
                raise _Stopped from error
            return error

    def _count(self, left_out: LeftOut | None) -> None:
        with self._lock:
            self._tried += 1
            if left_out is not None:
                self._left_out.append(left_out)
            self._advance(len(self._left_out))
            if self._tried >= TRIED_BEFORE_STOPPING:
                _check_share(len(self._left_out), self._tried, self.max_failures, self._left_out)


def _manifest(results: dict[int, GroupResult], settings: dict[str, Any]) -> Manifest:
    ordered = [result for _, result in sorted(results.items())]
    left_out = sum_counts(Counter(entry.reason for entry in result.left_out) for result in ordered)
    shards = tuple(result.shard for result in ordered if result.shard is not None)
    return Manifest(shards=shards, settings=settings, left_out=left_out)


def _check_share(failed: int, tried: int, limit: float, left_out: Sequence[LeftOut]) -> None:
    if failed > limit * tried:
        counts = Counter(entry.reason for entry in left_out).most_common()
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts)
        example = left_out[0]
        raise ValueError(
            f"packing stopped: {failed} of {tried} questions have no usable clip ({reasons}), more than the allowed "
            f"share of {limit:g}; for example {example.source!r}: {example.reason}: {example.detail}. Is the folder of "
            "videos the right one? Otherwise raise max_failures"
        )


@contextmanager
def _progress(total: int, done: int, show: bool) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("packing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left out {task.fields[left_out]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not show) as progress:
        task = progress.add_task("packing", total=total, completed=done, left_out=0)
        yield lambda left_out: progress.update(task, advance=1, left_out=left_out)
