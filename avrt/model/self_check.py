"""A check on the user's own device: the shared prompt against plain separate rows, before anything is trained.

A shared prompt is exact on paper and in the tests, on the devices where they ran. What a kernel of another device or of
another version of torch does with its masks and strides is known only there. So the first micro-batch of a run is also
scored the plain way: prompt and response in a row of their own, under transformers' own causal attention, without a
layout or a mask of ours.

Two correct computations differ by rounding, in bfloat16 by some hundredths, and how much depends on model and depth. So
the rounding is measured too: the plain rows are scored a second time, each alone instead of in a batch and with another
attention kernel of torch. A mean over hundreds of tokens varies little, and rounding of the shared prompt is of the
same size as that.

Shape letters: R rows, P prompt tokens, C longest response, N response tokens in all, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS, chunked_logprobs
from avrt.model.shared_prompt import AttentionKernel
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, token_logprobs, visual_arguments

ENOUGH_TOKENS = 512
"""Response tokens after which no further response is scored."""

ROWS_TOKENS = 16_384
"""Tokens of plain rows that pass the model at once, a single row excepted: more would take memory that training has."""

ROUNDING_FACTOR = 2.5
"""A mean difference above so many times the measured rounding is a fault: healthy ones are about as large as it."""

SMALLEST_LIMIT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Mean differences that are never a fault. In narrower types a step of the type at 1, divided by 16."""


@dataclass(frozen=True)
class SelfCheck:
    """Differences of response tokens' log-probabilities, in nats.

    Attributes:
        tokens: N.
        mean, largest: between the shared prompt and separate rows.
        rounding: mean difference between two ways to compute the separate rows.
        limit: largest `mean` that rounding explains.
    """

    tokens: int
    mean: float
    largest: float
    rounding: float
    limit: float

    @property
    def passed(self) -> bool:
        """False also where a value is not a number."""
        return self.mean <= self.limit

    def of_devices(self, gather: Callable[[Tensor], Tensor]) -> SelfCheck:
        """The check of all devices together: its difference and limit are those of the worst device.

        Args:
            gather: ``[1, 5]`` of this device -> ``[devices, 5]`` of all, on the host.
        """
        values = torch.tensor([[self.tokens, self.mean, self.largest, self.rounding, self.limit]], dtype=torch.float64)
        rows = gather(values)
        # Not a number is the worst of all.
        worst = rows[(rows[:, 1] / rows[:, 4]).nan_to_num(torch.inf).argmax()].tolist()
        return SelfCheck(int(rows[:, 0].sum()), worst[1], float(rows[:, 2].max()), worst[3], worst[4])


def judge(check: SelfCheck, kernel: AttentionKernel) -> str:
    """One line about a passed check.

    Raises:
        ValueError: it did not pass; the message names the setting to change.
    """
    found = f"self check: largest difference {check.largest:.1g} over {check.tokens} tokens"
    if check.passed:
        return f"{found} (mean {check.mean:.1g}, rounding {check.rounding:.1g})"
    other: AttentionKernel = "sdpa" if kernel == "flex" else "flex"
    raise ValueError(
        f"{found}, {check.mean:.2g} on average where rounding explains {check.limit:.2g}: with a shared prompt, "
        f"responses have other log-probabilities than in rows of their own on this device; set "
        f"model.student.attention_kernel to {other} (now {kernel}) or install another version of torch "
        f"(now {torch.__version__}); model.self_check false skips this check"
    )


