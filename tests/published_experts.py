"""A folder in the published layout of Qwen3-Omni 30B-A3B, at tiny width with random weights.

As published: separate experts under ``thinker.model.layers.N.mlp.experts.E``, talker and code2wav beside the thinker
(in Instruct; Thinking has neither), several shards with an index, a configuration of transformers 4.57 with settings
that no class declares, the full tokenizer with thinking tags as ordinary tokens, `preprocessor_config.json` without a
video processor's file and without the length of an audio chunk, `chat_template.json`, and a generation config without
end tokens. Nothing here goes through the project's own code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

from tests.published_config import GENERIC
from tests.published_student import PREPROCESSOR, write_json, write_shards, write_vocabulary

VOCABULARY = 152_064
"""Rows of the embedding; tokens end at 151,675."""

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE = 64, 4, 2, 32
"""The heads are wider together than the model, as in the published one (4,096 and 2,048)."""

EXPERTS = 8

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_ORDINARY = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
_SPEECH = (
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
)
ADDED_TOKENS = {token: 151_643 + i for i, token in enumerate((*_SPECIAL, *_ORDINARY, *_SPEECH))}

NAMED_TOKENS = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}

_MEDIA = (
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}"
    "<|audio_start|><|audio_pad|><|audio_end|>"
    "{%- elif part.type == 'video' or 'video' in part -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
)


def chat_template(thinking: bool) -> str:
    """What the published template writes for system and user turns, and after them.

    There is no system turn of its own, and each part of one becomes a turn.

    Args:
        thinking: open the response's thinking, as the templates of models that always think do.
    """
    opening = "<think>\\n" if thinking else ""
    return (
        "{%- for message in messages -%}"
        "{%- if message.content is string -%}"
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
        "{%- elif message.role == 'system' and loop.first -%}"
        "{%- for part in message.content -%}"
        "{{- '<|im_start|>system\\n' -}}" + _MEDIA + "{{- '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- else -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
        "{%- for part in message.content -%}" + _MEDIA + "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n" + opening + "' -}}{%- endif -%}"
    )


def save_published_experts(
    folder: Path, *, vocabulary: int = VOCABULARY, dtype: str = "bfloat16", thinking: bool = False, seed: int = 0
) -> Path:
    """Write the folder (about 45 MB in bfloat16) and return it.

    Args:
        vocabulary: rows of the embedding, at least the 151,676 that have a token.
        dtype: of the weights.
        thinking: as the Thinking model: without talker, and with a template that opens the thinking.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", published_config(vocabulary, dtype, thinking))
    _write_tokenizer(folder)
    write_json(folder / "chat_template.json", {"chat_template": chat_template(thinking)})
    halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}
    settings = PREPROCESSOR | halves | {"padding_side": "right", "processor_class": "Qwen3OmniMoeProcessor"}
    write_json(folder / "preprocessor_config.json", settings)
    speech = {f"talker_{name}": value for name, value in (("max_new_tokens", 4096), ("temperature", 0.9))}
    sampling = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    write_json(folder / "generation_config.json", sampling if thinking else speech)
    _write_weights(folder, getattr(torch, dtype), thinking, seed)
    return folder


def _text(vocabulary: int) -> dict[str, Any]:
    pairs = HEAD_SIZE // 2
    side = 5 * pairs // 16
    return GENERIC | {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 24,
        "max_position_embeddings": 65536,
        "mlp_only_layers": [],
        "model_type": "qwen3_omni_moe_text",
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "num_attention_heads": HEADS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": KV_HEADS,
        "output_router_logits": False,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "interleaved": True,
            "mrope_interleaved": True,
            "mrope_section": [pairs - 2 * side, side, side],
            "rope_type": "default",
            "type": "default",
        },
        "rope_theta": 1000000,
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": 0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_qk_norm": True,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
    }


def _vision() -> dict[str, Any]:
    return GENERIC | {
        "apply_vit_abs_pos_embed": True,
        "deepstack_visual_indexes": [0, 1],
        "depth": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "image_size": 768,
        "in_channels": 3,
        "in_chans": 3,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "model_type": "qwen3_omni_moe_vision_encoder",
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "spatial_patch_size": 16,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
    }


def _audio() -> dict[str, Any]:
    return GENERIC | {
        "activation_dropout": 0,
        "activation_function": "gelu",
        "attention_dropout": 0,
        "conv_chunksize": 500,
        "d_model": 64,
        "downsample_hidden_size": 16,
        "dropout": 0,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 96,
        "encoder_layers": 2,
        "initializer_range": 0.02,
        "max_source_positions": 1500,
        "model_type": "qwen3_omni_moe_audio_encoder",
        "n_window": 50,
        "n_window_infer": 800,
        "num_hidden_layers": 2,
        "num_mel_bins": 128,
        "output_dim": HIDDEN,
        "scale_embedding": False,
    }


