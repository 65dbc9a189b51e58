"""Clips and questions to shards, in parallel and resumable.

The questions are split into groups of fixed size, and each group becomes one shard for any number of workers, so the
shards' bytes depend on the input and the settings alone. A group's record in ``.pack/`` is written after its shard: a
run that was stopped or killed continues with the groups that have none. `manifest.json` is written last.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avrt.data.clip_sources import ClipSource, SampleReader, VideoFolder
from avrt.data.clip_workers import ClipSettings
from avrt.data.manifest import MANIFEST_NAME, Manifest, sum_counts, write_manifest
from avrt.data.pack_plan import (
    Group,
    GroupResult,
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
from avrt.media.errors import MediaError
from avrt.sample import LeftOut, Sample
from avrt.storage.uploads import OutputFolder, output_folder

LEFT_OUT_NAME = "left_out.jsonl"

FULL_SHARD = 256
FEWEST_SAMPLES = 4
WANTED_SHARDS = 32
"""Default size of a shard: `FULL_SHARD` samples; fewer where that would make less than `WANTED_SHARDS` shards, because
a shard is one worker's task; never below `FEWEST_SAMPLES`."""

TRIED_BEFORE_STOPPING = 50
"""Questions to try before the share of failures can stop the run early."""


@dataclass(frozen=True)
class PackReport:
    """The outcome of packing.

    Attributes:
        manifest: as written.
        left_out: the questions that are not in the shards.
        clips: see `GroupResult`; of all packed questions.
        resumed_shards: how many of the manifest's shards come from an earlier run.
        seconds: how long it took.
    """

    manifest: Manifest
    left_out: tuple[LeftOut, ...]
    clips: dict[str, tuple[float, int, int]]
    resumed_shards: int
    seconds: float


class _Stopped(Exception):
    """Another worker's error, or the user, stopped the run."""


@dataclass(frozen=True)
class PackOptions:
    """How a packing run works; none of it changes the bytes of a shard but `samples_per_shard`.

    Attributes:
        workers: processes; None for one per core this process may use.
        samples_per_shard: questions per shard; None for `FULL_SHARD`, less for small sets.
        clip_timeout_seconds: longest time for one clip.
        max_failures: stop when more than this share of the questions is left out.
        show_progress: show a progress bar.
    """

    workers: int | None = None
    samples_per_shard: int | None = None
    clip_timeout_seconds: float = 120.0
    max_failures: float = 0.5
    show_progress: bool = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers: must be at least 1, got {self.workers}")
        if self.samples_per_shard is not None and self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard: must be at least 1, got {self.samples_per_shard}")
        if not 0 < self.clip_timeout_seconds < math.inf:
            raise ValueError(f"clip_timeout_seconds: must be positive and finite, got {self.clip_timeout_seconds}")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"max_failures: must be a share from 0 to 1, got {self.max_failures}")


