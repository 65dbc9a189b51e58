"""A small random student of the real class, for laptops, the demo and tests.

It is `Qwen2_5OmniThinkerForConditionalGeneration` with few narrow layers, a real processor and the published special
tokens, so all code for the 3B and 7B students runs on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from avrt.model.published_format import END_TOKENS
from avrt.sample import SAMPLING_RATE

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-Omni's conversation format."""


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a tiny student. Defaults are the demo's; head sizes are `hidden_size / num_attention_heads`.

    `rope_theta` is 1e6 in the published models, for prompts of many thousand tokens. A demo prompt has about a hundred,
    and only 3 of the 16 rotary pairs of its small heads would then distinguish neighbors; at 30 it is 11, and
    looking up the letter beside a word is learned in half the steps.
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


def tiny_config(shape: TinyShape, tokenizer: Any, vocab_size: int | None = None) -> Qwen2_5OmniThinkerConfig:
    """Configuration of a tiny thinker whose special tokens are the tokenizer's."""

    def token(name: str) -> int:
        return tokenizer.convert_tokens_to_ids(name)

    pairs = shape.hidden_size // shape.num_attention_heads // 2  # rotary pairs of a head
    side = 3 * pairs // 8
    text = {
        "vocab_size": vocab_size or len(tokenizer),
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        # Time, height and width share the pairs as in the published models: 16, 24 and 24 of 64.
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": shape.rope_theta,
            "mrope_section": [pairs - 2 * side, side, side],
        },
    }
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "intermediate_size": 2 * shape.vision_width,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden_size,
        "fullatt_block_indexes": [shape.vision_layers - 1],
        "window_size": 112,
    }
    audio = {
        "encoder_layers": shape.audio_layers,
        "d_model": shape.audio_width,
        "encoder_attention_heads": shape.audio_heads,
        "encoder_ffn_dim": 2 * shape.audio_width,
        "output_dim": shape.hidden_size,
        "num_mel_bins": 128,
    }
    config = Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        image_token_index=token("<|IMAGE|>"),
        video_token_index=token("<|VIDEO|>"),
        audio_token_index=token("<|AUDIO|>"),
        audio_start_token_id=token("<|audio_bos|>"),
        audio_end_token_id=token("<|audio_eos|>"),
        user_token_id=tokenizer("user", add_special_tokens=False)["input_ids"][0],
        tie_word_embeddings=False,
    )
    # Read by get_rope_index though the configuration class does not declare them.
    config.vision_start_token_id = token("<|vision_bos|>")
    config.vision_end_token_id = token("<|vision_eos|>")
    return config


def tiny_processor(tokenizer: Any, chunk_seconds: int = 30) -> Qwen2_5OmniProcessor:
    """A real Qwen2.5-Omni processor around a tokenizer with the published special tokens."""
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, sampling_rate=SAMPLING_RATE, hop_length=160, n_fft=400, chunk_length=chunk_seconds
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def build_tiny_thinker(
    config: Qwen2_5OmniThinkerConfig, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A random thinker whose features depend on its input, so that it is quick to train.

    With the usual small initial weights (standard deviation 0.02) a random encoder's output is almost constant, and
    nothing could be learned from it. Its matrices get standard deviation 1/sqrt(fan-in) instead, which keeps the scale
    of activations. So do those of the language model's layers, and token embeddings get standard deviation 1 like the
    media features: at widths of about 100, 0.02 leaves attention almost uniform, and looking things up in the prompt is
    learned several times as slowly.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for part in (thinker.model.visual, thinker.model.audio_tower, thinker.model.language_model):
                for module in part.modules():
                    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv3d):
                        fan_in = module.weight[0].numel()
                        module.weight.normal_(0.0, fan_in**-0.5)
            thinker.model.language_model.embed_tokens.weight.normal_()
    return thinker.to(dtype).eval()


def save_tiny_student(folder: str | Path, tokenizer: Any, shape: TinyShape | None = None, seed: int = 0) -> None:
    """Build a tiny student and save it as a folder that `avrt.model.student.Student.load` and transformers load."""
    shape = shape or TinyShape()
    thinker = build_tiny_thinker(tiny_config(shape, tokenizer), seed)
    thinker.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(END_TOKENS))
    thinker.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    thinker.save_pretrained(folder)
    tiny_processor(tokenizer, shape.chunk_seconds).save_pretrained(folder)
