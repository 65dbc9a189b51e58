"""Tokens that a response can never contain, in sampling, training and evaluation alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MEDIA_TOKENS = (
    "<|AUDIO|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
)
"""Tokens that mark media. A response can never contain one: a sampled placeholder would have no feature."""


def find_banned_tokens(tokenizer: Any, vocabulary_size: int) -> Tensor:
    """bool ``[V]``: media tokens, and the rows of the vocabulary that have no token.

    Args:
        tokenizer: the student's.
        vocabulary_size: rows of the language-model head, V. Published models have more rows than tokens.
    """
    banned = torch.zeros(vocabulary_size, dtype=torch.bool)
    banned[tokenizer.convert_tokens_to_ids(list(MEDIA_TOKENS))] = True
    banned[len(tokenizer) :] = True
    return banned
