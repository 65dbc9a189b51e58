"""How far the engine's log-probabilities are from the policy's, as metrics. No trainer needed.

Zero up to rounding while the policy has the weights that the engine sampled with. Names are TRL's (``sampling/...``)
and verl's (``rollout_corr/...``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from avrt.grpo.sampling_correction import SamplingRatios
from avrt.rollout.engine import Response

DIFFERENCE = "sampling/sampling_logp_difference/mean"
TRANSFER_DIFFERENCE = "sampling/transfer_logp_difference"
RATIO = "sampling/importance_sampling_ratio"
SAMPLE_SIZE = "rollout_corr/rollout_is_eff_sample_size"
SQUARE = f"{RATIO}/mean_square"
"""Only for `with_sample_size`, which replaces it."""


@dataclass(frozen=True)
class SamplingMetrics:
    """Metrics of a micro-batch.

    Attributes:
        sums: name to (total, weight); over micro-batches and devices a metric is sum of totals / sum of weights.
        largest, smallest: name to value; over micro-batches and devices the largest or the smallest counts.
    """

    sums: dict[str, tuple[Tensor, Tensor]]
    largest: dict[str, Tensor]
    smallest: dict[str, Tensor]


def sampled_logprobs(responses: Sequence[Sequence[Response]], like: Tensor) -> Tensor:
    """The log-probabilities that the engine reported, ``[N, C]``, padded with 0, on the device of `like`."""
    rows = [response.logprobs for group in responses for response in group]
    return pad_sequence(rows, batch_first=True).to(like.device)


@torch.no_grad()
def sampling_metrics(
    logprobs: Tensor, sampled: Tensor, mask: Tensor, ratios: SamplingRatios | None = None
) -> SamplingMetrics:
    """The metrics of a batch.

    Args:
        logprobs: ``[N, C]`` under the policy of before the update.
        sampled: ``[N, C]`` as the engine reported them; tokens without one (nan) are left out, and counted.
        mask: bool ``[N, C]``, True on response tokens.
        ratios: the correction's, if there is one; of the responses that take part in the loss.
    """
    known = mask & ~sampled.isnan()
    difference = (logprobs - sampled)[known].double()  # log π/q
    tokens, count = mask.sum().double(), known.sum().double()
    size = difference.abs()
    sums = {
        DIFFERENCE: (size.sum(), count),
        "rollout_corr/kl": (-difference.sum(), count),
        "rollout_corr/k3_kl": ((difference.exp() - difference - 1).sum(), count),
        "sampling/missing_logprobs": (tokens - count, tokens),
    }
    # A device without any value still has the metric: the names are the same on all.
    largest = {"sampling/sampling_logp_difference/max": size.max() if len(size) else size.new_tensor(-torch.inf)}
    smallest: dict[str, Tensor] = {}
    if ratios is not None:
        used = ratios.values[ratios.counted].double()
        count = ratios.counted.sum().double()
        in_use = ratios.tokens.sum().double(), ratios.tokens.any(-1).sum().double()
        masked = ratios.masked & ratios.tokens  # one ratio per response stands for all of its tokens
        sums |= {
            f"{RATIO}/mean": (used.sum(), count),
            SQUARE: (used.square().sum(), count),
            "rollout_corr/rollout_rs_masked_fraction": (masked.sum().double(), in_use[0]),
            "rollout_corr/rollout_rs_seq_masked_fraction": (masked.any(-1).sum().double(), in_use[1]),
        }
        far = used.new_tensor(torch.inf)
        largest[f"{RATIO}/max"] = used.max() if len(used) else -far
        smallest[f"{RATIO}/min"] = used.min() if len(used) else far
    return SamplingMetrics(sums, largest, smallest)


def with_sample_size(values: dict[str, float]) -> dict[str, float]:
    """A step's metrics with the effective sample size: (Σw)² / (N Σw²) of the ratios w, as a share of their number."""
    square = values.get(SQUARE)
    if square is None:
        return values
    size = values[f"{RATIO}/mean"] ** 2 / square if square else 0.0
    return {name: value for name, value in values.items() if name != SQUARE} | {SAMPLE_SIZE: size}
