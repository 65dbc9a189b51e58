"""Rewards that run in threads: at the same time as other work, with the results and errors of a sequential run."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.model.reference import FrozenCopy
from avrt.rewards import RewardCallback, RewardError, Scores, compute_rewards, start_rewards
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig
from avrt.rollout.window_rollout import WindowRollout
from avrt.sample import Completion, Sample
from tests.tiny_student import load_student, make_sample

SECONDS = 30.0
"""Time in which an event must come."""


def completions(count: int = 5) -> list[Completion]:
    sample = Sample("x", "?", ("cat", "dog"), 0)
    return [Completion(sample, "w " * i) for i in range(count)]


class Words(RewardCallback):
    name = "words"

    def score(self, completions: Sequence[Completion]) -> list[float]:
        return [len(c.text.split()) / 3 for c in completions]


class Waiting(RewardCallback):
    """Scores once `may_end` is set, in its own thread or not."""

    name = "waiting"

    def __init__(self, concurrent: bool = True, error: Exception | None = None) -> None:
        super().__init__()
        self.concurrent = concurrent
        self.error = error
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.with_grad: list[bool] = []

    def score(self, completions: Sequence[Completion]) -> Scores:
        self.begun.set()
        assert self.may_end.wait(SECONDS), "nothing else ran meanwhile"
        self.with_grad.append(torch.is_grad_enabled())
        if self.error is not None:
            raise self.error
        values = [math.nan if not i else 1 / (7 + len(c.text)) for i, c in enumerate(completions)]
        return Scores(values, {"late": [float(i % 2) for i, _ in enumerate(completions)]})


def test_others_are_scored_meanwhile() -> None:
    """Two that wait for each other's beginning, and one that is computed in the thread that starts them."""
    first, second = Waiting(), Waiting()
    second.name = "second"
    pending = start_rewards([first, Words(), second], completions())
    assert first.begun.wait(SECONDS)
    assert second.begun.wait(SECONDS)
    second.may_end.set()
    first.may_end.set()
    assert list(pending.result().by_name) == ["waiting", "words", "second"]


def test_the_table_is_that_of_a_sequential_run() -> None:
    tables = []
    for concurrent in (False, True):
        waiting = Waiting(concurrent)
        waiting.may_end.set()
        with torch.no_grad():
            tables.append(compute_rewards([waiting, Words()], completions()))
        assert waiting.with_grad == [False]
    one, other = tables
    assert list(one.by_name) == list(other.by_name)
    assert list(one.curves) == list(other.curves) == ["waiting/late"]
    for a, b in zip([one.total, *one.by_name.values()], [other.total, *other.by_name.values()], strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("concurrent", [False, True])
def test_errors_are_raised_where_the_result_is_taken(concurrent: bool) -> None:
    waiting = Waiting(concurrent, ArithmeticError("no number"))
    waiting.may_end.set()
    with pytest.raises(RewardError, match=r"'waiting' failed on sample 'x': ArithmeticError: no number"):
        compute_rewards([Words(), waiting], completions())


def test_an_error_of_the_reward_as_a_whole_is_not_searched_for_in_single_completions() -> None:
    waiting = Waiting(error=RewardError("reward 'waiting': the server is down"))
    waiting.may_end.set()
    with pytest.raises(RewardError, match=r"^reward 'waiting': the server is down$"):
        compute_rewards([waiting], completions())
    assert len(waiting.with_grad) == 1


def test_an_unknown_score_leaves_the_completion_out_and_an_inapplicable_one_does_not() -> None:
    waiting, words = Waiting(), Words()
    waiting.may_end.set()
    assert compute_rewards([waiting, words], completions()).total[0] == 0.0
    waiting.required = True
    table = compute_rewards([waiting, words], completions())
    assert table.total.isnan().tolist() == [True, False, False, False, False]
    assert table.by_name["words"][0] == 0.0
    waiting.weight = 0.0
    assert compute_rewards([waiting, words], completions()).total[0] == 0.0, "it is only logged"


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({"late": [1.0]}, "as curve 'late' 1 values for 5 completions"),
        ({"late": [None] * 5}, "as curve 'late' None for sample 'x'"),
        ({"mean": [1.0] * 5}, "a curve is called 'mean'"),
    ],
)
def test_wrong_curves_name_the_reward(curves: Any, message: str) -> None:
    class Wrong(RewardCallback):
        name = "wrong"

        def score(self, completions: Sequence[Completion]) -> Scores:
            return Scores([0.0 for _ in completions], curves)

    with pytest.raises(RewardError, match=f"'wrong'.*{message}"):
        compute_rewards([Wrong()], completions())


def test_a_windows_reference_pass_runs_meanwhile(student_folder: Path) -> None:
    """The reward ends only after the reference pass has begun, which a sequential rollout never reaches."""
    student = load_student(student_folder)
    waiting = Waiting()

    class Reference(FrozenCopy):
        @contextmanager
        def on(self, device: torch.device) -> Any:
            assert waiting.begun.wait(SECONDS)
            waiting.may_end.set()
            with super().on(device) as model:
                yield model

    sampling = SamplingConfig(max_completion_length=4)
    engine = TransformersRollout(student.language_model, sampling, student.eos_token_ids, student.banned_tokens)
    prompts = [student.encoder.encode(make_sample("audio", i)) for i in range(2)]
    rollout = WindowRollout(
        student, engine, [Words(), waiting], Reference(student.copy_language_model()), sampling, num_generations=2
    ).run(prompts, [0, 0], 2)
    assert rollout.ref_logprobs is not None
    assert list(rollout.rewards.by_name) == ["words", "waiting"]
    assert rollout.rewards.curves["waiting/late"].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert waiting.with_grad == [False]
