"""Benchmarks' questions for evaluation: read, decoded, masked and encoded in the data workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from avrt.evaluation.benchmarks import Item
from avrt.evaluation.question_sets import MediaConfig, QuestionsConfig, QuestionSet, open_question_sets
from avrt.evaluation.records.record import Record
from avrt.evaluation.run_lifecycle import batches_left
from avrt.media.masking import Modalities
from avrt.model.encoding import PromptEncoder
from datamodules import streaming
from datamodules.workers import read_batches


@dataclass(frozen=True)
class Question:
    """One item as it leaves a data worker: encoded, or with the record that says why it cannot be shown."""

    questions: str
    item: Item
    shown: streaming.Item | Record


@dataclass(frozen=True)
class QuestionBatch:
    """Questions of one benchmark that are answered together; possibly none.

    Attributes:
        benchmark: the benchmark's name.
        items, prompts: what is asked, item by item.
        unreadable: records of the items whose media cannot be decoded.
    """

    benchmark: str = ""
    items: list[Item] = field(default_factory=list)
    prompts: list[streaming.Item] = field(default_factory=list)
    unreadable: list[Record] = field(default_factory=list)


class QuestionDataset(Dataset[Question]):
    """Items of several benchmarks, by (benchmark, place)."""

    def __init__(self, question_sets: Sequence[QuestionSet], media: MediaConfig, encoder: PromptEncoder) -> None:
        self.question_sets = question_sets
        self.media = media
        self.encoder = encoder

    def __getitem__(self, place: tuple[int, int]) -> Question:
        questions = self.question_sets[place[0]]
        item = questions.items[place[1]]
        sample = questions.show(item, self.media)
        shown = sample if isinstance(sample, Record) else streaming.Item(self.encoder.encode(sample))
        return Question(questions.name, item, shown)


class BatchLoader:
    """A sized loader of this device's batches.

    It is no `DataLoader`, so the trainer never shares its batches out a second time. The last batch is empty: a device
    without any batch at all would skip the whole test, and the others would wait for it at the end.
    """

    def __init__(
        self,
        dataset: QuestionDataset,
        batches: Sequence[list[tuple[int, int]]],
        num_workers: int,
        prefetch: int = 2,
    ) -> None:
        self.dataset = dataset
        self.batches: list[list[tuple[int, int]]] = [*batches, []]
        self.num_workers = num_workers
        self.prefetch = prefetch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[QuestionBatch]:
        return map(_collate, read_batches(self.dataset, self.batches, self.num_workers, self.prefetch))


class BenchmarkDataModule(LightningDataModule):
    """The questions of an evaluation; `EvaluateModule` answers them.

    Args:
        benchmarks: names of the paper's benchmarks, or ``all`` for those that have a folder under `data_root`. With
            `annotations` or `shards`: the one name that the run is kept under.
        data_root: folder that holds the benchmarks' folders, or one benchmark's own.
        annotations: annotation file, where it lies elsewhere than its authors put it (`data_root` is the media's
            folder then); under a name of your own, questions in AVQA's form.
        shards: ask the samples of shards instead: a folder, a glob, or a list of either.
        split: only this split of the shards.
        subset: file of ids, one a line; only these questions are asked.
        require_media: stop if an item's media are missing, instead of counting the item as wrong.
        modalities: ``AV``; ``A`` (same sound, black frames); ``V`` (same frames, silence).
        num_frames: frames of a video, spaced uniformly over the whole of it.
        max_audio_seconds: sound from the start.
        batch_size: questions that a device answers together.
        num_workers: processes that decode and encode ahead, per device.
        prefetch: parts of a batch that each of them keeps ready, see `datamodules.workers.read_batches`.
    """

    def __init__(
        self,
        benchmarks: str | list[str] = "all",
        data_root: str = "data",
        annotations: str | None = None,
        shards: str | list[str] | None = None,
        split: str | None = None,
        subset: str | None = None,
        require_media: bool = False,
        modalities: Modalities = "AV",
        num_frames: int = 8,
        max_audio_seconds: float = 10.0,
        batch_size: int = 8,
        num_workers: int = 2,
        prefetch: int = 2,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.init_args.batch_size must be positive, is {batch_size}")
        if num_workers < 0 or prefetch < 1:
            raise ValueError(
                f"data.init_args.num_workers must be 0 or more and prefetch positive, are {num_workers} and {prefetch}"
            )
        self.config = QuestionsConfig(benchmarks, data_root, annotations, shards, split, subset, require_media)
        self.media = MediaConfig(modalities, num_frames, max_audio_seconds)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.question_sets: list[QuestionSet] = []

    def setup(self, stage: str) -> None:
        self.question_sets = open_question_sets(self.config)

    def test_dataloader(self) -> BatchLoader:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        if not hasattr(module, "begin_runs"):
            raise ValueError("benchmarks are answered by model.class_path lightning_modules.evaluate.EvaluateModule")
        done = module.begin_runs(self.question_sets, self.media)
        left = [
            [(number, place) for place in batch]
            for number, questions in enumerate(self.question_sets)
            for batch in batches_left(questions.items, done[questions.name], self.batch_size)
        ]
        mine = left[self.trainer.global_rank :: self.trainer.world_size]
        return BatchLoader(
            QuestionDataset(self.question_sets, self.media, module.student.encoder),
            mine,
            self.num_workers,
            self.prefetch,
        )


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
