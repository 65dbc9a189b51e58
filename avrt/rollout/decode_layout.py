"""Attention of one decoding step: every row's own cache beside one shared cache per prompt.

The keys and values of a prompt stay as the prefill left them, one copy per prompt. In every step the G responses of a
prompt attend to that copy together (their queries are stacked), and each to its own short cache; one softmax covers
both. Reading the prompt's cache once per group instead of once per response makes decoding behind long prompts fast.

Shape letters: n prompts, G responses per prompt, N = n*G rows, P longest prompt, A query heads, K key/value heads,
R = A/K, D head size, S slots per prompt, t response tokens so far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avrt.model.shared_prompt import Layout, PrefixCache
from avrt.model.wide_products import wide_bmm

INITIAL_CACHE_STEPS = 64
"""Response tokens that the key/value cache holds at first; it doubles when full, up to the limit of a response."""


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
        self._prompt_mask = None if prompt_valid is None else additive_mask(prompt_valid, prefix.keys[0].dtype)
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
        out = self._unstack(wide_bmm(on_shared, self._prefix.values[layer]))
        out = out + wide_bmm(self._unstack(on_own), own_values)
        return out.to(query.dtype).reshape(1, rows, -1, size)

    def _stack(self, x: Tensor) -> Tensor:
        """Rows ``[N, K, R, *]`` with those of a prompt as more queries of it: ``[n, K, S*R, *]``."""
        return stack_rows(x if self._dense else x.index_select(0, self._slot_row), self._slots)

    def _unstack(self, x: Tensor) -> Tensor:
        """``[n, K, S*R, *]`` back to rows ``[N, K, R, *]``."""
        x = unstack_rows(x, self._slots)
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
            self._prefix, self._prompt_mask = keep_prompts(self._prefix, self._prompt_mask, prompts)
        self._assign([prompts.index(prompt) for prompt in owner])


def stack_rows(x: Tensor, slots: int) -> Tensor:
    """Rows ``[n * S, K, R, *]`` with the S of a prompt as more queries of it: ``[n, K, S*R, *]``."""
    return x.unflatten(0, (-1, slots)).transpose(1, 2).flatten(2, 3)


def unstack_rows(x: Tensor, slots: int) -> Tensor:
    """``[n, K, S*R, *]`` back to rows ``[n * S, K, R, *]``."""
    return x.unflatten(2, (slots, -1)).transpose(1, 2).flatten(0, 1)


def keep_prompts(prefix: PrefixCache, mask: Tensor | None, prompts: Sequence[int]) -> tuple[PrefixCache, Tensor | None]:
    """The caches, and the mask ``[n, P]`` if there is one, of some prompts."""
    kept = torch.tensor(prompts, device=prefix.keys[0].device)
    chosen = PrefixCache(
        [k.index_select(0, kept) for k in prefix.keys], [v.index_select(0, kept) for v in prefix.values]
    )
    return chosen, None if mask is None else mask.index_select(0, kept)


def attention_scores(q: Tensor, k: Tensor, scaling: float) -> Tensor:
    """Attention scores of ``[b, K, *, D]`` on ``[b, K, keys, D]``: ``[b, K, *, keys]``, at least float32.

    Scores may be large and differ by little: rounded to half precision they would not be those that the kernels of the
    training forward take.
    """
    if q.dtype in (torch.float32, torch.float64):
        return wide_bmm(q * scaling, k.transpose(-1, -2))
    return wide_bmm(q, k.transpose(-1, -2)).mul_(scaling)


def additive_mask(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where valid, -inf elsewhere."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.zeros(valid.shape, dtype=wide, device=valid.device).masked_fill(~valid, -torch.inf)
