"""Shared-prompt attention: a group's responses share one copy of their prompt, exactly.

A batch of n prompts with G responses each is laid out as one packed row

    [ prompt 1 | response 1.1 | ... | response 1.G | prompt 2 | response 2.1 | ... ]

Every prompt token attends causally to its own prompt; every response token attends to its whole prompt and causally to
its own response; nothing else is visible. Response positions continue from the prompt's. Each token thus sees exactly
what it would see in a row of its own, so log-probabilities and gradients are those of the plain forward, while the
prompt's P tokens are computed once instead of G times: P + G*C tokens instead of G * (P + C).

No model code is patched. transformers lets a model's attention be any registered function
(`transformers.AttentionInterface`), and the text model passes its `attention_mask` through to it untouched when the
mask comes as a dict per layer type: we put the layout of the row there. Without a layout the registered function is
plain scaled-dot-product attention, so the same model object still runs `generate` and everything else.

Shape letters: T tokens in the packed row, n prompts, G responses per prompt, N = n*G, P longest prompt, C longest
response, A query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION_NAME = "avrt_shared_prompt"
"""Name under which the attention function is registered; a model uses it through `set_attn_implementation`."""


class Layout(abc.ABC):
    """What a row of tokens looks like; stands in for the attention mask and computes the attention of every layer."""

    @abc.abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Attention of one layer.

        Args:
            query: ``[1, A, T, D]``, rotary positions applied; `key` and `value`: ``[1, K, T, D]``.
            scaling: factor on the scores, 1/sqrt(D).
            layer: index of the layer.

        Returns:
            ``[1, T, A, D]``.
        """

    def as_mask(self) -> dict[str, Layout]:
        """The layout as the `attention_mask` argument of a transformers text model."""
        return {"full_attention": self}


def layout_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Layout | None,
    scaling: float,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The attention function registered with transformers: a `Layout`'s own attention, else plain SDPA."""
    if isinstance(attention_mask, Layout):
        return attention_mask.attend(query, key, value, scaling, module.layer_idx), None  # type: ignore[arg-type]
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)  # type: ignore[arg-type]


