"""A small random student of the real class, for laptops, the demo and tests.

It has few narrow layers, a real processor and the published special tokens of its family, so all code for the published
students runs on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avrt.families.family import StudentFamily
from avrt.families.registry import FAMILIES, family_of_config
from avrt.families.tiny_shape import TinyShape


def tiny_config(
    shape: TinyShape, tokenizer: Any, vocab_size: int | None = None, family: StudentFamily = FAMILIES[0]
) -> Any:
    """Configuration of a tiny thinker whose special tokens are the tokenizer's."""
    return family.tiny_config(shape, tokenizer, vocab_size or len(tokenizer))


def tiny_processor(tokenizer: Any, chunk_seconds: int = 30, family: StudentFamily = FAMILIES[0]) -> Any:
    """A real processor around a tokenizer with the family's special tokens."""
    return family.tiny_processor(tokenizer, chunk_seconds)


def build_tiny_thinker(config: Any, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A random thinker whose features depend on its input, so that it is quick to train.

    With the usual small initial weights (standard deviation 0.02) a random encoder's output is almost constant, and
    nothing could be learned from it. Its matrices get standard deviation 1/sqrt(fan-in) instead, which keeps the scale
    of activations. So do those of the language model's layers, and token embeddings get standard deviation 1 like the
    media features: at widths of about 100, 0.02 leaves attention almost uniform, and looking things up in the prompt is
    learned several times as slowly.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = family_of_config(config).thinker_class._from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for part in (thinker.model.visual, thinker.model.audio_tower, thinker.model.language_model):
                for module in part.modules():
                    for weight in _matrices(module):
                        weight.normal_(0.0, weight[0].numel() ** -0.5)
            thinker.model.language_model.embed_tokens.weight.normal_()
    return thinker.to(dtype).eval()


def _matrices(module: nn.Module) -> Iterator[Tensor]:
    """The weights of a module that are multiplied with its input, as ``[outputs, fan-in]`` or ``[outputs, *]``."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        yield module.weight
    elif not isinstance(module, nn.Embedding):
        for weight in module.parameters(recurse=False):
            if weight.dim() == 2:  # of a router
                yield weight
            elif weight.dim() == 3:  # of experts
                yield from weight


def save_tiny_student(
    folder: str | Path,
    tokenizer: Any,
    shape: TinyShape | None = None,
    seed: int = 0,
    family: StudentFamily = FAMILIES[0],
) -> None:
    """Build a tiny student and save it as a folder that `avrt.model.student.Student.load` and transformers load."""
    shape = shape or TinyShape()
    thinker = build_tiny_thinker(tiny_config(shape, tokenizer, family=family), seed)
    thinker.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(family.end_tokens))
    thinker.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    thinker.save_pretrained(folder)
    tiny_processor(tokenizer, shape.chunk_seconds, family).save_pretrained(folder)
