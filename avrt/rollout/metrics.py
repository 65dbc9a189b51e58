"""Metrics of a rollout, under TRL's names (docs/metrics.md). No trainer needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avrt.grpo.advantage import advantage_shares
from avrt.grpo.group_selection import has_spread, spread_in_any
from avrt.rollout.window_rollout import Rollout
from avrt.sample import Completion
from avrt.text.answers import Reason, parse

Gather = Callable[[Tensor], Tensor]


def rollout_metrics(rollout: Rollout, gather: Gather) -> dict[str, float]:
    """The window's metrics over all devices, the same on each: of everything that was rolled out.

    Args:
        rollout: this device's rollout.
        gather: values of this device -> those of all devices, see `avrt.rollout.window_rollout.Devices`.
    """
    generated = rollout.generated
    done, group_size = generated.completions, generated.num_generations
    lengths = gather(torch.tensor([len(c.token_ids) for c in done], dtype=torch.float64))
    finished = gather(torch.tensor([c.finish_reason == "stop" for c in done])).bool()
    terminated = lengths[finished]
    metrics = {
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": 1 - finished.double().mean(),
        "completions/mean_terminated_length": terminated.mean() if len(terminated) else torch.tensor(0.0),
        "frac_reward_zero_std": gather(~has_spread(generated.rewards.total, group_size)).double().mean(),
    }
    columns = [("reward", "reward_std", generated.rewards.total)]
    columns += [(f"rewards/{name}/mean", f"rewards/{name}/std", row) for name, row in generated.rewards.by_name.items()]
    for mean, std, values in columns:
        scores = gather(values).double()
        scores = scores[~scores.isnan()]
        if len(scores):
            metrics[mean] = scores.mean()
            metrics[std] = scores.std() if len(scores) > 1 else torch.tensor(0.0)
    for name, row in generated.rewards.curves.items():
        values = gather(row).double()
        values = values[~values.isnan()]
        if len(values):
            metrics[f"rewards/{name}"] = values.mean()
    for name, scores in generated.rewards.by_name.items():
        applies = gather(~scores.isnan().view(-1, group_size).all(dim=1)).bool()
        spread = gather(has_spread(scores, group_size)).bool()[applies]
        if len(spread):
            metrics[f"frac_zero_std/{name}"] = 1 - spread.double().mean()
    shares = advantage_shares(rollout.statistics.contributions, rollout.used, gather)
    if shares is not None:
        names = (f"advantage_share/{name}" for name in rollout.rewards.by_name)
        metrics |= dict(zip(names, shares, strict=True))
    parsed = [parse(c.text, c.sample, finish_reason=c.finish_reason) for c in done]
    for reason in Reason:
        metrics[f"answers/{reason.value}"] = gather(torch.tensor([p.reason is reason for p in parsed])).double().mean()
    right = gather(torch.tensor([c.sample.is_right(p.letter) for c, p in zip(done, parsed, strict=True)])).bool()
    metrics["accuracy/pass@1"] = right.double().mean()
    metrics[f"accuracy/pass@{group_size}"] = right.view(-1, group_size).any(dim=1).double().mean()
    return {name: float(value) for name, value in metrics.items()}


def selection_metrics(
    rollout: Rollout, rewards: Sequence[str], dynamic_sampling: bool, gather: Gather
) -> dict[str, float]:
    """Metrics of dynamic sampling or of filtered groups over all devices, the same on each.

    Args:
        rollout: this device's rollout.
        rewards: names of the rewards of which one must differ within a group.
        dynamic_sampling: whether other groups are replaced; otherwise they are masked.
        gather: see `rollout_metrics`.
    """
    table, group_size = rollout.rewards, rollout.generated.num_generations
    spread = spread_in_any(table.by_name, table.total, rewards, group_size)
    without = float(1 - gather(spread).double().mean())
    if not dynamic_sampling:
        return {"filter_groups/masked": without}
    prompts = float(gather(torch.tensor([float(len(rollout.generated.prompt_tokens))])).sum())
    used = float(gather(torch.tensor([float(len(rollout.prompts))])).sum())
    return {
        "dynamic_sampling/prompts": prompts,
        "dynamic_sampling/unused_share": 1 - used / prompts,
        "dynamic_sampling/filled_up": without,
    }


def count_tokens(rollout: Rollout, gather: Gather) -> int:
    """Tokens rolled out for the window over all devices: every response together with its prompt."""
    return int(gather(torch.tensor([rollout.generated.tokens], dtype=torch.float64)).sum())


def staleness_metrics(done: Sequence[Completion], gather: Gather) -> dict[str, float]:
    """How many optimizer steps old the weights are that sampled a window's responses, over all devices."""
    staleness = gather(torch.tensor([completion.staleness for completion in done], dtype=torch.float64))
    return {
        "sampling/staleness/mean": float(staleness.mean()),
        "sampling/staleness/max": float(staleness.max()),
    }
