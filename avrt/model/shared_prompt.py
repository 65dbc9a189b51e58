"""Shared-prompt attention: a group's responses share one copy of their prompt, exactly.

A batch of n prompts with G responses each becomes one packed row

    [ prompt 1 | ... | prompt n | response 1.1 | ... | response 1.G | response 2.1 | ... | response n.G ]

Every prompt token attends causally to its own prompt; every response token attends to its whole prompt and causally to
its own response; nothing else is visible. Response positions continue from the prompt's. Each token thus sees exactly
the tokens of a separate row, so log-probabilities and gradients equal those of the plain forward pass, while the
prompt's P tokens are computed once instead of G times: P + G*C tokens instead of G * (P + C).

No model code is patched. In transformers, a model's attention can be any registered function
(`transformers.AttentionInterface`), and a text model passes further keyword arguments on to it: one of them carries the
layout of the row. Without a layout the registered function is plain scaled-dot-product attention, so the same model
object still runs `generate`.

Shape letters: T tokens in the packed row, n prompts, G responses per prompt, N = n*G, P longest prompt, C longest
response, A query heads, K key/value heads, R = A/K, D head size.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from avrt.model.flex_attention import flex_packed_attention, packed_block_mask

ATTENTION_NAME = "avrt_shared_prompt"
"""Name of the registered attention function, for `set_attn_implementation`."""

AttentionKernel = Literal["sdpa", "flex"]
"""Implementation of a packed row's attention: scaled-dot-product attention in two calls, or FlexAttention in one."""


MASK_ALIGNMENT = 16
"""Entries: rows of a mask begin at multiples of it."""


class Layout(abc.ABC):
    """The structure of a row of tokens; computes the attention of every layer.

    It is passed to a text model as the keyword argument ``layout``, without an attention mask.
    """

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


def layout_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    layout: Layout | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The attention function registered with transformers: a `Layout`'s own attention, else plain SDPA."""
    if layout is not None:
        return layout.attend(query, key, value, scaling, module.layer_idx), None  # type: ignore[arg-type]
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)  # type: ignore[arg-type]


AttentionInterface.register(ATTENTION_NAME, layout_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)

# Recent GPUs prefer cuDNN's attention, which plans every new shape anew, for tenths of a second. Here each micro-batch
# has lengths of its own. The other kernels take any shape at once. Read in torch's source, not measured.
torch.backends.cuda.enable_cudnn_sdp(False)


