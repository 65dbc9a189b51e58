"""Encoded samples in the data workers, and batches of them in order for validation and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import Dataset

from avrt.media.masking import Modalities, mask_clip
from avrt.model.encoding import Prompt, PromptEncoder
from avrt.sample import Sample
from datamodules.workers import read_batches

Item = TypeVar("Item")
Batch = TypeVar("Batch")


class SampleSource(Protocol):
    """Random access to samples, such as `avrt.data.shards.ShardSet`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class EncodedDataset(Dataset[Prompt]):
    """Samples read from shards and encoded for the student, in the data workers.

    Args:
        source: the samples, media decoded on access.
        encoder: the student's.
        with_targets: also encode the trace (supervised fine-tuning).
        modalities: ``AV``, ``A`` (frames blanked) or ``V`` (audio silenced).
    """

    def __init__(
        self, source: SampleSource, encoder: PromptEncoder, with_targets: bool = False, modalities: Modalities = "AV"
    ) -> None:
        self.source = source
        self.encoder = encoder
        self.with_targets = with_targets
        self.modalities = modalities

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Prompt:
        return self.encoder.encode(mask_clip(self.source[index], self.modalities), with_target=self.with_targets)


class EvaluationLoader(Generic[Batch]):
    """A sized loader of batches in a fixed order.

    Not a `DataLoader`: Lightning would replace its batch sampler for `predict`, and divide its batches over devices a
    second time.

    Args:
        dataset: items by index, whatever an index is.
        batches: the indices of each batch.
        num_workers: processes that read and encode ahead; 0 reads in the process that evaluates.
        prefetch: see `datamodules.workers.read_batches`.
        collate: makes a batch of a list of items.
    """

    def __init__(
        self,
        dataset: Dataset[Item],
        batches: Sequence[list[Any]],
        num_workers: int,
        prefetch: int = 2,
        collate: Callable[[list[Item]], Batch] = list,  # type: ignore[assignment]
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.collate = collate

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.collate, read_batches(self.dataset, self.batches, self.num_workers, self.prefetch))


def device_batches(size: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """This device's batches of an evaluation set: each item on exactly one device, uneven divisions included."""
    indices = list(range(rank, size, world_size))
    return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
