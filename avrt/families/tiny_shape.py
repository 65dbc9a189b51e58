"""Sizes of a tiny student, for laptops, the demo and tests."""

from __future__ import annotations

from dataclasses import dataclass


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
