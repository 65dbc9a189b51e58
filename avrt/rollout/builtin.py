"""Sampling a group of responses per prompt, with each prompt prefilled once.

The prompts run through the model once; their keys and values stay as they are, one copy per prompt. In every decoding
step the G responses of a prompt meet that one copy together (their queries are stacked), and each its own short cache;
one softmax runs over both. Reading the prompt's cache once per group instead of once per response is what makes
decoding behind long prompts fast.

What is sampled is what is scored: temperature only, no top-p, no top-k, and the same banned tokens as in
`avrt.model.chunked_logprobs`.

Shape letters: n prompts, G responses per prompt, N = n*G rows, P longest prompt, c response tokens so far,
V vocabulary, A query heads, K key/value heads, R = A/K, D head size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from avrt.model.chunked_logprobs import chunk_logits
from avrt.model.shared_prompt import Layout, PackedLayout, PrefixCache
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, packed_forward

INITIAL_CACHE_STEPS = 64
"""Response tokens that the key/value cache holds at first; it doubles when full, up to the limit of a response."""

COMPACT_BELOW = 0.75
"""Finished rows leave the batch when no more than this share of it is still being written."""


@dataclass(frozen=True)
class SamplingConfig:
    """How responses are drawn.

    Attributes:
        max_completion_length: token limit of a response.
        temperature: divides the logits; 0 takes the most likely token (greedy).
        kv_cache_tokens: bound on the tokens whose keys and values are held at one time (prompts once, responses in
            full). A window that needs more is rolled out in sub-batches of whole prompts, one after another; a prompt
            that needs more by itself goes alone.
        share_prefill: keep one copy of a prompt's cache per group; off, every response prefills its own (for
            comparison: nothing but time and memory changes).
    """

    max_completion_length: int = 1024
    temperature: float = 1.0
    kv_cache_tokens: int = 262_144
    share_prefill: bool = True

    def __post_init__(self) -> None:
        if self.max_completion_length < 1:
            raise ValueError(f"model.init_args.max_completion_length must be positive, is {self.max_completion_length}")
        if self.temperature < 0:
            raise ValueError(f"model.init_args.temperature must be 0 (greedy) or positive, is {self.temperature}")
        if self.kv_cache_tokens < 1:
            raise ValueError(f"model.init_args.kv_cache_tokens must be positive, is {self.kv_cache_tokens}")


@dataclass(frozen=True)
class Response:
    """One sampled response.

    Attributes:
        token_ids: int64 ``[C]`` on the CPU, with the end-of-turn token when there was one.
        logprobs: float32 ``[C]`` on the CPU, at the sampling temperature (at 1 when greedy).
        finished: the model ended its turn (False: the token limit cut the response).
    """

    token_ids: Tensor
    logprobs: Tensor
    finished: bool


class RolloutEngine(Protocol):
    """What writes responses; `TransformersRollout` is built in, others (vLLM) fit the same slot."""

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """`num_generations` responses for every prompt, in order; prompt i draws from random stream ``seeds[i]``."""
        ...


class TransformersRollout:
    """Rollout with the policy's own transformers modules, in the process that trains.

    Args:
        model: the language model to sample from; read at every call, so it always holds the current weights.
        config: sampling settings.
        eos_token_ids: tokens that end a response.
        banned: bool ``[V]``, tokens that are never sampled.
    """

    def __init__(
        self, model: LanguageModel, config: SamplingConfig, eos_token_ids: Sequence[int], banned: Tensor | None = None
    ) -> None:
        self.model = model
        self.config = config
        self.eos_token_ids = tuple(eos_token_ids)
        self.banned = banned

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        if len(seeds) != len(prompts):
            raise ValueError("seeds must have one entry per prompt")
        training = self.model.text_model.training
        self.model.text_model.eval()  # also turns gradient checkpointing off for the prefill
        try:
            results: list[list[Response]] = [[] for _ in prompts]
            for batch in self._sub_batches(prompts, num_generations):
                groups = self._decode([prompts[i] for i in batch], num_generations, [seeds[i] for i in batch])
                for i, group in zip(batch, groups, strict=True):
                    results[i] = group
            return results
        finally:
            self.model.text_model.train(training)

    def _sub_batches(self, prompts: Sequence[EmbeddedPrompt], num_generations: int) -> list[list[int]]:
        """Split the window so that each part's cache fits; prompts of like length go together (least padding)."""
        response_tokens = num_generations * self.config.max_completion_length
        copies = 1 if self.config.share_prefill else num_generations
        batches: list[list[int]] = []
        longest = 0
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
            longest = max(longest, len(prompts[i]))
            needed = copies * longest + response_tokens
            if batches and (len(batches[-1]) + 1) * needed <= self.config.kv_cache_tokens:
                batches[-1].append(i)
            else:
                batches.append([i])
                longest = len(prompts[i])
        return batches

    def _decode(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        device = prompts[0].input_ids.device
        steps = self.config.max_completion_length
        uniforms = _uniforms(seeds, num_generations, steps).to(device)
        hidden, next_position, cache = self.prefill(prompts, num_generations)

        total = hidden.shape[0]
        rows = torch.arange(total, device=device)  # which response each row of the batch writes
        tokens = torch.zeros(total, steps, dtype=torch.long, device=device)
        logprobs = torch.zeros(total, steps, dtype=torch.float32, device=device)
        lengths = torch.zeros(total, dtype=torch.long, device=device)
        ended = torch.zeros(total, dtype=torch.bool, device=device)
        eos = torch.tensor(self.eos_token_ids, device=device)
        for step in range(steps):
            token, logprob = self.sample(hidden, uniforms[rows, step])
            open_rows = ~ended[rows]
            tokens[rows, step] = token
            logprobs[rows, step] = logprob.float()
            lengths[rows] += open_rows
            ended[rows] |= torch.isin(token, eos)
            if step + 1 == steps:
                break
            remaining = [i for i, done in enumerate(ended[rows].tolist()) if not done]
            if not remaining:
                break
            if len(remaining) <= COMPACT_BELOW * rows.numel():
                kept = torch.tensor(remaining, device=device)
                rows, token = rows[kept], token[kept]
                cache.keep(remaining)
            hidden = self.decode_step(token, next_position[rows] + step, cache)

        responses = [
            Response(tokens[r, :length].cpu(), logprobs[r, :length].cpu(), bool(done))
            for r, (length, done) in enumerate(zip(lengths.tolist(), ended.tolist(), strict=True))
        ]
        return [responses[i : i + num_generations] for i in range(0, total, num_generations)]

    def prefill(self, prompts: Sequence[EmbeddedPrompt], num_generations: int) -> tuple[Tensor, Tensor, DecodeLayout]:
        """Run the prompts through the model, once each.

        Returns:
            the hidden states that predict the first tokens of all N responses ``[N, H]``, the positions of those
            tokens ``[N]``, and the cache that decoding starts from.
        """
        device = prompts[0].input_ids.device
        owner = [i for i in range(len(prompts)) for _ in range(num_generations)]
        if not self.config.share_prefill:
            prompts = [p for p in prompts for _ in range(num_generations)]
            owner = list(range(len(prompts)))
        lengths = [len(p) for p in prompts]
        no_responses: list[list[Tensor]] = [[] for _ in prompts]
        layout = PackedLayout(lengths, [[] for _ in prompts], device, keep_prefix=True, kernel=self.model.kernel)
        hidden = packed_forward(self.model, layout, prompts, no_responses)
        expand = torch.tensor(owner, device=device)
        last = torch.tensor([stop - 1 for _, stop in layout.prompt_rows], device=device)
        next_position = torch.stack([p.position_ids.max() for p in prompts]).to(device) + 1
        # The last token of a response is never put in.
        longest = max(1, self.config.max_completion_length - 1)
        cache = DecodeLayout(layout.prefix_cache, layout.prompt_valid, owner, longest)
        return hidden[last[expand]], next_position[expand], cache

    def decode_step(self, token: Tensor, position: Tensor, cache: DecodeLayout) -> Tensor:
        """One more token ``[rows]`` for every response still being written: the next hidden states ``[rows, H]``."""
        hidden = self.model.text_model(
            inputs_embeds=self.model.embed(token)[None],
            position_ids=position.expand(3, 1, -1),
            attention_mask=cache.as_mask(),
            use_cache=False,
        ).last_hidden_state[0]
        cache.advance()
        return hidden

    def sample(self, hidden: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Next token and its log-probability for each row, ``[rows, H]`` -> two tensors ``[rows]``."""
        logits = chunk_logits(hidden, self.model.head_weight, self.config.temperature or 1.0, self.banned)
        logprobs = logits.log_softmax(-1)
        if self.config.temperature == 0:
            token = logits.argmax(-1)
        else:
            # One uniform number per token, through the inverse of the cumulative distribution. Double precision:
            # in single, the running sum over 150,000 tokens would round rare tokens away.
            cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
            total = cumulative[:, -1]
            # Rounded up to the total, a draw would fall behind the last token that can be sampled.
            target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
            token = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)
            # Logits that are not finite have no such place. The step that learns from them is skipped.
            token = token.clamp(max=logprobs.shape[-1] - 1)
        return token, logprobs.gather(-1, token[:, None]).squeeze(1)


class DecodeLayout(Layout):
    """One decoding step: a packed row of one token per response, over the prompts' shared caches.

    Args:
        prefix: keys and values of the n prompts.
        prompt_valid: bool ``[n, P]``, which of the padded entries are tokens; None when all are.
        owner: which prompt each of the N rows continues; rows of one prompt are side by side.
        max_steps: tokens of a response that will be stored at most.
    """

    def __init__(self, prefix: PrefixCache, prompt_valid: Tensor | None, owner: Sequence[int], max_steps: int) -> None:
        self._prefix = prefix
        self._max_steps = max_steps
        self._prompt_mask = None if prompt_valid is None else _additive(prompt_valid, prefix.keys[0].dtype)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._step = 0
        self._assign(owner)

    def _assign(self, owner: Sequence[int]) -> None:
        """Give every row a slot beside the other rows of its prompt, so that their queries can be stacked."""
        self._owner = owner
        n, counts = self._prefix.keys[0].shape[0], Counter(owner)
        slots = max(counts.values())
        rank = [i for prompt in sorted(counts) for i in range(counts[prompt])]
        row_slot = [prompt * slots + i for prompt, i in zip(owner, rank, strict=True)]
        slot_row = [0] * (n * slots)
        for row, slot in enumerate(row_slot):
            slot_row[slot] = row
        device = self._prefix.keys[0].device
        self._row_slot = torch.tensor(row_slot, device=device)  # [N] -> position in [n * slots]
        self._slot_row = torch.tensor(slot_row, device=device)
        self._slots = slots
        self._dense = n * slots == len(owner)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        rows, kv_heads, size = query.shape[2], key.shape[1], query.shape[3]
        # Under autocast the rotation has made them wider than what they came from.
        query, key = query.to(value.dtype), key.to(value.dtype)
        self._store(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
        q = query[0].transpose(0, 1).reshape(rows, kv_heads, -1, size)  # [N, K, R, D]
        stop = self._step + 1
        own_keys, own_values = self._keys[layer][:, :, :stop], self._values[layer][:, :, :stop]

        # One softmax over the prompt's and the response's own keys: scores side by side in the stacked rows' order.
        shared = attention_scores(self._stack(q), self._prefix.keys[layer], scaling)  # [n, K, S*R, P]
        if self._prompt_mask is not None:
            shared = shared + self._prompt_mask[:, None, None]
        own = self._stack(attention_scores(q, own_keys, scaling))  # [n, K, S*R, t]
        weights = torch.cat([shared, own], dim=-1).softmax(-1).to(value.dtype)
        on_shared, on_own = weights.split([shared.shape[-1], stop], dim=-1)
        out = self._unstack(_wide(on_shared @ self._prefix.values[layer])) + self._unstack(on_own) @ own_values
        return out.to(query.dtype).reshape(1, rows, -1, size)

    def _stack(self, x: Tensor) -> Tensor:
        """Rows ``[N, K, R, *]`` with those of a prompt as more queries of it: ``[n, K, S*R, *]``."""
        x = x if self._dense else x.index_select(0, self._slot_row)
        return x.unflatten(0, (-1, self._slots)).transpose(1, 2).flatten(2, 3)

    def _unstack(self, x: Tensor) -> Tensor:
        """``[n, K, S*R, *]`` back to rows ``[N, K, R, *]``."""
        x = x.unflatten(2, (self._slots, -1)).transpose(1, 2).flatten(0, 1)
        return x if self._dense else x.index_select(0, self._row_slot)

    def _store(self, layer: int, key: Tensor, value: Tensor) -> None:
        if layer == len(self._keys):
            shape = (key.shape[0], key.shape[1], min(INITIAL_CACHE_STEPS, self._max_steps), key.shape[2])
            self._keys.append(key.new_zeros(shape))
            self._values.append(value.new_zeros(shape))
        elif self._step == self._keys[layer].shape[2]:
            more = min(self._step, self._max_steps - self._step)
            for cache in (self._keys, self._values):
                cache[layer] = F.pad(cache[layer], (0, 0, 0, more))
        self._keys[layer][:, :, self._step] = key
        self._values[layer][:, :, self._step] = value

    def advance(self) -> None:
        """The step's tokens are stored in every layer; the next call writes behind them."""
        self._step += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but `rows` (ascending), and prompts that nobody continues any more."""
        device = self._prefix.keys[0].device
        kept = torch.tensor(rows, device=device)
        self._keys = [k.index_select(0, kept) for k in self._keys]
        self._values = [v.index_select(0, kept) for v in self._values]
        owner = [self._owner[row] for row in rows]
        prompts = sorted(set(owner))
        if len(prompts) < self._prefix.keys[0].shape[0]:
            kept = torch.tensor(prompts, device=device)
            self._prefix = PrefixCache(
                [k.index_select(0, kept) for k in self._prefix.keys],
                [v.index_select(0, kept) for v in self._prefix.values],
            )
            if self._prompt_mask is not None:
                self._prompt_mask = self._prompt_mask.index_select(0, kept)
        self._assign([prompts.index(prompt) for prompt in owner])


def attention_scores(q: Tensor, k: Tensor, scaling: float) -> Tensor:
    """Attention scores of ``[b, K, *, D]`` on ``[b, K, keys, D]``: ``[b, K, *, keys]``, at least float32.

    Scores may be large and differ by little: rounded to half precision they would not be those that the kernels of the
    training forward take.
    """
    if q.dtype in (torch.float32, torch.float64):
        return (q * scaling) @ k.transpose(-1, -2)
    if q.device.type == "cuda":
        out = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), out_dtype=torch.float32)
        return out.unflatten(0, q.shape[:2]).mul_(scaling)
    with torch.autocast(q.device.type, enabled=False):
        return (q.float() * scaling) @ k.float().transpose(-1, -2)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _additive(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where valid, -inf elsewhere."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.zeros(valid.shape, dtype=wide, device=valid.device).masked_fill(~valid, -torch.inf)


def _uniforms(seeds: Sequence[int], num_generations: int, steps: int) -> Tensor:
    """Random numbers of every response, float64 ``[n * G, steps]``; each prompt has a stream of its own."""
    draws = [
        torch.rand(num_generations, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.cat(draws)
