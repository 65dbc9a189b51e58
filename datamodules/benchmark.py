"""The questions of benchmarks for evaluation: read, decoded, masked and encoded in the data workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lightning.pytorch import LightningDataModule

from avrt.config.numbers import NonNegativeInt, PositiveFloat, PositiveInt
from avrt.data.annotations import AnswerBase
from avrt.evaluation.benchmarks import BENCHMARKS, Item
from avrt.evaluation.item_clips import CLIP_TIMEOUT_SECONDS
from avrt.evaluation.media_config import ClipSettings, MediaConfig
from avrt.evaluation.question_sets import QuestionsConfig, QuestionSet, open_question_sets
from avrt.evaluation.records.record import Record
from avrt.evaluation.run_lifecycle import batches_left
from avrt.media.defaults import MAX_AUDIO_SECONDS, NUM_FRAMES
from avrt.media.masking import Modalities
from avrt.model.encoding import Prompt, PromptEncoder
from datamodules.reading import EvaluationLoader
from datamodules.streaming import ItemReader


@dataclass(frozen=True)
class Question:
    """One item from a data worker: encoded, or with the record of the reason why it cannot be shown."""

    questions: str
    item: Item
    shown: Prompt | Record


@dataclass(frozen=True)
class QuestionBatch:
    """Questions of one benchmark that are answered together; possibly none.

    Attributes:
        benchmark: the benchmark's name.
        items, prompts: the questions, item by item.
        unreadable: records of the items whose media cannot be decoded.
    """

    benchmark: str = ""
    items: list[Item] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    unreadable: list[Record] = field(default_factory=list)


class QuestionReader(ItemReader[Question]):
    """Items of several benchmarks, by (number of the benchmark, number of the item)."""

    def __init__(self, question_sets: Sequence[QuestionSet], media: MediaConfig, encoder: PromptEncoder) -> None:
        self.question_sets = question_sets
        self.media = media
        self.encoder = encoder

    def __getitem__(self, place: tuple[int, int]) -> Question:
        questions = self.question_sets[place[0]]
        item = questions.items[place[1]]
        sample = questions.show(item, self.media)
        shown = sample if isinstance(sample, Record) else self.encoder.encode(sample)
        return Question(questions.name, item, shown)


class BenchmarkDataModule(LightningDataModule):
    """The questions of an evaluation; `EvaluateModule` answers them.

    Args:
        benchmarks: names of benchmarks of this project or of installed packages, class paths of others, or ``all`` for
            those that have a folder under `data_root`. With `annotations` or `shards`: the one name of the benchmark.
        data_root: folder that holds the benchmarks' folders, or one benchmark's own.
        annotations: annotation file, if it is not where its authors put it (`data_root` is the media's folder then);
            with a benchmark name of your own, questions in any form that `pack` reads.
        shards: take the questions from shards instead: a folder, a glob, or a list of either.
        split: only this split of the shards.
        subset: file of ids, one per line; only these questions are used.
        limit: only the first so many questions of each benchmark, for a trial.
        require_media: stop if an item's media are missing, instead of counting the item as wrong.
        require_complete: stop if a benchmark has not as many questions as its authors state, instead of a note.
        modalities: ``AV``; ``A`` (same audio, black frames); ``V`` (same frames, silence).
        num_frames: frames of a video, spaced uniformly over its length.
        max_audio_seconds: seconds of audio, from the start.
        clip_timeout_seconds: longest time for one item's files, which are decoded in a process of their own with a
            memory limit; an item that exceeds either is unreadable and counts as wrong.
        frames_per_second: take this many frames per second of a video instead, at most `num_frames`.
        per_benchmark: other `num_frames`, `frames_per_second` and `max_audio_seconds` for single benchmarks, by name.
        batch_size: questions that a device answers together.
        num_workers: processes that decode and encode ahead, per device.
        prefetch: parts of a batch that each of them keeps ready, see `datamodules.workers.read_batches`.
        fields, answer_base, categories: how questions of your own are read, see
            `avrt.evaluation.question_sets.QuestionsConfig`.
    """

    def __init__(
        self,
        benchmarks: str | list[str] = "all",
        data_root: str = "data",
        annotations: str | None = None,
        shards: str | list[str] | None = None,
        split: str | None = None,
        subset: str | None = None,
        limit: PositiveInt | None = None,
        require_media: bool = False,
        modalities: Modalities = "AV",
        num_frames: PositiveInt = NUM_FRAMES,
        max_audio_seconds: PositiveFloat = MAX_AUDIO_SECONDS,
        batch_size: PositiveInt = 8,
        num_workers: NonNegativeInt = 2,
        prefetch: PositiveInt = 2,
        clip_timeout_seconds: PositiveFloat = CLIP_TIMEOUT_SECONDS,
        frames_per_second: PositiveFloat | None = None,
        per_benchmark: dict[str, ClipSettings] | None = None,
        require_complete: bool = False,
        fields: str | None = None,
        answer_base: AnswerBase | None = None,
        categories: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.config = QuestionsConfig(
            benchmarks,
            data_root,
            annotations,
            shards,
            split,
            subset,
            limit,
            require_media,
            require_complete,
            fields=fields,
            answer_base=answer_base,
            categories=categories,
        )
        self.media = MediaConfig(
            modalities, num_frames, max_audio_seconds, clip_timeout_seconds, frames_per_second, per_benchmark or {}
        )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.question_sets: list[QuestionSet] = []
        self._encoder: PromptEncoder | None = None
        self._done: Mapping[str, Collection[str]] = {}

    def setup(self, stage: str) -> None:
        self.question_sets = open_question_sets(self.config)
        self.media.check_names([*BENCHMARKS, *(questions.name for questions in self.question_sets)])

    def connect(self, encoder: PromptEncoder, done: Mapping[str, Collection[str]]) -> None:
        """Take what the module knows; called by `EvaluateModule` in every run, before the loader is built.

        Args:
            encoder: the student's.
            done: by benchmark, ids of the items that need no answer any more; the same on all devices.
        """
        self._encoder = encoder
        self._done = done

    def test_dataloader(self) -> EvaluationLoader[QuestionBatch]:
        """This device's batches of the questions that are left.

        The last batch is empty: a device without any batch would skip the whole test, and the others would wait for it
        at the end.
        """
        assert self.trainer is not None
        if self._encoder is None:
            raise ValueError("BenchmarkDataModule has no encoder yet: call connect(student.encoder, done) first")
        left = [
            [(number, place) for place in batch]
            for number, questions in enumerate(self.question_sets)
            for batch in batches_left(questions.items, self._done.get(questions.name, ()), self.batch_size)
        ]
        reader = QuestionReader(self.question_sets, self.media, self._encoder)
        batches = [*left[self.trainer.global_rank :: self.trainer.world_size], []]
        return EvaluationLoader(reader, batches, self.num_workers, self.prefetch, _collate)


def _collate(questions: list[Question]) -> QuestionBatch:
    if not questions:
        return QuestionBatch()
    batch = QuestionBatch(questions[0].questions)
    for question in questions:
        if isinstance(question.shown, Record):
            batch.unreadable.append(question.shown)
        else:
            batch.items.append(question.item)
            batch.prompts.append(question.shown)
    return batch
