"""Metrics of a rollout, under TRL's names (docs/metrics.md). No trainer needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avrt.grpo.advantage import advantage_shares
from avrt.model.token_logprobs import TokenLogprobs
from avrt.rollout.engine import Response
from avrt.rollout.window_rollout import Rollout
from avrt.text.answers import Reason, parse

Gather = Callable[[Tensor], Tensor]


def rollout_metrics(rollout: Rollout, gather: Gather) -> dict[str, float]:
    """The window's metrics over all devices, the same on each.

    Args:
        rollout: this device's rollout.
        gather: values of this device -> those of all devices, see `avrt.rollout.window_rollout.Devices`.
    """
    lengths = gather(torch.tensor([len(c.token_ids) for c in rollout.completions], dtype=torch.float64))
    finished = gather(torch.tensor([c.finish_reason == "stop" for c in rollout.completions])).bool()
    terminated = lengths[finished]
    metrics = {
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": 1 - finished.double().mean(),
        "completions/mean_terminated_length": terminated.mean() if len(terminated) else torch.tensor(0.0),
        "frac_reward_zero_std": gather(rollout.statistics.zero_std).double().mean(),
    }
    columns = [("reward", "reward_std", rollout.rewards.total)]
    columns += [(f"rewards/{name}/mean", f"rewards/{name}/std", row) for name, row in rollout.rewards.by_name.items()]
    for mean, std, values in columns:
        scores = gather(values).double()
        scores = scores[~scores.isnan()]
        if len(scores):
            metrics[mean] = scores.mean()
            metrics[std] = scores.std() if len(scores) > 1 else torch.tensor(0.0)
    shares = advantage_shares(rollout.statistics.contributions, rollout.used, gather)
    if shares is not None:
        names = (f"advantage_share/{name}" for name in rollout.rewards.by_name)
        metrics |= dict(zip(names, shares, strict=True))
    reasons = [parse(c.text, c.sample, finish_reason=c.finish_reason).reason for c in rollout.completions]
    for reason in Reason:
        metrics[f"answers/{reason.value}"] = gather(torch.tensor([r is reason for r in reasons])).double().mean()
    return {name: float(value) for name, value in metrics.items()}


def count_tokens(rollout: Rollout, gather: Gather) -> int:
    """Tokens of the window over all devices: every response together with its prompt."""
    responses = gather(torch.tensor([len(c.token_ids) for c in rollout.completions], dtype=torch.float64))
    prompts = gather(torch.tensor([len(prompt) for prompt in rollout.prompts], dtype=torch.float64))
    return int(responses.sum()) + int(prompts.sum()) * len(rollout.responses[0])


def sampling_differences(scores: TokenLogprobs, responses: Sequence[Sequence[Response]]) -> Tensor:
    """How far each token's log-probability is from the one it was sampled with, ``[tokens]`` on the host.

    Zero up to rounding while the policy has the weights that the rollout engine sampled with.

    Args:
        scores: the responses under the policy.
        responses: the same responses, with the engine's log-probabilities.
    """
    sampled = torch.cat([response.logprobs for group in responses for response in group])
    return (scores.logprobs.detach()[scores.mask].cpu() - sampled).abs()
