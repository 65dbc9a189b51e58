"""The rewards that ship, and the base class for your own (``docs/rewards.md``)."""

from avrt.rewards.accuracy import AccuracyReward
from avrt.rewards.base import (
    RewardCallback,
    RewardError,
    RewardTable,
    collect_rewards,
    compute_rewards,
    describe_rewards,
)
from avrt.rewards.format import FormatReward
from avrt.rewards.length import LengthReward
from avrt.rewards.overlong import OverlongReward

__all__ = [
    "AccuracyReward",
    "FormatReward",
    "LengthReward",
    "OverlongReward",
    "RewardCallback",
    "RewardError",
    "RewardTable",
    "collect_rewards",
    "compute_rewards",
    "describe_rewards",
]