AttentionInterface.register(ATTENTION_NAME, layout_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


@dataclass
class PrefixCache:
    """Keys and values of n prompts for every layer, right-padded to the longest: each ``[n, K, P, D]``."""

    keys: list[Tensor]
    values: list[Tensor]


class PackedLayout(Layout):
    """The packed row of prompts and their responses described in this module's docstring.

    Args:
        prompt_lengths: tokens of each prompt, length n.
        response_lengths: for each prompt the tokens of its responses; groups may differ in size and may be empty
            (a prefill).
        device: where the index tensors live.
        keep_prefix: remember the prompts' keys and values of every layer (for a rollout), see `prefix_cache`.

    Attributes:
        num_tokens: length T of the packed row.
        prompt_rows: for every prompt the row range ``(start, stop)`` of its tokens.
        response_rows: for every prompt the row ranges of its responses.
    """

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        response_lengths: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
        keep_prefix: bool = False,
    ) -> None:
        if len(prompt_lengths) != len(response_lengths):
            raise ValueError("prompt_lengths and response_lengths must have one entry per prompt")
        if not prompt_lengths or min(prompt_lengths) < 1:
            raise ValueError("every prompt needs at least one token")
        self.prompt_rows: list[tuple[int, int]] = []
        self.response_rows: list[list[tuple[int, int]]] = []
        row = 0
        for p, group in zip(prompt_lengths, response_lengths, strict=True):
            self.prompt_rows.append((row, row + p))
            row += p
            self.response_rows.append([])
            for c in group:
                self.response_rows[-1].append((row, row + c))
                row += c
        self.num_tokens = row
        self._device = torch.device(device)
        self._cache: PrefixCache | None = PrefixCache([], []) if keep_prefix else None
        self._build_indices()

    def _build_indices(self) -> None:
        """Index tensors that gather the packed row into padded batches and scatter the results back."""
        n = len(self.prompt_rows)
        prompt_lengths = torch.tensor([b - a for a, b in self.prompt_rows])
        prompt_starts = torch.tensor([a for a, _ in self.prompt_rows])
        longest_prompt = int(prompt_lengths.max())
        offsets = torch.arange(longest_prompt)
        prompt_valid = offsets < prompt_lengths[:, None]  # [n, P]
        prompt_index = torch.where(prompt_valid, prompt_starts[:, None] + offsets, 0)

        # Empty responses need no attention; they only must not disturb the order of the others.
        live = [(i, a, b) for i, group in enumerate(self.response_rows) for a, b in group if b > a]
        if live:
            owner = torch.tensor([o for o, _, _ in live])
            starts = torch.tensor([a for _, a, _ in live])
            lengths = torch.tensor([b - a for _, a, b in live])
            steps = torch.arange(int(lengths.max()))
            response_valid = steps < lengths[:, None]  # [N, C]
            response_index = torch.where(response_valid, starts[:, None] + steps, 0)
            # [N, 1, C, P + C]: the prompt's real tokens, then the response up to and including the query.
            causal = steps[:, None] >= steps[None, :]
            sees_prompt = prompt_valid[owner][:, None, :].expand(-1, len(steps), -1)
            mask = torch.cat([sees_prompt, causal.expand(len(live), -1, -1)], dim=-1)[:, None]
            self._owner_index = owner.to(self._device)
            self._response_index = response_index.to(self._device)
            self._response_flat = response_valid.flatten().nonzero().squeeze(1).to(self._device)
            self._response_target = response_index[response_valid].to(self._device)
            self._mask = mask.to(self._device)
        self._has_responses = bool(live)
        self._one_prompt = n == 1
        self._prompt_index = prompt_index.to(self._device)
        self._prompt_flat = prompt_valid.flatten().nonzero().squeeze(1).to(self._device)
        self._prompt_target = prompt_index[prompt_valid].to(self._device)
        self._gather_back = torch.argsort(
            torch.cat([self._prompt_target, self._response_target]) if live else self._prompt_target
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, D]
        prompt_q, prompt_k, prompt_v = (self._batch(x, self._prompt_index) for x in (q, k, v))  # [n, heads, P, D]
        if self._cache is not None:
            self._cache.keys.append(prompt_k)
            self._cache.values.append(prompt_v)
        # Right padding never precedes a real token, so the causal mask alone hides it.
        out = _sdpa(prompt_q, prompt_k, prompt_v, scaling, causal=True)  # [n, A, P, D]
        pieces = [_select(out, self._prompt_flat)]
        if self._has_responses:
            response_q, response_k, response_v = (self._batch(x, self._response_index) for x in (q, k, v))
            response_k = torch.cat([self._per_response(prompt_k), response_k], dim=2)  # [N, K, P + C, D]
            response_v = torch.cat([self._per_response(prompt_v), response_v], dim=2)
            out = _sdpa(response_q, response_k, response_v, scaling, mask=self._mask)
            pieces.append(_select(out, self._response_flat))
        return torch.cat(pieces).index_select(0, self._gather_back).unsqueeze(0)

    def _batch(self, x: Tensor, index: Tensor) -> Tensor:
        """Gather ``[T, heads, D]`` by an index ``[b, t]`` into ``[b, heads, t, D]``."""
        return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:]).transpose(1, 2)

    def _per_response(self, x: Tensor) -> Tensor:
        """The prompt's keys or values ``[n, K, P, D]`` in front of every one of its responses: ``[N, K, P, D]``."""
        if self._one_prompt:  # a view instead of a copy
            return x.expand(self._owner_index.shape[0], -1, -1, -1)
        return x.index_select(0, self._owner_index)

    @property
    def prefix_cache(self) -> PrefixCache:
        """Keys and values of the prompts, filled by the last forward with ``keep_prefix``."""
        if self._cache is None:
            raise ValueError("the layout was built without keep_prefix")
        return self._cache

    @property
    def prompt_valid(self) -> Tensor:
        """Which entries of the padded prompts are tokens: bool ``[n, P]``."""
        valid = torch.zeros(self._prompt_index.shape, dtype=torch.bool, device=self._device)
        valid.view(-1)[self._prompt_flat] = True
        return valid

    def position_ids(self, prompt_positions: Sequence[Tensor]) -> Tensor:
        """Position ids of the packed row, ``[3, 1, T]``.

        Args:
            prompt_positions: each prompt's own position ids ``[3, P_i]`` (temporal, height, width); a response
                continues in all three from the prompt's largest position plus one, as in generation.
        """
        pieces = []
        for positions, group in zip(prompt_positions, self.response_rows, strict=True):
            pieces.append(positions.to(self._device))
            first = positions.max().to(self._device) + 1
            pieces.extend((first + torch.arange(b - a, device=self._device)).expand(3, -1) for a, b in group)
        return torch.cat(pieces, dim=1).unsqueeze(1)


def _select(x: Tensor, flat: Tensor) -> Tensor:
    """Pick the real tokens out of a padded batch ``[b, heads, t, D]``: ``[tokens, heads, D]``."""
    return x.transpose(1, 2).flatten(0, 1).index_select(0, flat)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scaling: float, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """Scaled-dot-product attention with grouped-query heads: ``[b, A, t, D]``."""
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k = k.repeat_interleave(repeats, dim=1)
        v = v.repeat_interleave(repeats, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scaling)
