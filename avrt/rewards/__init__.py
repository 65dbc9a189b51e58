"""The rewards that ship, and the base class for your own (``docs/rewards.md``)."""

from avrt.rewards.accuracy import AccuracyReward
from avrt.rewards.base import RewardCallback, RewardError, Scores, collect_rewards, describe_rewards
from avrt.rewards.compute import PendingRewards, RewardTable, compute_rewards, start_rewards
from avrt.rewards.format import FormatReward
from avrt.rewards.judge import JudgeReward
from avrt.rewards.length import LengthReward
from avrt.rewards.overlong import OverlongReward

__all__ = [
    "AccuracyReward",
    "FormatReward",
    "JudgeReward",
    "LengthReward",
    "OverlongReward",
    "PendingRewards",
    "RewardCallback",
    "RewardError",
    "RewardTable",
    "Scores",
    "collect_rewards",
    "compute_rewards",
    "describe_rewards",
    "start_rewards",
]
