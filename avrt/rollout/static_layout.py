"""Attention of a decoding step whose tensors keep shape and address: for CUDA graphs and `torch.compile`.

The numbers are those of `avrt.rollout.decode_layout`. In every step all of a response's own cache is read, a mask hides
what is not written yet, and the number of tokens so far is on the device. Every prompt has equally many rows, side by
side.

Shape letters: n prompts, S rows per prompt, N = n*S rows, P longest prompt, L capacity of a response's cache,
A query heads, K key/value heads, R = A/K, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avrt.model.shared_prompt import Layout, PrefixCache
from avrt.model.wide_products import wide_bmm
from avrt.rollout.decode_layout import (
    INITIAL_CACHE_STEPS,
    additive_mask,
    attention_scores,
    keep_prompts,
    stack_rows,
    unstack_rows,
)


class StaticLayout(Layout):
    """One decoding step: a packed row of one token per response, over the prompts' shared caches.

    `open_step` and `advance`, before and after a step, work on the device; `reserve` and `keep` change shapes.

    Args:
        prefix: keys and values of the n prompts.
        prompt_valid: bool ``[n, P]``, which of the padded entries are tokens; None when all are.
        slots: rows of every prompt, S.
        max_steps: tokens of a response that will be stored at most.

    Attributes:
        step: tokens of each response that are stored, int64 ``[1]`` on the device.
    """

    def __init__(self, prefix: PrefixCache, prompt_valid: Tensor | None, slots: int, max_steps: int) -> None:
        self._prefix = prefix
        self._slots = slots
        self._max_steps = max_steps
        self._prompt_mask = None if prompt_valid is None else additive_mask(prompt_valid, prefix.keys[0].dtype)
        prompts, heads, _, size = prefix.keys[0].shape
        shape = (prompts * slots, heads, min(INITIAL_CACHE_STEPS, max_steps), size)
        self._keys = [values.new_zeros(shape) for values in prefix.values]
        self._values = [values.new_zeros(shape) for values in prefix.values]
        self.step = torch.zeros(1, dtype=torch.long, device=prefix.keys[0].device)
        self._build_mask()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Prompts, rows per prompt and capacity: with the prompts' length they give the shapes of all tensors."""
        return self._prefix.keys[0].shape[0], self._slots, self._keys[0].shape[2]

    def _build_mask(self) -> None:
        """What a step adds to scores on the prompt's and the response's own keys, ``[n or 1, 1, 1, P + L]``."""
        prompts, _, capacity = self.shape
        longest = self._prefix.keys[0].shape[2]
        stored = torch.arange(capacity, device=self.step.device) < self.step
        own = additive_mask(stored, self._prefix.keys[0].dtype)[None]
        if self._prompt_mask is None:
            shared = own.new_zeros(1, longest)
        else:
            shared, own = self._prompt_mask, own.expand(prompts, -1)
        self._mask = torch.cat([shared, own], dim=-1)[:, None, None]
        self._first_own = longest

    def open_step(self) -> None:
        """Let the next token see itself."""
        self._mask.index_fill_(3, self.step + self._first_own, 0.0)

    def advance(self) -> None:
        """The step's tokens are stored in every layer; the next ones are written behind them."""
        self.step.add_(1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        rows, kv_heads, size = query.shape[2], key.shape[1], query.shape[3]
        # Under autocast the rotation has made them wider than what they came from.
        query, key = query.to(value.dtype), key.to(value.dtype)
        own_keys, own_values = self._keys[layer], self._values[layer]
        own_keys.index_copy_(2, self.step, key.permute(2, 1, 0, 3))
        own_values.index_copy_(2, self.step, value.permute(2, 1, 0, 3))
        q = query[0].transpose(0, 1).reshape(rows, kv_heads, -1, size)  # [N, K, R, D]

        shared = attention_scores(stack_rows(q, self._slots), self._prefix.keys[layer], scaling)  # [n, K, S*R, P]
        own = stack_rows(attention_scores(q, own_keys, scaling), self._slots)  # [n, K, S*R, L]
        weights = torch.cat([shared, own], dim=-1).add_(self._mask).softmax(-1).to(value.dtype)
        on_shared, on_own = weights.split([shared.shape[-1], own.shape[-1]], dim=-1)
        out = unstack_rows(wide_bmm(on_shared, self._prefix.values[layer]), self._slots)
        out = out + wide_bmm(unstack_rows(on_own, self._slots), own_values)
        return out.to(query.dtype).reshape(1, rows, -1, size)

    def reserve(self, steps: int) -> None:
        """Make room for `steps` tokens of each response; the capacity doubles."""
        capacity = self.shape[2]
        while capacity < steps:
            capacity = min(2 * capacity, self._max_steps)
        more = capacity - self.shape[2]
        if more:
            self._keys = [F.pad(keys, (0, 0, 0, more)) for keys in self._keys]
            self._values = [F.pad(values, (0, 0, 0, more)) for values in self._values]
            self._build_mask()

    def keep(self, prompts: Sequence[int], rows: Sequence[int]) -> None:
        """Drop all prompts and rows but these (ascending); equally many rows of every kept prompt stay."""
        kept = torch.tensor(rows, device=self.step.device)
        self._keys = [k.index_select(0, kept) for k in self._keys]
        self._values = [v.index_select(0, kept) for v in self._values]
        self._slots = len(rows) // len(prompts)
        if len(prompts) < self._prefix.keys[0].shape[0]:
            self._prefix, self._prompt_mask = keep_prompts(self._prefix, self._prompt_mask, prompts)
        self._build_mask()
