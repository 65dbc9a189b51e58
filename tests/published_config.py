"""config.json of Qwen2.5-Omni as published in mid-2025, at tiny width.

Written by transformers 4.50: every nested configuration of the thinker repeats the defaults of `PretrainedConfig`,
multimodal positions are set by `rope_scaling`, and media tokens by `*_token_index`.
"""

from __future__ import annotations

from typing import Any

HEADS = 2
KV_HEADS = 1
HEAD_SIZE = 32
HIDDEN = HEADS * HEAD_SIZE
ENCODER_WIDTH = 64

GENERIC: dict[str, Any] = {
    "_attn_implementation_autoset": True,
    "_name_or_path": "",
    **dict.fromkeys(
        (
            "add_cross_attention",
            "do_sample",
            "early_stopping",
            "is_decoder",
            "is_encoder_decoder",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "remove_invalid_values",
            "return_dict_in_generate",
            "tf_legacy_loss",
            "tie_encoder_decoder",
            "torchscript",
            "use_bfloat16",
        ),
        False,
    ),
    **dict.fromkeys(
        (
            "architectures",
            "bad_words_ids",
            "begin_suppress_tokens",
            "bos_token_id",
            "cross_attention_hidden_size",
            "decoder_start_token_id",
            "eos_token_id",
            "exponential_decay_length_penalty",
            "finetuning_task",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "pad_token_id",
            "prefix",
            "problem_type",
            "sep_token_id",
            "suppress_tokens",
            "task_specific_params",
            "tokenizer_class",
            "torch_dtype",
        )
    ),
    **dict.fromkeys(("chunk_size_feed_forward", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("no_repeat_ngram_size",), 0),
    **dict.fromkeys(("num_beam_groups", "num_beams", "num_return_sequences"), 1),
    **dict.fromkeys(("length_penalty", "repetition_penalty", "temperature", "top_p", "typical_p"), 1.0),
    "diversity_penalty": 0.0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_length": 20,
    "pruned_heads": {},
    "return_dict": True,
    "tie_word_embeddings": True,
    "top_k": 50,
}
"""The settings that `PretrainedConfig` of transformers 4.50 writes for every model."""

INITIALIZATION = {"init_std": 0.02, "initializer_range": 0.02}


def _rope(head_size: int) -> dict[str, Any]:
    """Rotary positions whose pairs time, height and width share as 16, 24 and 24 of 64."""
    side = 3 * head_size // 16
    sections = [head_size // 2 - 2 * side, side, side]
    return {
        "rope_scaling": {"mrope_section": sections, "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
    }


def _text(vocabulary: int) -> dict[str, Any]:
    return GENERIC | {
        **INITIALIZATION,
        **_rope(HEAD_SIZE),
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "qwen2_5_omni_text",
        "num_attention_heads": HEADS,
        "num_hidden_layers": 2,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-06,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
    }


def _vision() -> dict[str, Any]:
    return GENERIC | {
        **INITIALIZATION,
        "depth": 2,
        "embed_dim": ENCODER_WIDTH,
        "fullatt_block_indexes": [1],
        "hidden_act": "silu",
        "hidden_size": ENCODER_WIDTH,
        "in_channels": 3,
        "in_chans": 3,
        "intermediate_size": 96,
        "model_type": "qwen2_5_omni_vision_encoder",
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
        "tokens_per_second": 25,
        "window_size": 112,
    }


def _audio() -> dict[str, Any]:
    return GENERIC | {
        **INITIALIZATION,
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "attention_dropout": 0.0,
        "d_model": ENCODER_WIDTH,
        "dropout": 0.0,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 96,
        "encoder_layerdrop": 0.0,
        "encoder_layers": 2,
        "max_source_positions": 1500,
        "model_type": "qwen2_5_omni_audio_encoder",
        "n_window": 100,
        "num_hidden_layers": 2,
        "num_mel_bins": 128,
        "output_dim": HIDDEN,
        "scale_embedding": False,
    }


MEDIA_TOKENS = {
    "audio_end_token_id": 151648,
    "audio_start_token_id": 151647,
    "audio_token_index": 151646,
    "image_token_index": 151655,
    "position_id_per_seconds": 25,
    "seconds_per_chunk": 2,
    "video_token_index": 151656,
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
}


def _thinker(vocabulary: int, dtype: str) -> dict[str, Any]:
    return {
        **INITIALIZATION,
        **MEDIA_TOKENS,
        "_attn_implementation_autoset": True,
        "_name_or_path": "Qwen2.5-Omni-7B/thinker",
        "architectures": ["Qwen2OmniNaViTThinkerForConditionalGeneration"],
        "audio_config": _audio(),
        "bos_token_id": 151644,
        "eos_token_id": 151645,
        "ignore_index": -100,
        "model_type": "qwen2_5_omni_thinker",
        "pad_token_id": 151643,
        "text_config": _text(vocabulary),
        "torch_dtype": dtype,
        "user_token_id": 872,
        "vision_config": _vision(),
        "vision_token_id": 151654,
    }


def _talker(dtype: str) -> dict[str, Any]:
    return {
        **INITIALIZATION,
        **MEDIA_TOKENS,
        **_rope(HEAD_SIZE),
        "_attn_implementation_autoset": True,
        "_name_or_path": "Qwen2.5-Omni-7B/talker",
        "architectures": ["Qwen2OmniTalkerForConditionalGeneration"],
        "attention_dropout": 0.0,
        "embedding_size": HIDDEN,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "qwen2_5_omni_talker",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "sliding_window": 32768,
        "spatial_merge_size": 2,
        "torch_dtype": dtype,
        "tts_codec_end_token_id": 8294,
        "tts_codec_mask_token_id": 8296,
        "tts_codec_pad_token_id": 8292,
        "tts_codec_start_token_id": 8293,
        "tts_text_end_token_id": 151861,
        "tts_text_pad_token_id": 151859,
        "tts_text_start_token_id": 151860,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 8448,
    }


def _token2wav() -> dict[str, Any]:
    bigvgan = {
        "_attn_implementation_autoset": True,
        "mel_dim": 80,
        "model_type": "qwen2_5_omni_bigvgan",
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "resblock_kernel_sizes": [3, 7, 11],
        "upsample_initial_channel": 64,
        "upsample_kernel_sizes": [11, 7, 4, 4, 4, 4],
        "upsample_rates": [5, 3, 2, 2, 2, 2],
        "use_bias_at_final": False,
    }
    dit = {
        "_attn_implementation_autoset": True,
        "depth": 1,
        "dim": 32,
        "dropout": 0.1,
        "emb_dim": 16,
        "enc_attention_channels": 16,
        "enc_channels": [16, 16, 16, 16, 48],
        "enc_dilations": [1, 2, 3, 4, 1],
        "enc_dim": 32,
        "enc_emb_dim": 32,
        "enc_kernel_sizes": [5, 3, 3, 3, 1],
        "enc_lin_neurons": 32,
        "enc_res2net_scale": 2,
        "enc_se_channels": 8,
        "ff_mult": 2,
        "head_dim": 32,
        "heads": 1,
        "hidden_size": 32,
        "look_ahead_layers": [0],
        "look_backward_layers": [0],
        "mel_dim": 80,
        "model_type": "qwen2_5_omni_dit",
        "num_attention_heads": 1,
        "num_embeds": 8193,
        "num_hidden_layers": 1,
        "repeats": 2,
        "torch_dtype": "float32",
    }
    return {
        "_attn_implementation_autoset": True,
        "bigvgan_config": bigvgan,
        "dit_config": dit,
        "model_type": "qwen2_5_omni_token2wav",
        "torch_dtype": "float32",
    }


def published_config(vocabulary: int, dtype: str) -> dict[str, Any]:
    """config.json of the whole model.

    Args:
        vocabulary: rows of the embedding; 152,064 in the 7B, 151,936 in the 3B.
        dtype: `torch_dtype` of thinker and talker.
    """
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "enable_audio_output": True,
        "enable_talker": True,
        "model_type": "qwen2_5_omni",
        "talker_config": _talker(dtype),
        "thinker_config": _thinker(vocabulary, dtype),
        "token2wav_config": _token2wav(),
        "torch_dtype": dtype,
        "transformers_version": "4.50.0.dev0",
    }