def _thinker(vocabulary: int, dtype: str) -> dict[str, Any]:
    return {
        "audio_config": _audio(),
        "audio_end_token_id": 151670,
        "audio_start_token_id": 151669,
        "audio_token_id": 151675,
        "dtype": dtype,
        "image_token_id": 151655,
        "initializer_range": 0.02,
        "model_type": "qwen3_omni_moe_thinker",
        "position_id_per_seconds": 13,
        "seconds_per_chunk": 2,
        "text_config": _text(vocabulary),
        "user_token_id": 872,
        "video_token_id": 151656,
        "vision_config": _vision(),
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
    }


def published_config(vocabulary: int, dtype: str, thinking: bool) -> dict[str, Any]:
    """config.json of the whole model."""
    speech = {
        "code2wav_config": {"codebook_dim": 16, "codebook_size": 32, "hidden_size": 32, "model_type": ""},
        "talker_config": {"model_type": "qwen3_omni_moe_talker", "thinker_hidden_size": HIDDEN},
    }
    return {
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "assistant_token_id": 77091,
        "dtype": dtype,
        "enable_audio_output": not thinking,
        "im_end_token_id": 151645,
        "im_start_token_id": 151644,
        "model_type": "qwen3_omni_moe",
        "system_token_id": 8948,
        "thinker_config": _thinker(vocabulary, dtype),
        "transformers_version": "4.57.0.dev0",
        "tts_bos_token_id": 151672,
        "tts_eos_token_id": 151673,
        "tts_pad_token_id": 151671,
        "user_token_id": 872,
        **({} if thinking else speech),
    }


def _write_tokenizer(folder: Path) -> None:
    write_vocabulary(folder)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {"content": token, **plain, "special": token not in _ORDINARY}
            for token, number in ADDED_TOKENS.items()
        },
        "additional_special_tokens": [
            token for token in (*_SPECIAL[1:], *_SPEECH) if token not in ("<tts_text_eod>", "<|endoftext|>")
        ],
        "extra_special_tokens": NAMED_TOKENS,
        **NAMED_TOKENS,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", settings)


def _write_weights(folder: Path, dtype: torch.dtype, thinking: bool, seed: int) -> None:
    weights = {name: weight.to(dtype).contiguous() for name, weight in published_weights(folder, seed).items()}
    if not thinking:
        weights |= {"talker.model.norm.weight": torch.ones(8, dtype=dtype)}
        weights |= {"code2wav.code_embedding.weight": torch.zeros(4, 8)}
    write_shards(folder, weights)


def published_weights(folder: Path, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of the thinker that `config.json` describes, under their published names; see
    `tests.published_student.published_weights` for their scale."""
    config = Qwen3OmniMoeThinkerConfig(**published_config_of(folder)["thinker_config"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3OmniMoeThinkerForConditionalGeneration._from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                    module.weight.normal_(0.0, module.weight[0].numel() ** -0.5)
            for layer in model.model.language_model.layers:
                layer.mlp.gate.weight.normal_(0.0, HIDDEN**-0.5)
                for experts in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
                    experts.normal_(0.0, experts.shape[-1] ** -0.5)
            model.model.language_model.embed_tokens.weight.normal_()
            model.lm_head.weight.mul_(0.2)  # close to uniform, like a plain random head
    weights = {}
    for name, weight in model.state_dict().items():
        rest = name.removeprefix("model.") if name.startswith(("model.visual.", "model.audio_tower.")) else name
        rest = rest.replace("model.language_model.", "model.", 1)
        if rest.endswith("mlp.experts.gate_up_proj"):
            for i, (gate, up) in enumerate(matrix.chunk(2) for matrix in weight):
                prefix = f"thinker.{rest.removesuffix('gate_up_proj')}{i}"
                weights |= {f"{prefix}.gate_proj.weight": gate.clone(), f"{prefix}.up_proj.weight": up.clone()}
        elif rest.endswith("mlp.experts.down_proj"):
            prefix = f"thinker.{rest.removesuffix('down_proj')}"
            weights |= {f"{prefix}{i}.down_proj.weight": matrix.clone() for i, matrix in enumerate(weight)}
        else:
            weights[f"thinker.{rest}"] = weight
    return weights


def published_config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content
