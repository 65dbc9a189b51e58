"""The questions of an evaluation, and the sample that a model gets for each of them.

Questions come from a benchmark's own files, from any annotation file in AVQA's format, or from shards.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from avrt import __version__
from avrt.data.annotations import AnswerBase
from avrt.data.faults import ShardError
from avrt.data.id_lists import read_ids
from avrt.data.shards import ShardSet
from avrt.evaluation.benchmarks import (
    BENCHMARKS,
    Benchmark,
    Item,
    find_benchmark,
    fingerprint,
    get_benchmark,
    new_record,
    present_benchmarks,
    require_media,
    rule_path,
    select,
)
from avrt.evaluation.benchmarks.avqa import QuestionFile, extra_categories, question_set
from avrt.evaluation.benchmarks.base import MediaPaths
from avrt.evaluation.item_clips import UNREADABLE_MEDIA, read_sample
from avrt.evaluation.media_config import MediaConfig
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.scoring import profile_for
from avrt.media.errors import MediaError
from avrt.media.masking import mask_clip
from avrt.sample import Sample
from avrt.storage.locations import is_remote, shown
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat

ALL = "all"
"""In `QuestionsConfig.benchmarks`: every benchmark whose data is present."""


@dataclass
class QuestionsConfig:
    """The questions of an evaluation.

    Attributes:
        benchmarks: names of benchmarks of this project or of installed packages, class paths of others, or ``all`` for
            those that have a folder under `data_root`. With `annotations` or `shards`: one name for the run's
            sub-folder, a benchmark's or your own.
        data_root: folder that holds the benchmarks' folders, or one benchmark's own.
        annotations: annotation file, if it is not where its authors put it; media paths are then relative to
            `data_root`. Under a name of your own it may have any form that `pack` reads.
        shards: use the samples of shards instead: a folder, a glob, or a list of either.
        split: only this split of the shards.
        subset: file of ids, one per line, to which the questions are limited.
        limit: only the first so many questions of each benchmark, for a trial; tables name the run's part.
        require_media: stop if an item's media are missing, instead of counting the item as wrong.
        require_complete: stop if a benchmark has not as many questions as its authors state, instead of a note.
        fields: of questions of your own: ``question=prompt,options=choices,...`` for keys of your own.
        answer_base: of questions of your own: 0 or 1 where answers are the options' numbers, ``letter`` where they are
            letters and options may be letters too; null for letters, texts, or numbers from 0.
        categories: of questions of your own: keys whose values are categories; null for every key with few values.
    """

    benchmarks: str | list[str] = ALL
    data_root: str = "data"
    annotations: str | None = None
    shards: str | list[str] | None = None
    split: str | None = None
    subset: str | None = None
    limit: int | None = None
    require_media: bool = False
    require_complete: bool = False
    fields: str | None = None
    answer_base: AnswerBase | None = None
    categories: list[str] | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`limit` must be 1 or more, or null for all questions; got {self.limit}")

    @property
    def question_file(self) -> QuestionFile:
        """How a question file of one's own is read."""
        return QuestionFile(self.fields, self.answer_base, self.categories)


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one benchmark.

    Attributes:
        benchmark: the benchmark.
        items: its questions, in its order.
        data_root: folder that the items' media paths are relative to.
        subset: the part of the benchmark that they are: name of an id file, ``first 50``; None for all.
        shards: source of the clips if it is not media files; item `i` is its sample `i`.
        count_note: says that the benchmark has not as many questions as its authors state; empty if it has, or if the
            number is unknown.
    """

    benchmark: Benchmark
    items: list[Item]
    data_root: Path
    subset: str | None = None
    shards: ShardSet | None = field(default=None, repr=False)
    count_note: str = ""

    @property
    def name(self) -> str:
        """The benchmark's name, which is its folder's in a run."""
        return self.benchmark.name

    @cached_property
    def dataset_fingerprint(self) -> str:
        """See `avrt.evaluation.benchmarks.fingerprint`."""
        return fingerprint(self.items)

    def show(self, item: Item, media: MediaConfig) -> Sample | Record:
        """The item's sample with its clip, masked; or its record if its media cannot be decoded."""
        media = media.of(self.name)
        try:
            if self.shards is not None:
                sample = self.shards[item.index]
            else:
                sample = read_sample(
                    item,
                    self.data_root,
                    num_frames=media.num_frames,
                    frames_per_second=media.frames_per_second,
                    max_audio_seconds=media.max_audio_seconds,
                    timeout_seconds=media.clip_timeout_seconds,
                )
        except (MediaError, ShardError) as error:
            return self.failed(item, UNREADABLE_MEDIA, f"{error.reason}: {error.detail}")
        return mask_clip(sample, media.modalities)

    def failed(self, item: Item, failure: str, detail: str) -> Record:
        """The record of an item without a reply."""
        return new_record(self.benchmark, item, finish_reason="missing", failure=failure, failure_detail=detail)

    def run_info(
        self,
        *,
        run: str,
        model: str,
        answer_format: AnswerFormat,
        media: MediaConfig | None,
        profile: Profile | None = None,
        decoding: dict[str, Any] | None = None,
        prompt: dict[str, Any] | None = None,
        weights: str = "",
        hardware: str = "",
    ) -> RunInfo:
        """The ``run.json`` of a run over these questions; see `RunInfo` for the fields.

        Args:
            media: None where it is unknown what the model got.
            profile: parser profile; by default the one for `answer_format`.
            prompt: settings of the prompts' text, see `avrt.evaluation.sent_prompts`; None where they are unknown.
        """
        settings, prompt_parts = dict(decoding or {}), dict(prompt or {})
        if media is not None and self.shards is None:
            own = media.of(self.name)
            settings |= {"num_frames": own.num_frames, "max_audio_seconds": own.max_audio_seconds}
            if own.frames_per_second is not None:
                settings["frames_per_second"] = own.frames_per_second
        elif media is not None and self.shards is not None:
            prompt_parts["shards"] = self.shards.fingerprint  # frames and audio are as they were packed
        return RunInfo(
            run=run,
            benchmark=self.name,
            model=model,
            items=len(self.items),
            dataset_fingerprint=self.dataset_fingerprint,
            modalities="AV" if media is None else media.modalities,
            answer_format=answer_format,
            profile=profile or profile_for(answer_format),
            subset=self.subset,
            data_root=str(self.data_root.resolve()),
            decoding=settings,
            prompt=prompt_parts,
            weights=weights,
            avrt_version=__version__,
            started="" if media is None else datetime.now(UTC).isoformat(timespec="seconds"),
            hardware=hardware,
            benchmark_class=rule_path(self.benchmark),
        )


