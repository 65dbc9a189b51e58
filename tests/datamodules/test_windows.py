"""The samples of each device and their order, and a loader that stops and resumes anywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from avrt.config.errors import describe
from avrt.data.faults import FaultReason, ShardError
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.model.encoding import Prompt
from avrt.rewards import AccuracyReward
from avrt.sample import Sample
from datamodules.reading import EncodedDataset, EvaluationLoader, device_batches
from datamodules.windows import MicroBatch, WindowLoader
from datamodules.workers import read_batches
from tests.lightning_modules.training import gold_completion, write_shards
from tests.tiny_student import load_student, make_sample


class Numbers(Dataset[Prompt]):
    """Prompts that only carry their index."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Prompt:
        self.reads.append(index)
        return Prompt(Sample(str(index), "?", ("a", "b"), 0), torch.tensor([index]))


def loader(size: int = 23, **settings: Any) -> WindowLoader:
    return WindowLoader(Numbers(size), **{"micro_batch_size": 2, "micro_batches": 2, "fingerprint": "f", **settings})


def numbers(batch: MicroBatch) -> list[int]:
    return [int(prompt.sample.id) for prompt in batch.prompts]


def epoch_of(one: WindowLoader) -> list[int]:
    return [i for batch in one for i in numbers(batch)]


def test_every_sample_at_most_once_an_epoch_and_in_its_order() -> None:
    one = loader()
    for epoch in range(3):
        seen = epoch_of(one)
        assert seen == one.order(epoch)[:20], "windows of 4 from 23 samples"
        assert len(set(seen)) == 20


def test_whole_windows_see_every_sample_exactly_once() -> None:
    one = loader(size=24)
    for _ in range(3):
        assert sorted(epoch_of(one)) == list(range(24))


def test_all_samples_are_seen_over_the_epochs() -> None:
    """Samples left over at the end of an epoch are skipped, but not the same ones every time."""
    one = loader()
    counts = Counter(i for _ in range(10) for i in epoch_of(one))
    assert set(counts) == set(range(23))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    one, same = loader(seed=5), loader(seed=5, micro_batch_size=1, num_iterations=3, world_size=2, rank=1)
    assert one.order(3) == same.order(3)
    orders = {tuple(loader(seed=seed).order(epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    assert loader(seed=5).order(3) == one.order(3)
    torch.random.set_rng_state(state)
    assert loader(shuffle=False).order(7) == list(range(23))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_devices_are_disjoint_and_together_the_window(world_size: int) -> None:
    ranks = [list(loader(size=50, rank=r, world_size=world_size)) for r in range(world_size)]
    whole = loader(size=50).order(0)
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
    order = loader().order(0)
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
    assert {b.window.epoch for b in again} == {1}


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
    assert [i for part in seen for i in part] + rest == loader().order(0)[:20]


def test_iterations_read_a_sample_once() -> None:
    one = loader(num_iterations=3)
    list(one)
    assert max(Counter(one.dataset.reads).values()) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"shuffle": False}, "shuffle"),
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

    def __getitem__(self, index: int) -> Prompt:
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


# ---- samples --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def test_encoded_samples(student_folder: Path, shards: Path) -> None:
    encoder = load_student(student_folder).encoder
    source = ShardSet(shards)
    plain, targets = EncodedDataset(source, encoder), EncodedDataset(source, encoder, with_targets=True)
    blank = EncodedDataset(source, encoder, modalities="A")
    assert len(plain) == 10
    for i in range(4):
        assert plain[i].target is None
        assert torch.equal(targets[i].target, encoder.encode_target(source[i]))
        assert torch.equal(plain[i].input_ids, encoder.encode(source[i]).input_ids)
        clip = blank[i].sample.clip
        assert clip is not None
        assert clip.frames is None or not clip.frames.any()


def test_a_missing_trace_stops_supervised_training(student_folder: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.write(replace(make_sample("audio", 1), trace=None))
    dataset = EncodedDataset(ShardSet(tmp_path), load_student(student_folder).encoder, with_targets=True)
    with pytest.raises(ValueError, match=r"audio-1.*no trace"):
        _ = dataset[0]


@pytest.mark.parametrize("answer", [2, 7, -1, "B", 1.0, None, True], ids=repr)
def test_an_invalid_gold_stops_loading_with_the_samples_id(student_folder: Path, tmp_path: Path, answer: Any) -> None:
    """In the record itself, and through the loader's worker from a shard that has it with right checksums."""
    sample = make_sample("audio", 3)
    assert len(sample.options) == 2
    with pytest.raises(ValueError, match="audio-3"):
        replace(sample, answer=answer)
    object.__setattr__(sample, "answer", answer)  # as a writer without the check would leave it
    with ShardWriter(tmp_path) as writer:
        writer.write(make_sample("audio", 6))
        writer.write(sample)
    encoder = load_student(student_folder).encoder

    def load() -> None:
        source = EncodedDataset(ShardSet(tmp_path), encoder)
        list(WindowLoader(source, micro_batch_size=1, num_workers=1, shuffle=False))

    with pytest.raises(ValueError, match="audio-3") as raised:
        load()
    assert "Traceback" not in str(raised.value)


def test_every_gold_answer_scores_1(shards: Path) -> None:
    completions = [gold_completion(sample) for sample in ShardSet(shards)]
    assert AccuracyReward().score(completions) == [1.0] * 10
    wrong = [replace(c, text=c.text.replace(f">{c.sample.gold}<", ">Z<")) for c in completions]
    assert AccuracyReward().score(wrong) == [0.0] * 10
