"""The traces to judge: one or two sets of shards, and the samples that are chosen from them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from avrt.data.records import EncodedClip, to_sample
from avrt.data.shards import ShardSet
from avrt.judging.config import JudgeConfig
from avrt.media.clip_files import ClipFolder
from avrt.media.errors import MediaError
from avrt.sample import Sample
from avrt.servers.config import under_key
from avrt.traces.config import check_teacher_name


@dataclass(frozen=True)
class JudgedTrace:
    """One trace with its question, and the media of its clip as the shard lists them.

    Attributes:
        sample: question, trace and teachers' traces, without media.
        index: its number in the shards of its set.
        members: media members, name to (size, crc32).
    """

    sample: Sample
    index: int
    members: dict[str, tuple[int, int]]

    @property
    def trace(self) -> str:
        """The text that is judged."""
        assert self.sample.trace is not None
        return self.sample.trace


@dataclass
class TraceSets:
    """Opened sets and the chosen samples.

    Attributes:
        names: names of the sets, in order.
        sample_ids: ids of the chosen samples, sorted.
        left_out: samples that are not judged, by reason.
        teachers: names of the teachers whose traces a set has, sorted; empty for a set without any.
    """

    names: tuple[str, ...]
    shards: dict[str, ShardSet]
    sample_ids: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    teachers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _places: dict[str, dict[str, int]] = field(default_factory=dict)

    def trace(self, name: str, sample_id: str) -> JudgedTrace:
        """A set's trace of a sample."""
        index = self._places[name][sample_id]
        record = self.shards[name].record(index)
        return JudgedTrace(to_sample(record), index, {key: tuple(value) for key, value in record["members"].items()})

    def media(self, name: str, index: int) -> EncodedClip:
        """The media of a sample of a set, as stored."""
        return self.shards[name].media(index)


def open_sets(config: JudgeConfig) -> TraceSets:
    """Open the sets of a config and choose the samples.

    With two sets, only samples are chosen that both have, with the same question, options and right option.

    Raises:
        ValueError: shards cannot be read, or no sample can be judged.
    """
    names = tuple(config.sets)
    shards: dict[str, ShardSet] = {}
    for name, location in config.sets.items():
        try:
            shards[name] = ShardSet(location, split=config.split)
        except ValueError as error:
            raise ValueError(f"sets.{name}: {error}") from error
    sets = TraceSets(names, shards)
    sets._places = {name: {key: index for index, key in enumerate(found.keys)} for name, found in shards.items()}
    common = set.intersection(*(set(places) for places in sets._places.values()))
    for name, places in sets._places.items():
        if alone := len(places) - len(common):
            sets.left_out[f"only_in_{name}"] = alone
    teachers: dict[str, set[str]] = {name: set() for name in names}
    videos = None if config.judge.videos is None else ClipFolder(config.judge.videos)
    for sample_id in sorted(common, key=lambda key: hashlib.sha256(f"{config.seed}:{key}".encode()).digest()):
        if config.max_samples is not None and len(sets.sample_ids) == config.max_samples:
            sets.left_out["beyond_max_samples"] += 1
            continue
        samples = {name: shards[name].metadata(sets._places[name][sample_id]) for name in names}
        if reason := _reason_against(list(samples.values()), videos):
            sets.left_out[reason] += 1
            continue
        sets.sample_ids.append(sample_id)
        for name, sample in samples.items():
            for teacher in sample.teacher_traces:
                with under_key(f"sets.{name}"):
                    check_teacher_name(teacher)  # it becomes part of the prompt
            teachers[name].update(sample.teacher_traces)
    if not sets.sample_ids:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sets.left_out.most_common()) or "no sample"
        raise ValueError(f"sets: no sample can be judged: {reasons}")
    sets.sample_ids.sort()
    sets.teachers = {name: tuple(sorted(found)) for name, found in teachers.items()}
    return sets


def _reason_against(samples: list[Sample], videos: ClipFolder | None) -> str:
    """Why a sample is not judged; empty if it is."""
    if any(sample.trace is None for sample in samples):
        return "no_trace"
    questions = {(sample.question, sample.options, sample.answer) for sample in samples}
    if len(questions) > 1:
        return "different_question"
    try:
        if videos is not None:
            videos.path(samples[0].source)
    except MediaError:
        return "no_video"
    return ""