def open_question_sets(config: QuestionsConfig) -> list[QuestionSet]:
    """Read the annotations of all questions of a run; no media are opened.

    Raises:
        ValueError: an unknown name, wrong annotations, or settings that exclude each other; names the key.
    """
    names = [config.benchmarks] if isinstance(config.benchmarks, str) else list(config.benchmarks)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`benchmarks` must list at least one name, and none twice; got {names}")
    if config.shards is not None and config.annotations is not None:
        raise ValueError("`shards` and `annotations` are two sources of questions; give one")
    if config.shards is not None:
        sets = [_from_shards(_own_name(names, "shards"), config.shards, config)]
    elif config.annotations is not None:
        sets = [_from_annotations(_own_name(names, "annotations"), config.annotations, config)]
    elif names == [ALL]:
        sets = [_from_benchmark(benchmark, config.data_root) for benchmark in present_benchmarks(config.data_root)]
        if not sets:
            raise ValueError(
                f"`data_root`: no benchmark has a folder in {config.data_root}; it may contain {', '.join(BENCHMARKS)}"
            )
    else:
        sets = [_from_benchmark(get_benchmark(name), config.data_root) for name in names]
    if config.annotations is None and config.shards is None and config.question_file != QuestionFile():
        raise ValueError("`fields`, `answer_base` and `categories` are for questions of your own, with `annotations`")
    sets = [replace(questions, count_note=_count_note(questions)) for questions in sets]
    notes = [questions.count_note for questions in sets if questions.count_note]
    if config.require_complete and notes:
        raise ValueError(f"{'; '.join(notes)}; get the authors' whole annotation file, or turn `require_complete` off")
    if config.subset is not None:
        sets = [_limited(sets, config.subset)]
    if config.limit is not None:
        sets = [_first(questions, config.limit) for questions in sets]
    if config.require_media:
        for questions in sets:
            require_media(questions.items, questions.benchmark)
    return sets


