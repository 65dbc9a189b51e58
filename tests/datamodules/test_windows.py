"""The samples of each device and their order, and a loader that stops and resumes anywhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from avrt.config.errors import describe
from avrt.data.faults import FaultReason, ShardError
from avrt.model.encoding import Prompt
from avrt.sample import Sample
from datamodules.damage import Replaced
from datamodules.order import Place, SampleOrder
from datamodules.reading import EvaluationLoader, device_batches
from datamodules.streaming import ItemReader
from datamodules.windows import MicroBatch, WindowLoader
from datamodules.workers import read_batches


class Numbers(ItemReader[Prompt]):
    """Prompts that only carry their index."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | Place) -> Prompt:
        index = index.sample if isinstance(index, Place) else index
        self.reads.append(index)
        return Prompt(Sample(str(index), "?", ("a", "b"), 0), torch.tensor([index]))


def loader(
    size: int = 23, *, seed: int = 0, shuffle: bool = True, shuffle_shards: int = 2, **settings: Any
) -> WindowLoader:
    order = SampleOrder([shards_of(size)], seed=seed, shuffle=shuffle, shuffle_shards=shuffle_shards)
    fixed = {"micro_batch_size": 2, "micro_batches": 2, "fingerprint": "f"}
    return WindowLoader(Numbers(size), order, **{**fixed, **settings})


def shards_of(size: int) -> list[int]:
    """Sizes of shards of 4 samples."""
    return [min(4, size - begin) for begin in range(0, size, 4)]


def planned(one: WindowLoader, begin: int, end: int) -> list[int]:
    return [place.sample for place in one.order.places(begin, end)]


def numbers(batch: MicroBatch) -> list[int]:
    return [int(prompt.sample.id) for prompt in batch.prompts]


def epoch_of(one: WindowLoader) -> list[int]:
    return [i for batch in one for i in numbers(batch)]


def test_epochs_cut_an_endless_sequence_of_passes() -> None:
    """Windows of 4 from 23 samples: 5 an epoch, and the sixth takes the 3 that are left and the first of the next."""
    one = loader()
    seen = [i for _ in range(5) for i in epoch_of(one)]
    assert seen == planned(one, 0, 100)
    for begin in range(0, 92, 23):
        assert sorted(seen[begin : begin + 23]) == list(range(23)), "each sample once in every pass"


def test_whole_windows_see_every_sample_exactly_once() -> None:
    one = loader(size=24)
    for _ in range(3):
        assert sorted(epoch_of(one)) == list(range(24))


def test_a_prompt_knows_its_pass() -> None:
    one = loader()
    windows = [batch.window for _ in range(2) for batch in one if batch.last]
    assert [window.epochs for window in windows[4:7]] == [[0] * 4, [0, 0, 0, 1], [1] * 4]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_devices_are_disjoint_and_together_the_window(world_size: int) -> None:
    ranks = [list(loader(size=50, rank=r, world_size=world_size)) for r in range(world_size)]
    whole = planned(loader(size=50), 0, 50)
    window = 4 * world_size
    for w in range(50 // window):
        parts = [[i for batch in batches[2 * w : 2 * w + 2] for i in numbers(batch)] for batches in ranks]
        assert all(len(part) == 4 for part in parts)
        assert sorted(i for part in parts for i in part) == sorted(whole[w * window : (w + 1) * window])


@pytest.mark.parametrize(("size", "batches", "world_size"), [(4, 1, 1), (1, 4, 1), (2, 2, 1), (2, 1, 2), (1, 1, 4)])
def test_a_windows_samples_depend_on_its_size_alone(size: int, batches: int, world_size: int) -> None:
    ranks = [
        list(loader(micro_batch_size=size, micro_batches=batches, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    order = planned(loader(), 0, 20)
    for w in range(5):
        seen = [i for rank in ranks for batch in rank[w * batches : (w + 1) * batches] for i in numbers(batch)]
        assert sorted(seen) == sorted(order[4 * w : 4 * w + 4])


def test_micro_batches_carry_their_window() -> None:
    one = loader(num_iterations=2)
    batches = list(one)
    assert len(batches) == len(one) == 5 * 2 * 2
    assert one.steps_per_epoch == 10
    flags = [(b.start, b.stop, b.iteration, b.first, b.last) for b in batches[:4]]
    assert flags == [
        (0, 2, 0, True, False),
        (2, 4, 0, False, True),
        (0, 2, 1, False, False),
        (2, 4, 1, False, True),
    ]
    assert all(b.window is batches[0].window for b in batches[:4])
    assert [b.window.number for b in batches[::4]] == [0, 1, 2, 3, 4]
    again = list(one)
    assert [b.window.number for b in again[::4]] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("stop", range(1, 13))
@pytest.mark.parametrize("iterations", [1, 2])
def test_resumes_after_any_step(stop: int, iterations: int) -> None:
    """State taken after a step's last micro-batch: the next loader gives exactly what would have come."""
    one = loader(num_iterations=iterations)
    whole = [numbers(batch) for _ in range(3) for batch in one]
    stopped = loader(num_iterations=iterations)
    seen: list[list[int]] = []
    while len(seen) < 2 * stop:
        for batch in stopped:
            seen.append(numbers(batch))
            if len(seen) == 2 * stop:
                state = stopped.state_dict()
                break
    resumed = loader(num_iterations=iterations)
    resumed.load_state_dict(state)
    first = None
    while len(seen) < len(whole):
        for batch in resumed:
            first = first or batch
            seen.append(numbers(batch))
    assert seen == whole
    assert first is not None
    assert first.first


def test_state_in_the_middle_of_a_step_repeats_the_step() -> None:
    """Its gradient is not in the weights yet."""
    one = loader()
    batches = iter(one)
    first = [numbers(next(batches)) for _ in range(3)]
    resumed = loader()
    resumed.load_state_dict(one.state_dict())
    assert numbers(next(iter(resumed))) == first[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetching_does_not_run_ahead_in_the_state(workers: int) -> None:
    one = loader(num_workers=workers, prefetch=4)
    batches = iter(one)
    seen = [numbers(next(batches)) for _ in range(4)]
    resumed = loader(num_workers=workers)
    resumed.load_state_dict(one.state_dict())
    rest = epoch_of(resumed)
    assert [i for part in seen for i in part] + rest == planned(loader(), 0, 20)


def test_iterations_read_a_sample_once() -> None:
    one = loader(num_iterations=3)
    list(one)
    assert max(Counter(one.reader.reads).values()) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"shuffle": False}, "shuffle"),
        ({"shuffle_shards": 3}, "shuffle_shards"),
        ({"fingerprint": "g"}, "train"),
        ({"micro_batch_size": 4}, "batch_size"),
        ({"world_size": 2}, "devices"),
        ({"micro_batches": 4, "micro_batch_size": 1}, "accumulate_grad_batches"),
        ({"num_iterations": 2}, "num_iterations"),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_changed_settings_are_refused(change: dict[str, Any], named: str, steps: int) -> None:
    one = loader()
    batches = iter(one)
    for _ in range(2 * steps):
        next(batches)
    with pytest.raises(ValueError, match=rf"cannot resume.*{named}"):
        loader(**change).load_state_dict(one.state_dict())


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match=r"3 samples, fewer than the 4 prompts.*data\.batch_size"):
        loader(size=3)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 5, 10])
