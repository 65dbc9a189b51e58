"""Batches of items in a fixed order, for validation and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from datamodules.streaming import ItemReader
from datamodules.workers import read_batches

Item = TypeVar("Item")
Batch = TypeVar("Batch")


class EvaluationLoader(Generic[Batch]):
    """A sized loader of batches in a fixed order.

    Not a `DataLoader`: Lightning would replace its batch sampler for `predict`, and divide its batches over devices a
    second time.

    Args:
        reader: items by index, whatever an index is.
        batches: the indices of each batch.
        num_workers: processes that read and encode ahead; 0 reads in the process that evaluates.
        prefetch: see `datamodules.workers.read_batches`.
        collate: makes a batch of a list of items.
    """

    def __init__(
        self,
        reader: ItemReader[Item],
        batches: Sequence[list[Any]],
        num_workers: int,
        prefetch: int = 2,
        collate: Callable[[list[Item]], Batch] = list,  # type: ignore[assignment]
    ) -> None:
        self.reader = reader
        self.batches = batches
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.collate = collate

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.collate, read_batches(self.reader, self.batches, self.num_workers, self.prefetch))


def device_batches(size: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """This device's batches of an evaluation set: each item on exactly one device, uneven divisions included."""
    indices = list(range(rank, size, world_size))
    return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