def _count_note(questions: QuestionSet) -> str:
    """See `QuestionSet.count_note`."""
    known = BENCHMARKS.get(questions.name)
    found = len(questions.items)
    if known is None or known.items in (0, found):
        return ""
    return f"{questions.name}: {found:,} questions were read, {known.title}'s authors state {known.items:,}"


def _own_name(names: Sequence[str], key: str) -> str:
    if len(names) != 1 or names[0] == ALL:
        raise ValueError(f"with `{key}`, `benchmarks` must be one name, for the run's sub-folder; got {names}")
    if Path(names[0]).name != names[0] or names[0] in (".", ".."):
        raise ValueError(f"`benchmarks`: {names[0]!r} cannot be the name of a folder")
    return names[0]


def _from_benchmark(benchmark: Benchmark, root: str) -> QuestionSet:
    items = benchmark.load(root)
    return QuestionSet(benchmark, items, benchmark.locate(root)[1])


def _from_annotations(name: str, annotations: str, config: QuestionsConfig) -> QuestionSet:
    benchmark = find_benchmark(name)
    if benchmark is None:
        benchmark = question_set(name, 0, annotation_file=Path(annotations).name, how=config.question_file)
    elif config.question_file != QuestionFile():
        raise ValueError(f"`fields`, `answer_base` and `categories` are for questions of your own, not for {name!r}")
    return QuestionSet(benchmark, benchmark.load(config.data_root, annotations=annotations), Path(config.data_root))


def _from_shards(name: str, shards: str | list[str], config: QuestionsConfig) -> QuestionSet:
    if config.fields is not None or config.answer_base is not None:
        raise ValueError("`fields` and `answer_base` are for `annotations`; shards are read as they were packed")
    samples = ShardSet(shards, split=config.split)
    if not len(samples):
        raise ValueError(f"`shards`: {shards} has no samples")
    root, names = _below_one_folder([file.location for file in samples.files])
    items = []
    questions = [samples.metadata(index) for index in range(len(samples))]
    extra = extra_categories(questions, config.categories)
    for index, sample in enumerate(questions):
        categories = {"question_type": sample.question_type, "modality": sample.modality, **extra[index]}
        place: MediaPaths = {"shard": names[samples.shard_of(index)], "key": sample.id}
        items.append(
            Item(
                sample=sample,
                index=index,
                media=place | ({"clip": sample.source} if sample.source else {}),
                categories={name: value for name, value in categories.items() if value},
            )
        )
    return QuestionSet(find_benchmark(name) or question_set(name, len(items)), items, root, shards=samples)


def _below_one_folder(locations: list[str]) -> tuple[Path, list[str]]:
    """The deepest folder that holds all local shards, and each one's name in it; URLs without their secrets."""
    if any(is_remote(location) for location in locations):
        return Path(), [shown(location) for location in locations]
    paths = [Path(location).resolve() for location in locations]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return root, [str(path.relative_to(root)) for path in paths]


def _first(questions: QuestionSet, limit: int) -> QuestionSet:
    """The first questions of a benchmark; the whole one if it has no more."""
    if limit >= len(questions.items):
        return questions
    part = f"first {limit}" if questions.subset is None else f"{questions.subset}, first {limit}"
    return replace(questions, items=questions.items[:limit], subset=part)


def _limited(sets: Sequence[QuestionSet], subset: str) -> QuestionSet:
    if len(sets) != 1:
        raise ValueError(f"`subset`: ids belong to one benchmark, and `benchmarks` has {len(sets)}; choose one")
    questions = sets[0]
    return replace(questions, items=select(questions.items, read_ids(subset)), subset=Path(subset).stem)