@torch.no_grad()
def compare_with_separate_rows(
    model: LanguageModel,
    prompts: Sequence[EmbeddedPrompt],
    responses: Sequence[Sequence[Tensor]],
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> SelfCheck:
    """Score responses with the shared prompt and in rows of their own.

    Groups of the micro-batch are taken until `ENOUGH_TOKENS` are reached, all in one packed row, as in training. Draws
    no random numbers and changes nothing.

    Args:
        model: the policy, in the precision in which it trains.
        prompts, responses, temperature, banned, chunk_rows: see `avrt.model.token_logprobs.token_logprobs`.
    """
    prompts, responses = _enough(prompts, responses)
    scores = token_logprobs(model, prompts, responses, temperature=temperature, banned=banned, chunk_rows=chunk_rows)
    shared = scores.logprobs[scores.mask]

    def separate(batches: Sequence[Sequence[Sequence[Tensor]]], kernel: AbstractContextManager[None]) -> Tensor:
        with kernel:
            hidden = [
                row
                for prompt, of_prompt in zip(prompts, batches, strict=True)
                for batch in of_prompt
                for row in _separate_rows(model, prompt, batch)
            ]
        targets = torch.cat([response for group in responses for response in group]).to(shared.device)
        logprobs, _ = chunked_logprobs(
            torch.cat(hidden),
            model.head_weight,
            targets,
            temperature=temperature,
            banned=banned,
            chunk_rows=chunk_rows,
        )
        return logprobs

    plain = separate(
        [_batches(len(prompt), group) for prompt, group in zip(prompts, responses, strict=True)], nullcontext()
    )
    device = shared.device.type
    # The memory-efficient kernel may refuse query heads that share a key head; the plain one takes everything.
    kernels = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH] if device == "cuda" else [SDPBackend.MATH]
    alone = [[[response] for response in group] for group in responses]
    other = separate(alone, sdpa_kernel(kernels, set_priority=True))
    difference, rounding = (shared - plain).abs(), (other - plain).abs()
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.head_weight.dtype
    measured = float(rounding.mean())
    smallest = SMALLEST_LIMIT.get(dtype, torch.finfo(dtype).eps / 16)
    return SelfCheck(
        len(difference),
        float(difference.mean()),
        float(difference.max()),
        measured,
        max(ROUNDING_FACTOR * measured, smallest),
    )


def _enough(
    prompts: Sequence[EmbeddedPrompt], responses: Sequence[Sequence[Tensor]]
) -> tuple[Sequence[EmbeddedPrompt], Sequence[Sequence[Tensor]]]:
    """The first responses that have enough tokens together, two of a prompt at least: one would share nothing."""
    chosen: list[list[Tensor]] = []
    tokens = 0
    for group in responses:
        if tokens >= ENOUGH_TOKENS:
            break
        chosen.append([])
        for response in group:
            if tokens >= ENOUGH_TOKENS and len(chosen[-1]) > 1:
                break
            chosen[-1].append(response)
            tokens += len(response)
    return prompts[: len(chosen)], chosen


def _batches(prompt: int, group: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """A group's responses in batches of plain rows, see `ROWS_TOKENS`; `prompt` is the length of its prompt."""
    rows = max(1, ROWS_TOKENS // (prompt + max(len(response) for response in group)))
    return [group[start : start + rows] for start in range(0, len(group), rows)]


def _separate_rows(model: LanguageModel, prompt: EmbeddedPrompt, group: Sequence[Tensor]) -> list[Tensor]:
    """Hidden states that predict each response's tokens, ``[C_i, H]``, from a batch of plain rows.

    Rows are padded on the right, where causal attention does not look from a token.
    """
    device = prompt.input_ids.device
    rows = pad_sequence([torch.cat([prompt.input_ids, r.to(device)[:-1]]) for r in group], batch_first=True)
    embeds = model.embed(rows)
    if len(prompt.media_positions):
        embeds[:, prompt.media_positions] = prompt.media_features.to(embeds.dtype)
    following = prompt.position_ids.max() + 1 + torch.arange(rows.shape[1] - len(prompt), device=device)
    positions = torch.cat([prompt.position_ids, following.expand(3, -1)], dim=1)
    hidden = model.text_model(
        inputs_embeds=embeds,
        position_ids=positions[:, None].expand(-1, len(group), -1),
        use_cache=False,
        **visual_arguments([prompt], [range(0, rows.numel(), rows.shape[1])], (rows.shape[0], rows.shape[1])),
    ).last_hidden_state
    return [row[len(prompt) - 1 :][: len(response)] for row, response in zip(hidden, group, strict=True)]
