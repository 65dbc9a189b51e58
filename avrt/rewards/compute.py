"""The rewards of a batch of completions and their weighted sum (Eq. 3), some of them computed in threads meanwhile.

Shape letters: N completions (prompts times group size).
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from avrt.rewards.base import RewardCallback, RewardError, Scores, as_float32, shown_value
from avrt.sample import Completion

_Checked = tuple[Tensor, dict[str, Tensor]]
"""The scores of one reward, and its curves by name."""


@dataclass(frozen=True)
class RewardTable:
    """The scores of a batch.

    Attributes:
        by_name: float32 ``[N]`` for each reward, before its weight; NaN where it does not apply.
        total: float32 ``[N]``, the weighted sum. A reward that does not apply adds nothing. If none applies the total
            is NaN: the completion is left out of its group's statistics and gets advantage 0, as in TRL. (A total of 0
            would move the group's mean.) The same where a `RewardCallback.required` reward gives NaN.
        curves: float32 ``[N]`` for each further curve of a reward, ``{reward}/{curve}``; see `Scores`.
    """

    by_name: dict[str, Tensor]
    total: Tensor
    curves: dict[str, Tensor] = field(default_factory=dict)


class PendingRewards:
    """Rewards that are being computed; created by `start_rewards`."""

    def __init__(self, rewards: Sequence[RewardCallback], completions: Sequence[Completion]) -> None:
        self._rewards = rewards
        self._completions = completions
        # The threads first: they wait for servers while the other rewards are computed here.
        self._threads = {reward.name: _ScoreThread(reward, completions) for reward in rewards if reward.concurrent}
        self._checked = {
            reward.name: _checked_scores(reward, completions) for reward in rewards if not reward.concurrent
        }

    def result(self) -> RewardTable:
        """The table, once all rewards are computed; the same for any order in which they end.

        Raises:
            RewardError: as `compute_rewards`, of the first reward in order that failed.
        """
        for reward in self._rewards:
            if reward.concurrent:
                self._checked[reward.name] = self._threads[reward.name].result()
        by_name = {reward.name: self._checked[reward.name][0] for reward in self._rewards}
        curves = {
            f"{reward.name}/{name}": values
            for reward in self._rewards
            for name, values in self._checked[reward.name][1].items()
        }
        return RewardTable(by_name, _weighted_sum(self._rewards, by_name, self._completions), curves)


def start_rewards(rewards: Sequence[RewardCallback], completions: Sequence[Completion]) -> PendingRewards:
    """Score completions with every reward: with `RewardCallback.concurrent` ones in a thread each, which may still run
    when this returns, and with the others here.

    Raises:
        RewardError: as `compute_rewards`, for a reward that is not concurrent.
        ValueError: no rewards.
    """
    if not rewards:
        raise ValueError("no rewards: list at least one under trainer.callbacks")
    return PendingRewards(rewards, completions)


def compute_rewards(rewards: Sequence[RewardCallback], completions: Sequence[Completion]) -> RewardTable:
    """Score completions with every reward, and the weighted sum of the scores.

    Raises:
        RewardError: a reward raised an exception, or did not return one finite number or NaN per completion. The
            message names the reward and the sample.
        ValueError: no rewards.
    """
    return start_rewards(rewards, completions).result()


class _ScoreThread:
    """One reward's scores, computed in a thread. It is a daemon: a run that ends early does not wait for a server."""

    def __init__(self, reward: RewardCallback, completions: Sequence[Completion]) -> None:
        self._checked: _Checked | None = None
        self._error: BaseException | None = None
        with_grad = torch.is_grad_enabled()  # per thread

        def run() -> None:
            try:
                with torch.set_grad_enabled(with_grad):
                    self._checked = _checked_scores(reward, completions)
            except BaseException as error:  # noqa: BLE001 (raised again by `result`)
                self._error = error

        self._thread = threading.Thread(target=run, name=f"reward {reward.name}", daemon=True)
        self._thread.start()

    def result(self) -> _Checked:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._checked is not None
        return self._checked


