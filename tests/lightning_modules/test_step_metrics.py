"""Sums, times and skipped steps of optimizer steps, without a trainer."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lightning_modules.step_metrics import SkippedSteps, StepMetrics, StepReport


def on_one_device(table: Tensor) -> Tensor:
    return table


def test_metrics_are_sums_over_sums() -> None:
    metrics = StepMetrics()
    metrics.add("loss", torch.tensor(3.0), 2.0)
    metrics.add("loss", torch.tensor(1.0), torch.tensor(2.0))
    metrics.add("constant", 5.0)
    metrics.add("nothing", 0.0, 0.0)
    metrics.tokens_seen += 7
    assert metrics.finish(on_one_device, on_one_device) == {"loss": 1.0, "constant": 5.0, "num_tokens": 7.0}
    assert metrics.finish(on_one_device, on_one_device) == {"num_tokens": 7.0}, "the next step begins at zero"


def test_metrics_over_devices() -> None:
    """A device with more weight counts more; the reduction is an argument."""
    metrics = StepMetrics()
    metrics.add("loss", 6.0, 3.0)
    assert metrics.finish(lambda table: table + torch.tensor([[2.0, 1.0]]), on_one_device)["loss"] == 2.0


def test_extremes_over_micro_batches_and_devices() -> None:
    metrics = StepMetrics()
    for value in (1.0, 3.0, 2.0):
        metrics.note_largest("max", torch.tensor(value))
        metrics.note_smallest("min", value)
    other = torch.tensor([2.5, -0.5], dtype=torch.float64)  # another device's, the smallest with the other sign
    found = metrics.finish(on_one_device, lambda table: torch.maximum(table, other))
    assert (found["max"], found["min"]) == (3.0, 0.5)
    assert metrics.finish(on_one_device, on_one_device) == {"num_tokens": 0.0}, "the next step begins without them"


def test_times_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("lightning_modules.step_metrics.time", clock)
    metrics = StepMetrics()
    for seconds in (1.0, 2.0):
        with metrics.timed("training"):
            clock.now += seconds
    metrics.start("training")
    clock.now += 4.0
    metrics.stop("training")
    assert metrics.finish(on_one_device, on_one_device)["seconds/training"] == 7.0


@pytest.mark.parametrize("synchronize", [False, True])
def test_the_gpu_is_waited_for_only_when_asked(monkeypatch: pytest.MonkeyPatch, synchronize: bool) -> None:
    waits: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    with StepMetrics(synchronize).timed("training"):
        pass
    assert len(waits) == (2 if synchronize else 0)


FINITE, BROKEN = StepReport(1.0, 1e-3), StepReport(math.nan, 1e-3)


def gather(texts: list[str]) -> list[str]:
    """A second device with one sample."""
    return [*texts, "theirs"] if texts else texts


def step(skipped: SkippedSteps, grad_norm: float, loss: float = 1.0) -> str | None:
    skipped.note(torch.tensor(1.0), ["a"])
    skipped.note(torch.tensor(loss), ["b", "c"])
    return skipped.finish(StepReport(grad_norm, 1e-3), 4, gather)  # type: ignore[arg-type]


def test_skipped_steps_are_counted_and_named() -> None:
    skipped = SkippedSteps(limit=3)
    assert step(skipped, 1.0) is None
    line = step(skipped, math.inf)
    assert line is not None
    assert "gradient" in line
    assert "a, b, c, theirs" in line
    line = step(skipped, math.nan, loss=math.nan)
    assert line is not None
    assert "loss" in line
    assert "b, c, theirs" in line
    assert "a," not in line
    assert (skipped.total, skipped.in_a_row) == (2, 2)
    skipped.check(4)
    step(skipped, math.nan)
    with pytest.raises(ValueError, match=r"step 4: 3 .*model\.max_skipped_steps"):
        skipped.check(4)
    step(skipped, 1.0)
    assert (skipped.total, skipped.in_a_row) == (3, 0)


def test_a_checkpoint_counts_a_step_that_is_not_finished() -> None:
    skipped = SkippedSteps(limit=3)
    assert skipped.counted(None) == (0, 0)
    assert skipped.counted(BROKEN) == (1, 1)
    skipped.note(torch.tensor(1.0), ["a"])
    skipped.finish(BROKEN, 1, list)
    assert skipped.counted(BROKEN) == (1, 1), "the same step is not counted twice"
    assert skipped.counted(FINITE) == (1, 0)


def test_a_run_that_only_skipped_fails_at_its_end() -> None:
    skipped = SkippedSteps(limit=10)
    skipped.check_at_end(0)
    skipped.total = 2
    skipped.check_at_end(3)
    with pytest.raises(ValueError, match=r"all 2 .*model\.optimizer\.learning_rate"):
        skipped.check_at_end(2)
