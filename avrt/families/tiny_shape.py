"""Sizes of a tiny student, for laptops, the demo and tests, and the settings that all families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import WhisperFeatureExtractor

from avrt.sample import SAMPLING_RATE


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a tiny student. Defaults are the demo's; head sizes are `hidden_size / num_attention_heads`.

    `rope_theta` is 1e6 in the published models, for prompts of many thousand tokens. A demo prompt has about a hundred,
    and only 3 of the 16 rotary pairs of its small heads would then distinguish neighbors; at 30 it is 11, and
    looking up the letter beside a word is learned in half the steps.

    `num_experts` and `num_experts_per_tok` are read by families with experts; `vision_layers` by all.
    """

    hidden_size: int = 128
    intermediate_size: int = 128
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    vision_width: int = 64
    vision_layers: int = 1
    vision_heads: int = 2
    audio_width: int = 64
    audio_layers: int = 1
    audio_heads: int = 2
    chunk_seconds: int = 30
    rope_theta: float = 30.0
    num_experts: int = 4
    num_experts_per_tok: int = 2

    @property
    def rotary_pairs(self) -> int:
        """Of a head."""
        return self.hidden_size // self.num_attention_heads // 2

    def text_settings(self, vocab_size: int, side: int, **rotary: Any) -> dict[str, Any]:
        """Settings of a language model.

        Args:
            side: rotary pairs of height and of width; time has the others.
            rotary: further settings of positions.
        """
        return {
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rope_theta,
                "mrope_section": [self.rotary_pairs - 2 * side, side, side],
                **rotary,
            },
        }

    def vision_settings(self, layers: int) -> dict[str, Any]:
        """Settings of a vision encoder."""
        return {
            "depth": layers,
            "hidden_size": self.vision_width,
            "intermediate_size": 2 * self.vision_width,
            "num_heads": self.vision_heads,
            "out_hidden_size": self.hidden_size,
        }

    def audio_settings(self) -> dict[str, Any]:
        """Settings of an audio encoder."""
        return {
            "encoder_layers": self.audio_layers,
            "d_model": self.audio_width,
            "encoder_attention_heads": self.audio_heads,
            "encoder_ffn_dim": 2 * self.audio_width,
            "output_dim": self.hidden_size,
            "num_mel_bins": 128,
        }


def mel_extractor(chunk_seconds: int) -> WhisperFeatureExtractor:
    """Mel features as all families read them."""
    return WhisperFeatureExtractor(
        feature_size=128, sampling_rate=SAMPLING_RATE, hop_length=160, n_fft=400, chunk_length=chunk_seconds
    )
