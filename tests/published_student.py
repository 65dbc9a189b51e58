"""A folder in the published layout of Qwen2.5-Omni, at tiny width with random weights.

Everything that a tool could trip over is as published: thinker, talker and token2wav in three shards with an index,
the configuration of mid-2025, the full tokenizer as `vocab.json` and `merges.txt`, `preprocessor_config.json` without
a video processor's file, `chat_template.json`, and a generation config whose sampling settings are not ours. Nothing
here goes through the project's own code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from tests.published_config import published_config
from tests.qwen_ranks import qwen_vocabulary

VOCABULARY = 152_064
"""Rows of the embedding in the 7B; the 3B has 151,936. Tokens end at 151,664."""

SHARDS = 3

ADDED_TOKENS = {
    token: 151_643 + i
    for i, token in enumerate(
        (
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|AUDIO|>",
            "<|audio_bos|>",
            "<|audio_eos|>",
            "<|box_end|>",
            "<|quad_start|>",
            "<|quad_end|>",
            "<|vision_bos|>",
            "<|vision_eos|>",
            "<|vision_pad|>",
            "<|IMAGE|>",
            "<|VIDEO|>",
            "<tool_call>",
            "</tool_call>",
            "<|fim_prefix|>",
            "<|fim_middle|>",
            "<|fim_suffix|>",
            "<|fim_pad|>",
            "<|repo_name|>",
            "<|file_sep|>",
        )
    )
}
LAST_SPECIAL = 151_656
"""Added tokens after this one are ordinary: a decoder that skips special tokens keeps them."""

NAMED_TOKENS = {
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "audio_token": "<|AUDIO|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}

PREPROCESSOR = {
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "image_processor_type": "Qwen2VLImageProcessor",
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "n_fft": 400,
    "n_samples": 4800000,
    "nb_max_frames": 30000,
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
    "temporal_patch_size": 2,
}
"""What all published students have in `preprocessor_config.json`."""

CHAT_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}{% set image_count = namespace(value=0) %}"
    "{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif content['type'] == 'audio' or 'audio' in content or 'audio_url' in content %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "{% if add_audio_id %}Audio {{ audio_count.value }}: {% endif %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_published_student(
    folder: Path, *, vocabulary: int = VOCABULARY, dtype: str = "bfloat16", padding_side: str = "right", seed: int = 0
) -> Path:
    """Write the folder (about 45 MB in bfloat16) and return it.

    Args:
        vocabulary: rows of the embedding, at least the 151,665 that have a token.
        dtype: of thinker and talker, ``bfloat16`` as published or ``float32``.
        padding_side: of the audio features in `preprocessor_config.json`; ``right`` in the 7B, ``left`` in some models
            derived from the 3B.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", published_config(vocabulary, dtype))
    _write_tokenizer(folder)
    _write_processor(folder, padding_side)
    generation = {
        "_from_model_config": True,
        "bos_token_id": 151644,
        "eos_token_id": 151645,
        "pad_token_id": 151643,
        "repetition_penalty": 1.05,
        "top_k": 20,
        "top_p": 0.8,
        "transformers_version": "4.50.0.dev0",
    }
    write_json(folder / "generation_config.json", generation)
    _write_weights(folder, getattr(torch, dtype), seed)
    speaker = {"bos_token": 151872, "cond": torch.zeros(1, 128), "ref_mel": torch.zeros(1, 10, 80)}
    torch.save({"Chelsie": speaker}, folder / "spk_dict.pt")
    return folder


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_vocabulary(folder: Path) -> None:
    """The tokens and merges that all published students share, as `vocab.json` and `merges.txt`."""
    vocabulary, merges = qwen_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")


def _write_tokenizer(folder: Path) -> None:
    write_vocabulary(folder)
    write_json(folder / "added_tokens.json", ADDED_TOKENS)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = [token for token, number in ADDED_TOKENS.items() if 151_644 <= number <= LAST_SPECIAL]
    special.remove("<|vision_pad|>")
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {"content": token, **plain, "special": number <= LAST_SPECIAL}
            for token, number in ADDED_TOKENS.items()
        },
        "additional_special_tokens": special,
        **NAMED_TOKENS,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": NAMED_TOKENS,
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen2_5OmniProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", settings)
    roles = {"eos_token": {"content": "<|im_end|>", **plain}, "pad_token": {"content": "<|endoftext|>", **plain}}
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": special, **NAMED_TOKENS, **roles})


def _write_processor(folder: Path, padding_side: str) -> None:
    write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    settings = PREPROCESSOR | {
        "chunk_length": 300,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "padding_side": padding_side,
        "patch_size": 14,
        "processor_class": "Qwen2_5OmniProcessor",
    }
    write_json(folder / "preprocessor_config.json", settings)


def _write_weights(folder: Path, dtype: torch.dtype, seed: int) -> None:
    write_shards(folder, published_weights(folder, dtype, seed))


def write_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    """Three shards with a third of the thinker each, the last with what speaks too; published names."""
    thinker = [name for name in weights if name.startswith("thinker.")]
    number = {name: SHARDS * i // len(thinker) + 1 for i, name in enumerate(thinker)}
    index = {name: f"model-{number.get(name, SHARDS):05d}-of-{SHARDS:05d}.safetensors" for name in weights}
    for file in sorted(set(index.values())):
        save_file({name: weights[name] for name in weights if index[name] == file}, folder / file, {"format": "pt"})
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def published_weights(folder: Path, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Random weights of the model that `config.json` describes, under their published names.

    Matrices get standard deviation 1/sqrt(fan-in): with the usual 0.02 a narrow encoder's output is almost constant,
    and no test could tell one clip from another. So do token embeddings get 1, the scale of the media features.
    """
    config = Qwen2_5OmniConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniForConditionalGeneration._from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for module in model.thinker.modules():
                if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv3d):
                    module.weight.normal_(0.0, module.weight[0].numel() ** -0.5)
            model.thinker.model.language_model.embed_tokens.weight.normal_()
            model.thinker.lm_head.weight.mul_(0.2)  # close to uniform, like a plain random head
    weights = {}
    for name, weight in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "thinker":  # in memory, text model and encoders are modules of `thinker.model`
            rest = rest.removeprefix("model.") if rest.startswith(("model.visual.", "model.audio_tower.")) else rest
            rest = rest.replace("model.language_model.", "model.", 1)
        kind = dtype if part in ("thinker", "talker") and weight.is_floating_point() else weight.dtype
        weights[f"{part}.{rest}"] = weight.to(kind).contiguous()
    return weights
