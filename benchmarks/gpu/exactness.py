"""Are the fast paths exact on this device? Each is compared with the plain one and with a float32 truth.

Log-probabilities and gradients of a shared prompt against one row per response, SDPA against FlexAttention, and what
the sampler reports against what the scorer computes for the same tokens, for every way of decoding.

In float32 two paths may differ by rounding alone, which the tolerances below bound. In bfloat16 both differ from the
truth by much more, and the right question is whether one is further from it than the other: a path passes if its error
is at most `FACTOR` times that of plain rows, so nothing but rounding separates them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response
from benchmarks.gpu.models import (
    decoding_modes,
    in_dtype,
    random_prompts,
    random_responses,
    sampling,
    text_policy,
    with_kernel,
)
from benchmarks.gpu.models import seeds as seeds_of
from benchmarks.gpu.shapes import Row, Shape

FLOAT32_LOGPROBS = 1e-3
"""Largest difference of a log-probability in float32, in nats."""

FLOAT32_GRADIENTS = 1e-3
"""Norm of the difference of two gradients over the gradient's norm, in float32."""

FACTOR = 1.5


@dataclass
class Pass:
    """One way of computing the log-probabilities of given responses.

    Attributes:
        logprobs: of all response tokens, one after another, float32 on the host.
        gradient: by parameter, of their mean; empty without gradients.
    """

    logprobs: Tensor
    gradient: list[Tensor]


