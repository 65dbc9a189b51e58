"""The small model that the benchmarks run: real proportions, random weights.

The ratios of hidden, MLP and head sizes are those of Qwen2.5-Omni (MLP 5.4 times the hidden size, several query heads
per key head).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from avrt.model.shared_prompt import ATTENTION_NAME
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel


@dataclass(frozen=True)
class Shape:
    """Sizes of the language model."""

    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 1376
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 2

    @property
    def rotary_pairs(self) -> int:
        return self.hidden_size // self.num_attention_heads // 2


def text_only_model(shape: Shape, seed: int = 0) -> Qwen2ForCausalLM:
    """A random Qwen2 language model, which the other libraries train."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        **vars(shape),
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=shape.vocab_size - 1,
        pad_token_id=shape.vocab_size - 2,
    )
    config._attn_implementation = "sdpa"
    return Qwen2ForCausalLM(config)


def language_model(shape: Shape, weights: Qwen2ForCausalLM | None = None, seed: int = 0) -> LanguageModel:
    """The text model of a Qwen2.5-Omni thinker with a Qwen2 model's weights: for text it computes the same function."""
    source = weights or text_only_model(shape, seed)
    side = 3 * shape.rotary_pairs // 8
    config = Qwen2_5OmniTextConfig(
        **vars(shape),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [shape.rotary_pairs - 2 * side, side, side],
        },
        tie_word_embeddings=False,
    )
    text_model = Qwen2_5OmniThinkerTextModel._from_config(config)
    text_model.load_state_dict(source.model.state_dict())
    text_model.set_attn_implementation(ATTENTION_NAME)
    head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
    head.load_state_dict(source.lm_head.state_dict())
    return LanguageModel(text_model, head)


def text_prompt(ids: Tensor) -> EmbeddedPrompt:
    """A prompt without media."""
    hidden = torch.empty(0, 0)
    return EmbeddedPrompt(ids, torch.arange(len(ids)).expand(3, -1), ids.new_empty(0), hidden)


def random_ids(shape: Shape, length: int, generator: torch.Generator) -> Tensor:
    """Token ids without the special ones at the vocabulary's end."""
    return torch.randint(0, shape.vocab_size - 16, (length,), generator=generator)