def test_evaluation_divides_items_over_devices(size: int, world_size: int) -> None:
    batches = [batch for rank in range(world_size) for batch in device_batches(size, 2, rank, world_size)]
    assert sorted(i for batch in batches for i in batch) == list(range(size))
    assert all(len(batch) <= 2 for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_the_order(workers: int) -> None:
    batches = list(EvaluationLoader(Numbers(9), [[1, 3], [5, 7], [8]], workers))
    assert [[prompt.sample.id for prompt in batch] for batch in batches] == [["1", "3"], ["5", "7"], ["8"]]


class Broken(Numbers):
    """Cannot give its third item."""

    def __init__(self, error: Exception) -> None:
        super().__init__(4)
        self.error = error

    def __getitem__(self, index: int | Place) -> Prompt:
        if index == 2:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("sample 'x': no good"),
        ShardError("a.tar", FaultReason.CHECKSUM, "another sum", "x"),  # its class takes more than a message
        FileNotFoundError(2, "No such file or directory", "a.tar"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_worker_are_raised_unchanged(error: Exception, workers: int) -> None:
    stream = read_batches(Broken(error), [[0, 1], [2, 3]], workers)
    assert len(next(stream)) == 2
    with pytest.raises(type(error)) as raised:
        next(stream)
    assert type(raised.value) is type(error)
    assert (str(raised.value), describe(raised.value)) == (str(error), describe(error))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_next_window_can_be_looked_at(num_workers: int) -> None:
    """It changes neither what is trained on nor where a run resumes; a pass ends with a window without a next one."""
    plain = epoch_of(loader())
    one = loader(num_workers=num_workers)
    seen: list[int] = []
    looked: list[list[int]] = []
    states = []
    for batch in one:
        if batch.first:
            for _ in range(2):  # as often as it is asked for
                following = batch.window.following()
            looked.append([] if following is None else [int(prompt.sample.id) for prompt in following[0]])
            assert following is None or following[1] == [0] * 4
        seen += numbers(batch)
        states.append((one.state_dict()["position"], one.samples_seen))
    assert seen == plain
    assert looked == [plain[4:8], plain[8:12], plain[12:16], plain[16:20], []]
    begins = [number // 2 * 4 for number in range(10)]
    ends = [begin + 4 for begin in begins]
    assert states == [
        (end if number % 2 else begin, end) for number, begin, end in zip(range(10), begins, ends, strict=True)
    ]


def test_a_damaged_sample_counts_when_its_window_begins() -> None:
    one = loader(shuffle=False)
    fault = ShardError("a.tar", FaultReason.CHECKSUM, "another sum", "5")
    plain = one.reader.__getitem__

    class Damaged(Numbers):
        def __getitem__(self, index: int | Place) -> Any:
            prompt = plain(index)
            return Replaced(prompt, (fault,)) if prompt.sample.id == "5" else prompt

    one.reader = Damaged(23)
    counts = []
    for batch in one:
        if batch.first:
            following = batch.window.following()
            assert following is None or all(isinstance(prompt, Prompt) for prompt in following[0])
            counts.append(one.damaged.count)
    assert counts == [0, 1, 1, 1, 1]