@dataclass
class PrefixCache:
    """Keys and values of n prompts for every layer, right-padded to the longest: each ``[n, K, P, D]``."""

    keys: list[Tensor]
    values: list[Tensor]

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Keep another layer's, contiguous: from strided tensors, each decoding step would copy them.

        Under autocast the rotary embedding leaves keys in a wider type than values.
        """
        self.keys.append(keys.to(values.dtype).contiguous())
        self.values.append(values.contiguous())


class PackedLayout(Layout):
    """The packed row of prompts and their responses described in this module's docstring.

    Args:
        prompt_lengths: tokens of each prompt, length n.
        response_lengths: for each prompt the tokens of its responses; groups may differ in size and may be empty
            (a prefill).
        device: of the index tensors.
        keep_prefix: keep the prompts' keys and values of every layer (for a rollout), see `prefix_cache`.
        kernel: ``sdpa`` or ``flex``; the same numbers, up to rounding.

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
        kernel: AttentionKernel = "sdpa",
    ) -> None:
        if len(prompt_lengths) != len(response_lengths):
            raise ValueError("prompt_lengths and response_lengths must have one entry per prompt")
        if not prompt_lengths or min(prompt_lengths) < 1:
            raise ValueError("every prompt needs at least one token")
        ends = [0, *accumulate(prompt_lengths)]
        self.prompt_rows = list(pairwise(ends))
        self.response_rows: list[list[tuple[int, int]]] = []
        row = ends[-1]
        for group in response_lengths:
            ends = list(accumulate(group, initial=row))
            self.response_rows.append(list(pairwise(ends)))
            row = ends[-1]
        self.num_tokens = row
        self._device = torch.device(device)
        self._lengths = (prompt_lengths, response_lengths)
        self._kernel = kernel
        self._additive_mask: Tensor | None = None
        self._cache: PrefixCache | None = PrefixCache([], []) if keep_prefix else None

        self._prompts = _Padding(prompt_lengths, self._device)
        # Empty responses need no attention, but the others keep their order.
        live = [(i, c) for i, group in enumerate(response_lengths) for c in group if c]
        self._responses = _Padding([c for _, c in live], self._device) if live else None
        self._owner = torch.tensor([i for i, _ in live], device=self._device)

    def _mask(self, dtype: torch.dtype, repeats: int) -> Tensor:
        """The attention mask of responses: their prompt's tokens, then their own up to the query.

        Returns ``[N or 1, 1, R * C, P + C]``: the C queries occur R times, once for every query head of a key head. The
        mask is added to the scores: 0 or -inf. Kernels would convert a bool mask to this one in every call, and the
        memory-efficient kernel of GPUs would copy one whose rows do not begin at multiples of 8 entries, once per
        response. So rows begin at multiples of `MASK_ALIGNMENT`, with unused entries between them.
        """
        if self._additive_mask is None:
            assert self._responses is not None
            longest = self._responses.longest
            causal = torch.ones(longest, longest, dtype=torch.bool, device=self._device).tril()
            prompt = self._prompts.valid  # [n, P]
            prompt = prompt[:1] if self._prompts.even else prompt.index_select(0, self._owner)
            visible = torch.cat(
                [prompt[:, None].expand(-1, longest, -1), causal.expand(prompt.shape[0], -1, -1)], dim=-1
            ).unsqueeze(1)
            keys = visible.shape[-1]
            room = -(-keys // MASK_ALIGNMENT) * MASK_ALIGNMENT
            shape = (visible.shape[0], 1, repeats, longest, room)
            additive = torch.zeros(shape, dtype=dtype, device=self._device)[..., :keys]
            additive.masked_fill_(~visible[:, :, None], -torch.inf)
            self._additive_mask = additive.flatten(2, 3)
        return self._additive_mask

    @cached_property
    def _block_mask(self) -> BlockMask:
        return packed_block_mask(*self._lengths, self._device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        if self._kernel == "flex":
            if self._cache is not None:
                prompt_k, prompt_v = (x[0].transpose(0, 1)[: self._prompts.num_tokens] for x in (key, value))
                self._cache.add(self._prompts.pad(prompt_k), self._prompts.pad(prompt_v))
            return flex_packed_attention(query, key, value, self._block_mask, scaling)
        sizes = [self._prompts.num_tokens, self.num_tokens - self._prompts.num_tokens]
        prompt_q, response_q = query[0].transpose(0, 1).split(sizes)  # [tokens, heads, D]
        prompt_k, response_k = key[0].transpose(0, 1).split(sizes)
        prompt_v, response_v = value[0].transpose(0, 1).split(sizes)

        prompt_q, prompt_k, prompt_v = (self._prompts.pad(x) for x in (prompt_q, prompt_k, prompt_v))
        if self._cache is not None:
            self._cache.add(prompt_k, prompt_v)
        out = self._prompts.unpad(_causal_attention(prompt_q, prompt_k, prompt_v, scaling))
        if self._responses is None:
            return out.unsqueeze(0)

        response_q, response_k, response_v = (self._responses.pad(x) for x in (response_q, response_k, response_v))
        response_k = torch.cat([self._per_response(prompt_k), response_k], dim=2)  # [N, K, P + C, D]
        response_v = torch.cat([self._per_response(prompt_v), response_v], dim=2)
        # Under autocast the rotation has made queries wider than what they are multiplied as.
        mask = self._mask(value.dtype, query.shape[1] // key.shape[1])
        responses = _masked_attention(response_q, response_k, response_v, mask, scaling)
        return torch.cat([out, self._responses.unpad(responses)]).unsqueeze(0)

    def _per_response(self, x: Tensor) -> Tensor:
        """The prompt's keys or values ``[n, K, P, D]`` in front of every one of its responses: ``[N, K, P, D]``."""
        if x.shape[0] == 1:  # a view instead of a copy
            return x.expand(self._owner.shape[0], -1, -1, -1)
        return x.index_select(0, self._owner)

    @property
    def prefix_cache(self) -> PrefixCache:
        """Keys and values of the prompts, filled by the last forward with ``keep_prefix``."""
        if self._cache is None:
            raise ValueError("the layout was built without keep_prefix")
        return self._cache

    @property
    def prompt_valid(self) -> Tensor | None:
        """The entries of the padded prompts that are tokens: bool ``[n, P]``, or None when all are."""
        return None if self._prompts.even else self._prompts.valid

    def position_ids(self, prompt_positions: Sequence[Tensor]) -> Tensor:
        """Position ids of the packed row, ``[3, 1, T]``.

        Args:
            prompt_positions: each prompt's own position ids ``[3, P_i]`` (temporal, height, width); a response
                continues in all three from the prompt's largest position plus one, as in generation.
        """
        prompts = [positions.to(self._device) for positions in prompt_positions]
        responses = [
            (positions.max() + 1 + torch.arange(stop - start, device=self._device)).expand(3, -1)
            for positions, group in zip(prompts, self.response_rows, strict=True)
            for start, stop in group
        ]
        return torch.cat([*prompts, *responses], dim=1).unsqueeze(1)


class _Padding:
    """Conversion between concatenated sequences ``[tokens, heads, D]`` and a batch padded on the right.

    The batch is ``[b, heads, longest, D]``. For sequences of one length it is a view; nothing is copied.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.count = len(lengths)
        self.longest = max(lengths)
        self.num_tokens = sum(lengths)
        self.even = min(lengths) == self.longest
        sizes = torch.tensor(lengths, device=device)
        offsets = torch.arange(self.longest, device=device)
        self.valid = offsets < sizes[:, None]  # [b, longest]
        if not self.even:
            starts = sizes.cumsum(0) - sizes
            # A padded position repeats the token before it: any finite value will do.
            self._from_tokens = (starts[:, None] + torch.minimum(offsets, sizes[:, None] - 1)).flatten()
            # The count is known; plain `nonzero` would wait for the device.
            self._to_tokens = torch.nonzero_static(self.valid.flatten(), size=self.num_tokens).squeeze(1)

    def pad(self, x: Tensor) -> Tensor:
        if not self.even:
            x = _Gather.apply(x, self._from_tokens, self._to_tokens)
        return x.view(self.count, self.longest, *x.shape[1:]).transpose(1, 2)

    def unpad(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).flatten(0, 1)
        return x if self.even else x.index_select(0, self._to_tokens)


class _Gather(torch.autograd.Function):
    """Rows of `x` in a padded batch; padded positions get no gradient.

    The gradient is a gather as well; that of `index_select` adds up rows one by one, several times as slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, from_tokens: Tensor, to_tokens: Tensor) -> Tensor:
        ctx.save_for_backward(to_tokens)
        return x.index_select(0, from_tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (to_tokens,) = ctx.saved_tensors
        return grad.index_select(0, to_tokens), None, None


def _causal_attention(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """Causal attention with grouped-query heads, ``[b, A, t, D]``; padding on the right needs no mask."""
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k = k.repeat_interleave(repeats, dim=1)
        v = v.repeat_interleave(repeats, dim=1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)


def _masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Attention of ``[N, A, C, D]`` to ``[N, K, P + C, D]``, mask ``[N or 1, 1, R * C, P + C]``: ``[N, A, C, D]``.

    The query heads that share a key head are stacked as more queries of that head, so the long keys are not repeated.
    """
    batch, heads, steps, size = q.shape
    kv_heads = k.shape[1]
    repeats = heads // kv_heads
    q = q.reshape(batch, kv_heads, repeats * steps, size)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(batch, -1, -1, -1), scale=scaling)
    return out.view(batch, heads, steps, size)
