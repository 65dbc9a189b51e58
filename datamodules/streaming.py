"""The pipeline of a data worker: webdataset splits the parts of batches among workers, then each is read and encoded.

    parts -> webdataset.split_by_worker -> shards fetched ahead -> tar samples -> decode -> encode

A part is a list of items that a worker makes together. The order of samples is planned before (`datamodules.order`).
"""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from torch.utils.data import get_worker_info
from webdataset import DataPipeline, split_by_worker

from avrt.data.faults import ShardError
from avrt.media.masking import Modalities, mask_clip
from avrt.model.encoding import Prompt, PromptEncoder
from avrt.sample import Sample
from avrt.storage.locations import is_remote
from avrt.storage.shard_cache import ShardCache, ShardFile
from avrt.text.option_order import permuted_options
from datamodules.damage import Replaced, replace_damaged
from datamodules.order import Place, SampleOrder
from datamodules.sources import SampleSources

Item = TypeVar("Item")
Part = list[Any]
Index = int | Place
"""A sample's number, or its place in the order of training."""
Stage = Callable[[Iterable[Part]], Iterator[Part]]


class ItemReader(Generic[Item]):
    """Items by their index, one by one; subclasses define `__getitem__`."""

    def __getitem__(self, index: Any) -> Item:
        raise NotImplementedError

    def stages(self, parts: Sequence[Part]) -> list[Stage]:
        """The stages that turn parts of indices into parts of items; all `parts` of the run are known."""
        return [Each(self.__getitem__)]


class EncodedSamples(ItemReader[Prompt]):
    """Samples read from shards and encoded for the student, by their number or their place in the order of training.

    A worker holds the samples of one part at a time, from their bytes in the shard to the encoded prompts, beside the
    parts that wait for the training process.

    Args:
        samples: the shards.
        encoder: the student's.
        with_targets: also encode the trace (supervised fine-tuning).
        modalities: ``AV``, ``A`` (frames blanked) or ``V`` (audio silenced).
        shards_ahead: remote shards to fetch before they are needed.
        option_seed: permute the options of a sample by this seed, anew in every pass; None keeps their order.
        order: the order of training, in which another sample is read in the place of a damaged one; None raises the
            error of a damaged sample.
        max_damaged_share: of all samples, see `datamodules.damage`.
    """

    def __init__(
        self,
        samples: SampleSources,
        encoder: PromptEncoder,
        with_targets: bool = False,
        modalities: Modalities = "AV",
        shards_ahead: int = 32,
        option_seed: int | None = None,
        order: SampleOrder | None = None,
        max_damaged_share: float = 0.0,
    ) -> None:
        self.samples = samples
        self.encoder = encoder
        self.with_targets = with_targets
        self.modalities = modalities
        self.shards_ahead = shards_ahead
        self.option_seed = option_seed
        self.order = order
        self.max_damaged = int(max_damaged_share * len(samples))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Index) -> Prompt:
        return self._encode(self._decode(self._read(index)))

    def stages(self, parts: Sequence[Part]) -> list[Stage]:
        ahead = FetchAhead(self.samples, parts, self.shards_ahead)
        reading: list[Stage] = [Each(self._read), Each(self._decode), Each(self._encode)]
        if self.order is not None:
            reading = [Each(self._read_or_replace)]  # a sample is replaced at whichever stage it is found damaged
        return [ahead, *reading] if ahead.uses else reading

    def _read_or_replace(self, index: Index) -> Prompt | Replaced:
        place = _place(index)
        try:
            return self[place]
        except ShardError as fault:
            assert self.order is not None
            return replace_damaged(place, fault, self.order, self.max_damaged, self.__getitem__)

    def _read(self, index: Index) -> tuple[Place, dict[str, bytes]]:
        place = _place(index)
        return place, self.samples.members(place.sample)

    def _decode(self, read: tuple[Place, dict[str, bytes]]) -> Sample:
        place, members = read
        sample = self.samples.decode(place.sample, members)
        return sample if self.option_seed is None else permuted_options(sample, self.option_seed, place.epoch)

    def _encode(self, sample: Sample) -> Prompt:
        return self.encoder.encode(mask_clip(sample, self.modalities), with_target=self.with_targets)


def _place(index: Index) -> Place:
    return index if isinstance(index, Place) else Place(index, 0)


class FetchAhead:
    """A stage that passes parts on and has the shards of the next ones fetched, in the first worker of a device.

    Args:
        samples: the shards.
        parts: all parts of the run, by all workers, in their order.
        ahead: shards to fetch before they are needed; as many behind are still in use.
    """

    def __init__(self, samples: SampleSources, parts: Sequence[Part], ahead: int) -> None:
        self.cache: ShardCache = samples.cache
        self.ahead = ahead
        self.uses: list[tuple[int, ShardFile]] = []
        """Remote shards with the number of the part that needs each first."""
        if not any(is_remote(file.location) for shards in samples.shards for file in shards.files):
            return
        recent: OrderedDict[ShardFile, None] = OrderedDict()
        for number, part in enumerate(parts):
            for index in part:
                file = samples.file(_place(index).sample)
                if not is_remote(file.location):
                    continue
                if file not in recent:
                    self.uses.append((number, file))
                recent[file] = None
                recent.move_to_end(file)
                if len(recent) > 2 * ahead:
                    recent.popitem(last=False)

    def __call__(self, parts: Iterable[Part]) -> Iterator[Part]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        reached = 0
        for count, part in enumerate(parts):
            if worker == 0:
                number = count * workers  # the parts are dealt in turn
                while reached < len(self.uses) and self.uses[reached][0] <= number:
                    reached += 1
                listed = self.uses[max(0, reached - self.ahead) : reached + self.ahead]
                self.cache.fetch_ahead([file for _, file in listed])
            yield part


class Each:
    """A stage that applies a function to every item of a part.

    In a data worker an error takes the item's place and passes the other stages: it leaves the worker unchanged.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, parts: Iterable[Part]) -> Iterator[Part]:
        for part in parts:
            yield [self._apply(item) for item in part]

    def _apply(self, item: Any) -> Any:
        if isinstance(item, Exception):
            return item
        try:
            return self.function(item)
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            error.add_note(f"In a data worker:\n{traceback.format_exc()}")
            return error


def worker_pipeline(reader: ItemReader[Any], parts: Sequence[Part]) -> DataPipeline:
    """The pipeline from parts of indices to parts of items; torch's `DataLoader` takes them from workers in turn."""
    return DataPipeline(partial(iter, parts), split_by_worker, *reader.stages(parts))