def _weighted_sum(
    rewards: Sequence[RewardCallback], by_name: dict[str, Tensor], completions: Sequence[Completion]
) -> Tensor:
    table = torch.stack(list(by_name.values()), dim=1)
    weights = torch.tensor([float(reward.weight) for reward in rewards], dtype=torch.float32)
    terms = table * weights
    total = terms.nansum(dim=1)
    # Also terms that are infinite with both signs: their sum is NaN, as if no reward applied.
    beyond = total.isinf() | terms.isinf().any(dim=1)
    total[table.isnan().all(dim=1)] = torch.nan
    for reward in rewards:
        if reward.required and reward.weight:
            total[by_name[reward.name].isnan()] = torch.nan
    for row in beyond.nonzero().flatten().tolist():
        shown = ", ".join(
            f"{reward.name} {float(table[row, i]):g} x {reward.weight:g}" for i, reward in enumerate(rewards)
        )
        raise RewardError(
            f"the weighted sum of the rewards of sample {completions[row].sample.id!r} is beyond float32 ({shown}): "
            "scale a reward or its weight down"
        )
    return total


def _checked_scores(reward: RewardCallback, completions: Sequence[Completion]) -> _Checked:
    try:
        scores = reward.score(completions)
    except RewardError:
        raise  # of the reward as a whole, in its own words
    except Exception as error:
        _raise_for_one_sample(reward, completions)
        raise RewardError(_describe(reward, error, [completion.sample.id for completion in completions])) from error
    if not isinstance(scores, Scores):
        return _as_tensor(reward, "", scores, completions), {}
    curves = {name: _as_tensor(reward, name, values, completions) for name, values in scores.curves.items()}
    if taken := {"mean", "std"} & set(curves):
        raise RewardError(f"reward {reward.name!r}: a curve is called {taken.pop()!r}, as one of every reward is")
    return _as_tensor(reward, "", scores.values, completions), curves


def _as_tensor(reward: RewardCallback, curve: str, scores: Any, completions: Sequence[Completion]) -> Tensor:
    """float32 ``[N]`` of a reward's scores, or of one of its curves."""
    where = f"score() returned as curve {curve!r}" if curve else "score() returned"
    if isinstance(scores, Tensor):
        scores = scores.tolist()
    if not hasattr(scores, "__len__") or len(scores) != len(completions):
        what = f"{len(scores)} values" if hasattr(scores, "__len__") else repr(scores)
        raise RewardError(
            f"reward {reward.name!r}: {where} {what} for {len(completions)} completions; it must return a "
            "sequence with one float for each"
        )
    values = [as_float32(score) for score in scores]
    for score, value, completion in zip(scores, values, completions, strict=True):
        if value is None:
            raise RewardError(
                f"reward {reward.name!r}: {where} {shown_value(score)} for sample {completion.sample.id!r}; it "
                "must be a finite number within float32, or NaN where the reward does not apply"
            )
    return torch.tensor(values, dtype=torch.float32)


def _raise_for_one_sample(reward: RewardCallback, completions: Sequence[Completion]) -> None:
    """After a failure on the batch: score one completion at a time to find the one that fails."""
    for completion in completions:
        try:
            reward.score([completion])
        except Exception as error:
            raise RewardError(_describe(reward, error, [completion.sample.id])) from error


def _describe(reward: RewardCallback, error: Exception, sample_ids: Sequence[str]) -> str:
    """One line: reward, samples, the error and its source line."""
    ids = list(dict.fromkeys(sample_ids))
    shown = ", ".join(repr(sample_id) for sample_id in ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    origin = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"reward {reward.name!r} failed on sample{'s' if len(ids) > 1 else ''} {shown}: "
        f"{type(error).__name__}: {error} ({origin.filename}:{origin.lineno})"
    )
