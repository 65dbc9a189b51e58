"""The thinkers of Qwen2.5-Omni 3B and 7B as published, without weights, and their parameters counted by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration


@dataclass(frozen=True)
class Published:
    """Sizes of one published thinker; sizes that both share are constants below."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int = 128

    def config(self) -> Qwen2_5OmniThinkerConfig:
        text = {
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": False,
        }
        vision = {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": self.hidden,
        }
        audio = {
            "encoder_layers": 32,
            "d_model": 1280,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
            "output_dim": self.hidden,
        }
        return Qwen2_5OmniThinkerConfig(
            text_config=text, vision_config=vision, audio_config=audio, tie_word_embeddings=False
        )

    def meta_thinker(self, dtype: torch.dtype = torch.bfloat16) -> Qwen2_5OmniThinkerForConditionalGeneration:
        with torch.device("meta"):
            return Qwen2_5OmniThinkerForConditionalGeneration._from_config(self.config(), dtype=dtype)

    def language_parameters(self) -> int:
        """Text model and untied head: query, key and value have biases, output and MLP have none."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = (self.hidden + 1) * (queries + 2 * keys) + queries * self.hidden
        layer = attention + 3 * self.hidden * self.mlp + 2 * self.hidden
        return 2 * self.vocabulary * self.hidden + self.layers * layer + self.hidden

    def vision_parameters(self) -> int:
        """32 blocks with biases everywhere and two norms; patches of 2 x 14 x 14 in 3 colors; merger of 2 x 2."""
        block = (1280 + 1) * 3 * 1280 + (1280 + 1) * 1280 + 2 * (1280 + 1) * 3420 + (3420 + 1) * 1280 + 2 * 1280
        merger = 1280 + (5120 + 1) * 5120 + (5120 + 1) * self.hidden
        return 3 * 2 * 14 * 14 * 1280 + 32 * block + merger

    def audio_parameters(self) -> int:
        """Whisper's encoder: two convolutions of width 3; keys have no bias. Then a norm, a projection, two tokens."""
        attention = 4 * 1280 * 1280 + 3 * 1280
        block = attention + (1280 + 1) * 5120 + (5120 + 1) * 1280 + 2 * 2 * 1280
        convolutions = (3 * 128 + 1) * 1280 + (3 * 1280 + 1) * 1280
        return convolutions + 32 * block + 2 * 1280 + (1280 + 1) * self.hidden + 2 * self.hidden


OMNI_3B = Published(hidden=2048, mlp=11_008, layers=36, heads=16, kv_heads=2, vocabulary=151_936)
OMNI_7B = Published(hidden=3584, mlp=18_944, layers=28, heads=28, kv_heads=4, vocabulary=152_064)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trainable, frozen) parameters, each tensor once."""
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in module.parameters()) - trainable
