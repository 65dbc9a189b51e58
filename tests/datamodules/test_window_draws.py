"""Windows that draw further prompts: the same sequence, without gap or repetition, stopped and resumed anywhere."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from datamodules.windows import MicroBatch, WindowLoader
from tests.datamodules.test_windows import loader, numbers, planned

BOUND = 3


def drawing(**settings: Any) -> WindowLoader:
    return loader(**{"max_num_gen_batches": BOUND, **settings})


def draws(number: int) -> int:
    """Micro-batches that a window draws beside its own two, for tests: 0 to 4, the bound."""
    return (0, 1, 4, 2, 0, 3)[number % 6]


def train_on(batch: MicroBatch) -> list[int]:
    """What a module does at a window's first micro-batch: draw, and keep the last prompts; returns all drawn."""
    window = batch.window
    if batch.first:
        size = len(window.prompts)
        for _ in range(min(draws(window.number), size)):  # the bound is twice a window, in micro-batches of two
            before = list(window.prompts)
            prompts, epochs = window.draw(1)
            assert len(prompts) == len(epochs) == 2
            assert window.prompts == before + prompts
        drawn = [int(prompt.sample.id) for prompt in window.prompts]
        window.keep(range(len(drawn) - size, len(drawn)))
        return drawn
    return []


def run(one: WindowLoader, epochs: int) -> tuple[list[int], list[list[int]], list[int]]:
    """The samples drawn, the micro-batches trained on, and `samples_seen` after every step."""
    drawn: list[int] = []
    trained: list[list[int]] = []
    seen = []
    for _ in range(epochs):
        for batch in one:
            drawn += train_on(batch)
            trained.append(numbers(batch))
            if batch.last:
                seen.append(one.samples_seen)
    return drawn, trained, seen


def test_draws_are_the_next_samples_of_the_sequence() -> None:
    """Two epochs of five windows: every position is drawn once, in order, and an epoch has as many steps as ever."""
    one = drawing()
    drawn, trained, seen = run(one, 2)
    sizes = [4 + 2 * draws(number) for number in range(10)]
    assert drawn == planned(one, 0, sum(sizes))
    assert len(trained) == 2 * len(one) == 20
    assert seen == [sum(sizes[: n + 1]) for n in range(10)]
    ends = [sum(sizes[: n + 1]) for n in range(10)]
    assert [trained[2 * n] + trained[2 * n + 1] for n in range(10)] == [planned(one, e - 4, e) for e in ends]


def test_a_drawn_prompt_knows_its_pass() -> None:
    one = drawing()
    epochs: list[int] = []
    for batch in one:
        if batch.first:
            batch.window.draw(4)
            epochs += batch.window.epochs
    assert epochs == [place.epoch for place in one.order.places(0, 60)]
    assert set(epochs) == {0, 1, 2}


@pytest.mark.parametrize("world_size", [2, 3])
def test_devices_draw_one_sequence(world_size: int) -> None:
    ranks = [run(drawing(size=50, rank=r, world_size=world_size), 1)[0] for r in range(world_size)]
    assert len({len(drawn) for drawn in ranks}) == 1
    together = [sample for row in zip(*ranks, strict=True) for sample in row]
    assert together == planned(loader(size=50), 0, len(together))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers: int) -> None:
    others = set(multiprocessing.active_children())
    assert run(drawing(num_workers=workers), 2) == run(drawing(), 2)
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_resumes_after_any_step(micro_batches: int, iterations: int, workers: int) -> None:
    """With one micro-batch per step, the batch after which the checkpoint is taken is the one that draws."""
    settings = {"num_iterations": iterations, "micro_batches": micro_batches}
    whole = run(drawing(**settings), 3)[1]
    for stop in range(1, 13, 1 if workers == 0 else 4):
        stopped, trained = drawing(**settings), []
        while len(trained) < micro_batches * stop:
            for batch in stopped:
                train_on(batch)
                trained.append(numbers(batch))
                if len(trained) == micro_batches * stop:
                    break
        resumed = drawing(**settings, num_workers=workers)
        resumed.load_state_dict(stopped.state_dict())
        while len(trained) < len(whole):
            trained += run(resumed, 1)[1]
        assert trained == whole, stop


def test_state_in_the_middle_of_a_window_repeats_its_draws() -> None:
    one = drawing()
    batches = iter(one)
    for _ in range(3):
        train_on(batch := next(batches))
    assert batch.window.number == 1
    resumed = drawing()
    resumed.load_state_dict(one.state_dict())
    assert numbers(next(iter(resumed))) == planned(one, 4, 6)


def test_prefetching_does_not_run_ahead_in_the_state() -> None:
    one = drawing(num_workers=2, prefetch=4)
    batches = iter(one)
    for _ in range(4):
        train_on(next(batches))
    assert one.state_dict()["position"] == one.samples_seen == 4 + 6


def test_a_checkpoint_without_a_position() -> None:
    """Those of before a window could draw further prompts."""
    one = loader(num_iterations=2)
    batches = iter(one)
    for _ in range(6):
        next(batches)
    state = one.state_dict()
    assert state.pop("position") == 4
    resumed = loader(num_iterations=2)
    resumed.load_state_dict(state)
    assert numbers(next(iter(resumed))) == planned(one, 4, 6)