def pack(
    samples: Sequence[Sample],
    clips: str | Path | ClipSource,
    out_dir: str | Path,
    settings: ClipSettings | None = None,
    options: PackOptions | None = None,
    left_out: Sequence[LeftOut] = (),
    stated: Mapping[str, Any] | None = None,
) -> PackReport:
    """Pack questions and their clips into shards.

    A question whose clip cannot be read is left out, with its reason in ``left_out.jsonl`` and in the report. A run
    that was stopped resumes when called again with the same settings. So does a finished one: only the groups whose
    questions or clip files (by size and time of change) are different are packed again.

    Args:
        clips: a folder of files that are found by the questions' `source`, or another source of clips.
        out_dir: a folder, or a URL such as ``s3://bucket/folder``. Shards are uploaded there as they are finished, and
            the manifest last; see `avrt.storage.uploads` for the staging folder.
        settings: how clips are read and encoded; None for the defaults.
        options: how the run works; None for the defaults.
        left_out: questions that were left out before, to be listed and counted with the others.
        stated: more settings of the caller for the manifest; a run with others does not resume this one.

    Raises:
        ValueError: wrong samples, other settings than in the run that is to be resumed, too many failures, or another
            process that writes to `out_dir`.
        OSError: the shards cannot be written (a full disk) or uploaded; call again when they can.
    """
    out = output_folder(out_dir)
    settings, options = settings or ClipSettings(), options or PackOptions()
    check_samples(samples)
    if isinstance(clips, str | Path):
        clips = VideoFolder(Path(clips))
    samples_per_shard = options.samples_per_shard
    if samples_per_shard is None:
        samples_per_shard = min(FULL_SHARD, max(FEWEST_SAMPLES, -(-len(samples) // WANTED_SHARDS)))
    with out.lock("pack"):
        out.check_writable()
        run = _Run(clips, out, settings, options, samples_per_shard, stated or {})
        return run.pack(samples, tuple(left_out))


class _Run:
    """A packing run in a folder that nobody else writes to.

    Its threads each lead one reading process and write one shard at a time.
    """

    def __init__(
        self,
        clips: ClipSource,
        out: OutputFolder,
        settings: ClipSettings,
        options: PackOptions,
        samples_per_shard: int,
        stated: Mapping[str, Any],
    ) -> None:
        self.clips = clips
        self.out = out
        self.settings = settings
        self.options = options
        self.samples_per_shard = samples_per_shard
        self.stated = {**settings.as_dict(), "samples_per_shard": samples_per_shard, **stated}
        """The settings that the manifest records."""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._tried = 0
        self._left_out: list[LeftOut] = []
        self._advance: Callable[[int], None] = lambda left_out: None

    def pack(self, samples: Sequence[Sample], before: tuple[LeftOut, ...]) -> PackReport:
        """Pack what is not packed yet, and write the manifest last."""
        started = time.monotonic()
        names = self.out.names()
        self.records = prepare(self.out, names, self.stated)
        groups = make_groups(samples, self.clips, self.samples_per_shard)
        finished = ((group.index, finished_result(group, self.out, names, self.records)) for group in groups)
        results = {index: result for index, result in finished if result is not None}
        resumed = sum(result.shard is not None for result in results.values())
        leftovers, extra = find_leftovers(groups, self.out, names, self.records)
        todo = [group for group in groups if group.index not in results]
        listed = self.out.local(LEFT_OUT_NAME).read_bytes() if LEFT_OUT_NAME in names else None
        is_listed = _lines(before + _left_out(results)) == listed
        if todo or leftovers or extra or MANIFEST_NAME not in names or not is_listed:
            # From here on the folder is an unfinished set, whatever happens.
            self.out.remove(MANIFEST_NAME)
            for path in leftovers:
                path.unlink()
            for name in extra:
                self.out.remove(name)
            results |= self._work(todo, results)
            left_out = _left_out(results)
            _check_share(len(left_out), len(samples), self.options.max_failures, left_out)
            write_atomic(self.out.folder / LEFT_OUT_NAME, _lines(before + left_out))
            self.out.publish(LEFT_OUT_NAME)
            write_manifest(self.out.folder, _manifest(results, self.stated, before))
            self.out.publish(MANIFEST_NAME)
        return PackReport(
            manifest=_manifest(results, self.stated, before),
            left_out=before + _left_out(results),
            clips={key: facts for result in results.values() for key, facts in result.clips.items()},
            resumed_shards=resumed,
            seconds=time.monotonic() - started,
        )

    def _work(self, todo: Sequence[Group], done: dict[int, GroupResult]) -> dict[int, GroupResult]:
        """Pack the groups that are left to do."""
        workers = self.options.workers or len(os.sched_getaffinity(0))
        workers = min(workers, max(1, len(todo)))
        for result in done.values():
            self._tried += len(result.left_out) + (result.shard.samples if result.shard else 0)
            self._left_out.extend(result.left_out)
        total = self._tried + sum(len(group.samples) for group in todo)
        timeout = self.options.clip_timeout_seconds
        readers = [self.clips.open_reader(self.settings, timeout) for _ in range(workers)]
        free: queue.SimpleQueue[SampleReader] = queue.SimpleQueue()
        for reader in readers:
            free.put(reader)
        results: dict[int, GroupResult] = {}
        with _progress(total, self._tried, self.options.show_progress) as self._advance:
            pool = ThreadPoolExecutor(workers, thread_name_prefix="pack")
            try:
                futures = {pool.submit(self._pack_group, group, free): group.index for group in todo}
                for future in as_completed(futures):
                    results[futures[future]] = future.result()
            finally:
                # After an error or an interrupt, no thread may begin or wait for another clip.
                self._stop.set()
                for reader in readers:
                    reader.close()
                pool.shutdown(wait=True, cancel_futures=True)
        return results

    def _pack_group(self, group: Group, free: queue.SimpleQueue[SampleReader]) -> GroupResult:
        reader = free.get()
        try:
            result = self._write_group(group, reader)
        finally:
            free.put(reader)
        write_record(group, result, self.records)
        if result.shard is not None:
            self.out.publish(result.shard.name, result.shard.sha256)
        return result

    def _write_group(self, group: Group, reader: SampleReader) -> GroupResult:
        path = self.out.folder / group.shard_name
        left_out: list[LeftOut] = []
        facts: dict[str, tuple[float, int, int]] = {}
        # Questions about one clip share its media: read it at the first, drop it after the last.
        uses = Counter(self.clips.clip_of(sample) for sample in group.samples)
        clips: dict[str, EncodedClip | MediaError] = {}
        shard = OpenShard(path)
        with shard:
            for sample in group.samples:
                name = self.clips.clip_of(sample)
                if name not in clips:
                    clips[name] = self._read(sample, reader)
                clip = clips[name]
                uses[name] -= 1
                if not uses[name]:
                    del clips[name]
                if isinstance(clip, MediaError):
                    left_out.append(LeftOut(sample.id, sample.source, clip.reason.value, clip.detail))
                else:
                    shard.write(sample, clip)
                    facts[sample.id] = (clip.info["duration"], clip.info["width"], clip.info["height"])
                self._count(left_out[-1] if isinstance(clip, MediaError) else None)
        assert shard.summary is not None
        if not shard.summary.samples:
            path.unlink()
            return GroupResult(group.inputs, None, tuple(left_out))
        return GroupResult(group.inputs, shard.summary, tuple(left_out), facts)

    def _read(self, sample: Sample, reader: SampleReader) -> EncodedClip | MediaError:
        if self._stop.is_set():
            raise _Stopped
        try:
            return reader.read(sample)
        except MediaError as error:
            if self._stop.is_set():
                # The reader was ended together with the run, so the clip may be fine.
                raise _Stopped from error
            return error

    def _count(self, left_out: LeftOut | None) -> None:
        with self._lock:
            self._tried += 1
            if left_out is not None:
                self._left_out.append(left_out)
            self._advance(len(self._left_out))
            if self._tried >= TRIED_BEFORE_STOPPING:
                _check_share(len(self._left_out), self._tried, self.options.max_failures, self._left_out)


def _left_out(results: dict[int, GroupResult]) -> tuple[LeftOut, ...]:
    return tuple(entry for _, result in sorted(results.items()) for entry in result.left_out)


def _lines(left_out: Sequence[LeftOut]) -> bytes:
    """The content of ``left_out.jsonl``."""
    return "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in left_out).encode()


def _manifest(results: dict[int, GroupResult], settings: dict[str, Any], before: Sequence[LeftOut]) -> Manifest:
    ordered = [result for _, result in sorted(results.items())]
    groups = (before, *(result.left_out for result in ordered))
    left_out = sum_counts(Counter(entry.reason for entry in group) for group in groups)
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
            "videos the right one? Otherwise raise max_failures, or keep clips without a stream by --allow-missing"
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
