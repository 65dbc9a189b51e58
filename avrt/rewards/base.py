"""The base class of rewards, and the rewards of a run."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from numbers import Real
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from lightning.pytorch import Callback

from avrt.sample import Completion

FLOAT32_MAX = torch.finfo(torch.float32).max


class RewardError(ValueError):
    """A reward failed; the message names the reward, and the sample or the cause.

    A `score` that cannot continue, whatever the completions, raises it itself; other exceptions are searched for the
    completion that causes them.
    """


@dataclass(frozen=True)
class Scores:
    """Scores with further curves of the reward.

    Attributes:
        values: one score for each completion, as `RewardCallback.score` may return without this class.
        curves: by name, one number for each completion. Their mean over the completions of the step that do not have
            NaN is logged as ``rewards/{reward}/{name}``. Every call must give the same names.
    """

    values: Sequence[float]
    curves: Mapping[str, Sequence[float]]


class RewardCallback(Callback):
    """One term of the summed reward. Subclass it, name it, and write `score`; see ``docs/rewards.md``.

    A reward is a Lightning callback so that a run lists it under ``trainer.callbacks`` by class path, from any
    installed package. It may use the callback hooks, but `score` must be pure: the same completions give the same
    values, whatever was scored before, because a resumed run repeats its rollouts.

    Args:
        weight: factor of this reward in the sum. With 0 it is only logged.
        name: the reward's name in the logs (``rewards/{name}/mean``); the class's `name` if left out.
    """

    name: str = ""
    weight: float = 1.0
    concurrent: bool = False
    """Whether `score` runs in a thread of its own, while the reference policy scores the responses. For rewards that
    wait for something outside; such a `score` must be safe in a thread and not draw from global random generators."""
    required: bool = False
    """Whether NaN means an unknown score: the completion is left out of training. Otherwise NaN means that the reward
    does not apply, and the completion competes with the sum of its other rewards."""
    _arguments: Mapping[str, Any] = MappingProxyType({})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments, with defaults, whatever a subclass does with them: a resumed run compares them."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:  # `__init__` will raise it; unpickling restores the attributes by itself
            return self
        bound.apply_defaults()
        kinds = bound.signature.parameters
        arguments = dict(list(bound.arguments.items())[1:])
        for rest in [name for name in arguments if kinds[name].kind is inspect.Parameter.VAR_KEYWORD]:
            arguments |= arguments.pop(rest)
        self._arguments = arguments
        return self

    def __init__(self, weight: float = 1.0, name: str | None = None) -> None:
        super().__init__()
        self.weight = weight
        if name is not None:
            self.name = name

    def settings(self) -> Mapping[str, Any]:
        """What a resumed run must have in common with the saved one, besides class and weight: here all arguments."""
        return {key: value for key, value in self._arguments.items() if key not in ("name", "weight")}

    def score(self, completions: Sequence[Completion]) -> Sequence[float] | Scores:
        """One finite value for each completion, in order; NaN where the reward does not apply."""
        raise NotImplementedError(f"{type(self).__qualname__} must define score(self, completions)")


def collect_rewards(callbacks: Iterable[Callback]) -> list[RewardCallback]:
    """The rewards among a trainer's callbacks, in their order.

    Raises:
        ValueError: there is none; one has no name, two have the same; a weight is not a finite number.
    """
    rewards = [callback for callback in callbacks if isinstance(callback, RewardCallback)]
    if not rewards:
        raise ValueError(
            "trainer.callbacks lists no reward: add at least one, for instance "
            "`- class_path: avrt.rewards.AccuracyReward`"
        )
    taken: set[str] = set()
    for reward in rewards:
        kind = type(reward).__qualname__
        if not isinstance(reward.name, str) or not reward.name:
            raise ValueError(
                f"trainer.callbacks: {kind} has no name: give the class a `name`, or set its argument name"
            )
        if reward.name in taken:
            raise ValueError(
                f"trainer.callbacks: two rewards are called {reward.name!r}: set the argument name of one of them"
            )
        taken.add(reward.name)
        weight = as_float32(reward.weight)
        if weight is None or not math.isfinite(weight):
            raise ValueError(
                f"trainer.callbacks: the weight of reward {reward.name!r} is {shown_value(reward.weight)}: set "
                "weight to a finite number"
            )
    return rewards


SECRET = re.compile(
    r"(^|_)(api_?key|secret|password|passphrase|credentials?|(access|auth|bearer)_token)$", re.IGNORECASE
)


def describe_rewards(rewards: Iterable[RewardCallback]) -> dict[str, dict[str, Any]]:
    """The rewards of a run by name: class, weight and settings as plain values, by dotted key.

    Secrets are left out: checkpoints get copied, and a secret does not change a score.
    """
    described = {}
    for reward in rewards:
        kind = type(reward)
        entry: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}", "weight": float(reward.weight)}
        described[reward.name] = entry | dict(_plain_values("", reward.settings()))
    return described


def _plain_values(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Values that a checkpoint may hold, by dotted key; other objects are named by their class."""
    if SECRET.search(key.rpartition(".")[2]):
        return
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _plain_values(f"{key}.{name}" if key else str(name), inner)
    elif key:
        yield key, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return "nan"  # equal to itself
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(inner) for inner in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(map(repr, value)))
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping) or is_dataclass(value):
        return {} if not value else repr(dict(_plain_values("", {"value": value})))
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def as_float32(value: object) -> float | None:
    """A Python or NumPy number or boolean as a float; None for anything else, and for what float32 cannot hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if abs(number) > FLOAT32_MAX else number


def shown_value(value: object) -> str:
    """A value for a message; Python refuses to print whole numbers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    return repr(value)
