"""Attention of the frozen encoders: all windows of a layer in a few calls, and patches embedded by a matrix product.

Both encoders attend within windows only: vision within 8 x 8 patches, and in a few layers within a frame; audio within
two seconds. Without flash-attention, transformers' layers call their attention function once per window: some 5,000
calls for a prompt of 8 frames, each too small for a GPU. Windows of one length are a batch, and there are few lengths
(whole windows, and those at the edges), so one call per length computes the same.

No model code is patched. transformers passes the whole row and the windows' bounds to an attention function whose
registered name contains "flash", and the function here is registered under such a name. A version that decides
otherwise calls it once per window, which is slower and no less right.

Shape letters: T patches (or audio steps) of the row, W windows of one length, L that length, A heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ENCODER_ATTENTION_NAME = "avrt_windows_called_as_flash"
"""Name of the registered attention function. It needs no flash-attention package."""


def window_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function registered with transformers.

    Args:
        query, key, value: ``[1, A, T, D]``.
        scaling: factor on the scores.
        cu_seq_lens_q: ``[windows + 1]`` bounds of the windows, from 0 to T; None for one window.

    Returns:
        ``[1, T, A, D]``, and None for the probabilities.
    """
    if cu_seq_lens_q is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out, None
    windows = _plans.get(cu_seq_lens_q)
    if windows is None:
        windows = _plans[cu_seq_lens_q] = _Windows.of(cu_seq_lens_q)
    parts = zip(*(windows.batches(x) for x in (query, key, value)), strict=True)
    outs = [F.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1) for q, k, v in parts]
    return windows.in_order(outs).unsqueeze(0), None


AttentionInterface.register(ENCODER_ATTENTION_NAME, window_attention)


@dataclass(frozen=True)
class _Windows:
    """How a row of windows is cut into batches.

    Attributes:
        batches_of: count W and length L of the windows in each batch.
        order: ``[T]`` rows sorted by the length of their window, None where they are already.
        inverse: ``[T]`` the way back.
    """

    batches_of: list[tuple[int, int]]
    order: Tensor | None
    inverse: Tensor | None

    @classmethod
    def of(cls, bounds: Tensor) -> _Windows:
        """Read the bounds once per forward pass: all layers of a kind pass the same tensor, and reading it waits."""
        starts = bounds.cpu().long()
        lengths = starts.diff()
        starts = starts[:-1]
        distinct = lengths[lengths > 0].unique()
        rows = [(starts[lengths == n, None] + torch.arange(int(n))).flatten() for n in distinct]
        batches_of = [(len(r) // int(n), int(n)) for n, r in zip(distinct, rows, strict=True)]
        order = torch.cat(rows)
        if bool((order.diff() == 1).all()):
            return cls(batches_of, None, None)
        return cls(batches_of, order.to(bounds.device), order.argsort().to(bounds.device))

    def batches(self, x: Tensor) -> list[Tensor]:
        """``[1, A, T, D]`` as one ``[W, A, L, D]`` for every length of window; views where possible."""
        rows = x[0].transpose(0, 1)
        if self.order is not None:
            rows = rows.index_select(0, self.order)
        parts = rows.split([count * length for count, length in self.batches_of])
        return [
            part.reshape(count, length, *part.shape[1:]).transpose(1, 2)
            for part, (count, length) in zip(parts, self.batches_of, strict=True)
        ]

    def in_order(self, parts: list[Tensor]) -> Tensor:
        """Results ``[W * L, A, D]`` of all batches as the row they came from, ``[T, A, D]``."""
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return rows.contiguous() if self.inverse is None else rows.index_select(0, self.inverse)


_plans: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""The windows of every tensor of bounds that is still alive, by the tensor's identity."""


class PatchProjection(nn.Conv3d):
    """A convolution whose kernel covers its whole input, computed as the matrix product that it is.

    Same parameter, same name, same numbers up to rounding; three-dimensional convolutions are slow on most devices.
    """

    @classmethod
    def of(cls, convolution: nn.Conv3d) -> PatchProjection:
        """The projection with the weights of `convolution`."""
        with torch.device("meta"):
            projection = cls(
                convolution.in_channels,
                convolution.out_channels,
                convolution.kernel_size,  # type: ignore[arg-type]
                convolution.stride,  # type: ignore[arg-type]
                bias=convolution.bias is not None,
            )
        projection.weight, projection.bias = convolution.weight, convolution.bias
        return projection.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:
        """``[T, channels, *kernel size]`` to ``[T, width, 1, 1, 1]``."""
        if input.shape[2:] != self.weight.shape[2:]:
            return super().forward(input)
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def batch_encoder_windows(thinker: Any) -> None:
    """Make both encoders of a thinker attend to all windows of a layer at once, and embed patches by a product.

    An encoder that was loaded with another attention than torch's own (flash-attention, eager) keeps it.
    """
    model = thinker.model
    encoders = {"vision_config": model.visual, "audio_config": model.audio_tower}
    chosen = {
        key: ENCODER_ATTENTION_NAME
        for key, encoder in encoders.items()
        if encoder.config._attn_implementation == "sdpa"
    }
    model.set_attn_implementation(chosen)
    embedding = model.visual.patch_embed
    if type(embedding.proj) is nn.Conv3d:
        embedding.proj = PatchProjection.of(embedding.proj)
