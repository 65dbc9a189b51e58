"""Tokens that a response can never contain, in sampling, training and evaluation alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avrt.families.family import StudentFamily


def find_banned_tokens(family: StudentFamily, tokenizer: Any, vocabulary_size: int) -> Tensor:
    """bool ``[V]``: media tokens, and the rows of the vocabulary that have no token.

    Args:
        family: of the student.
        tokenizer: the student's.
        vocabulary_size: rows of the language-model head, V. Published models have more rows than tokens.
    """
    banned = torch.zeros(vocabulary_size, dtype=torch.bool)
    banned[tokenizer.convert_tokens_to_ids(list(family.media_tokens.all))] = True
    banned[len(tokenizer) :] = True
    return banned
