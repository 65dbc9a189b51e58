"""A small tokenizer like that of a published student, trained on a few texts.

It splits text and encodes bytes as the published one does and has the same special tokens under the same names; only
the learned vocabulary is small. So it works with the real processor, and a tiny model spends no parameters on 150,000
words that never occur.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from avrt.families.family import StudentFamily
from avrt.families.registry import FAMILIES

ROLE_TOKENS: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
"""Tokens that end a turn and that pad, as published."""


def build_tiny_tokenizer(
    corpus: Iterable[str], vocab_size: int = 512, family: StudentFamily = FAMILIES[0]
) -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer on `corpus` and give it the special tokens of a family.

    Ids 0 to 255 are the bytes, learned merges follow, and the special tokens come last, as in the published one.
    Any text can be encoded; words that are not in the corpus take more tokens. Equal corpora give equal tokenizers.

    Args:
        corpus: texts; frequent words become single tokens first.
        vocab_size: largest size, special tokens included. A small corpus may need less.
        family: of the student.

    Raises:
        ValueError: `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    smallest = len(ByteLevel.alphabet()) + len(family.tiny_special_tokens)
    if vocab_size < smallest:
        raise ValueError(f"`vocab_size` must be {smallest} or more (bytes and special tokens); got {vocab_size}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(family.tiny_special_tokens),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    # Train with the normalizer and pre-tokenizer that will encode: those of an empty Qwen2Tokenizer.
    qwen = Qwen2Tokenizer().backend_tokenizer
    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.pre_tokenizer = qwen.normalizer, qwen.pre_tokenizer
    bpe.train_from_iterator(corpus, trainer)
    learned = json.loads(bpe.to_str())["model"]
    return assemble_tokenizer(learned["vocab"], [tuple(merge) for merge in learned["merges"]], family)


def assemble_tokenizer(
    vocab: dict[str, int], merges: list[tuple[str, str]], family: StudentFamily = FAMILIES[0]
) -> Qwen2Tokenizer:
    """Build a tokenizer from byte-level BPE `vocab` and `merges`, followed by the special tokens of a family."""
    special_tokens = {
        token_id: AddedToken(token, special=True, normalized=False)
        for token_id, token in enumerate(family.tiny_special_tokens, start=len(vocab))
    }
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # the backend takes pairs, the annotation says strings
        added_tokens_decoder=special_tokens,
        extra_special_tokens=family.media_tokens.named,
        **ROLE_TOKENS,
    )