def run(shape: Shape, device: torch.device, dtype: str, kernel: str = "sdpa") -> Iterator[Row]:
    """One row per comparison; its ``passes`` is the verdict."""
    torch.backends.cuda.matmul.allow_tf32 = False
    narrow = getattr(torch, dtype)
    tokens, group, length = shape.exact
    truth_model = text_policy(shape, "3b", device, torch.float32)
    model = truth_model
    if narrow != torch.float32:
        for parameter in (*truth_model.text_model.parameters(), truth_model.head_weight):
            parameter.data = parameter.data.to(narrow).float()  # the truth has the same weights, exactly
        model = in_dtype(truth_model, narrow)
    prompts = random_prompts(model, tokens, 2)
    responses = random_responses(model, 2, group, length)
    # Uneven lengths, so that padding takes part.
    responses = [[r[: max(1, length - 3 * i)] for i, r in enumerate(part)] for part in responses]
    prompts[1] = random_prompts(model, tokens - tokens // 8, 1, seed=2)[0]

    truth = score(truth_model, prompts, responses, share_prompt=False)
    if narrow == torch.float32:
        rows = truth
    else:
        rows = score(model, prompts, responses, share_prompt=False)
    shared = score(model, prompts, responses)
    if kernel == "flex":
        gradients = device.type == "cuda"  # FlexAttention has no gradient on the CPU
        flex = score(with_kernel(model, "flex"), prompts, responses, gradients=gradients)
        yield _row("flex against sdpa", dtype, flex, shared, rows, truth)
        return
    yield _row("one row per response against float32", dtype, rows, truth, rows, truth)
    yield _row("shared prompt against one row per response", dtype, shared, rows, rows, truth)
    del shared
    rows.gradient.clear()
    truth.gradient.clear()
    yield from check_decoding(shape, model, truth_model, prompts, dtype)


def score(
    model: LanguageModel,
    prompts: list[EmbeddedPrompt],
    responses: list[list[Tensor]],
    share_prompt: bool = True,
    gradients: bool = True,
) -> Pass:
    """Log-probabilities and the gradient of their mean."""
    parameters = [*model.text_model.parameters(), model.head_weight]
    with torch.set_grad_enabled(gradients):
        out = token_logprobs(model, prompts, responses, share_prompt=share_prompt)
        flat = out.logprobs[out.mask]
    found: list[Tensor] = []
    if gradients:
        flat.mean().backward()
        for parameter in parameters:
            assert parameter.grad is not None
            found.append(parameter.grad)
            parameter.grad = None
    return Pass(flat.detach().float().cpu(), found)


def _row(what: str, dtype: str, one: Pass, other: Pass, rows: Pass, truth: Pass) -> Row:
    """Compare two passes; in bfloat16 the errors of `one` and of plain `rows` against the truth decide."""
    difference = (one.logprobs - other.logprobs).abs()
    row: Row = {
        "what": what,
        "dtype": dtype,
        "tokens": difference.numel(),
        "logprob_max": float(difference.max()),
        "logprob_mean": float(difference.mean()),
        "error_mean": float((one.logprobs - truth.logprobs).abs().mean()),
        "plain_error_mean": float((rows.logprobs - truth.logprobs).abs().mean()),
        "gradient": relative(one.gradient, other.gradient),
        "gradient_error": relative(one.gradient, truth.gradient),
        "plain_gradient_error": relative(rows.gradient, truth.gradient),
    }
    if dtype == "float32":
        passes = row["logprob_max"] <= FLOAT32_LOGPROBS and (row["gradient"] or 0.0) <= FLOAT32_GRADIENTS
    else:
        passes = row["error_mean"] <= FACTOR * row["plain_error_mean"]
        passes &= (row["gradient_error"] or 0.0) <= FACTOR * row["plain_gradient_error"]
    return row | {"passes": bool(passes)}


def relative(one: list[Tensor], other: list[Tensor]) -> float | None:
    """Norm of the difference over the norm of `other`, over all parameters; None without gradients."""
    if not one or not other:
        return None
    difference = sum(float((a.float() - b.float()).norm()) ** 2 for a, b in zip(one, other, strict=True))
    norm = sum(float(b.float().norm()) ** 2 for b in other)
    return (difference / norm) ** 0.5


def check_decoding(
    shape: Shape, model: LanguageModel, truth_model: LanguageModel, prompts: list[EmbeddedPrompt], dtype: str
) -> Iterator[Row]:
    """Sampler against scorer for every way of decoding, and the tokens of each against plain decoding's."""
    _, group, length = shape.exact
    plain: list[list[Response]] | None = None
    for mode, missing in decoding_modes(model.head_weight.device):
        if missing is not None:
            yield {"what": f"{mode} decoding", "dtype": dtype, "skipped": missing}
            continue
        found = TransformersRollout(model, sampling(length, mode), ()).generate(prompts, group, seeds_of(prompts))
        yield sampler_row(f"sampler ({mode}) against scorer", dtype, model, truth_model, prompts, found)
        if plain is None:
            plain = found
        else:
            yield tokens_row(f"tokens of {mode} against plain decoding", dtype, found, plain)


def sampler_row(
    what: str,
    dtype: str,
    model: LanguageModel,
    truth_model: LanguageModel,
    prompts: list[EmbeddedPrompt],
    found: list[list[Response]],
) -> Row:
    """The sampler's log-probabilities of its own tokens against the scorer's, and both against the truth."""
    ids = [[r.token_ids for r in group] for group in found]
    sampled = torch.cat([r.logprobs for group in found for r in group]).float()
    scored = score(model, prompts, ids, gradients=False).logprobs
    truth = score(truth_model, prompts, ids, share_prompt=False, gradients=False).logprobs
    difference = (sampled - scored).abs()
    row: Row = {
        "what": what,
        "dtype": dtype,
        "tokens": difference.numel(),
        "logprob_max": float(difference.max()),
        "logprob_mean": float(difference.mean()),
        "error_mean": float((sampled - truth).abs().mean()),
        "plain_error_mean": float((scored - truth).abs().mean()),
    }
    passes: Any = row["logprob_max"] <= FLOAT32_LOGPROBS
    if dtype != "float32":
        # One wrong token among thousands hardly moves a mean: its own difference must be within rounding too.
        worst = float((scored - truth).abs().max()) + float(difference.mean())
        passes = row["error_mean"] <= FACTOR * row["plain_error_mean"] and row["logprob_max"] <= 2 * FACTOR * worst
    return row | {"passes": bool(passes)}


def tokens_row(what: str, dtype: str, found: list[list[Response]], plain: list[list[Response]]) -> Row:
    """Tokens drawn with the same random numbers. In float32 all must be equal.

    In bfloat16 rounding moves the borders between tokens, and a response differs from there on; its log-probabilities
    must still be those of its own tokens, which the row of the sampler checks.
    """
    pairs = [
        (a.token_ids, b.token_ids) for one, two in zip(found, plain, strict=True) for a, b in zip(one, two, strict=True)
    ]
    first = [_first_difference(a, b) for a, b in pairs]
    differing = [position for position in first if position is not None]
    row: Row = {
        "what": what,
        "dtype": dtype,
        "tokens": sum(len(a) for a, _ in pairs),
        "responses": len(pairs),
        "responses_that_differ": len(differing),
        "first_difference": min(differing, default=None),
    }
    return row | ({"passes": not differing} if dtype == "float32" else {})


def _first_difference(a: Tensor, b: Tensor) -> int | None:
    if torch.equal(a, b):
        return None
    shorter = min(len(a), len(b))
    unequal = (a[:shorter] != b[:shorter]).nonzero()
    return int(unequal[0]) if len(unequal) else shorter
