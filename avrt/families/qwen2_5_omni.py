"""Qwen2.5-Omni 3B and 7B: dense language model, 14-pixel patches, 25 audio tokens a second."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from avrt.families.family import LanguageShape, MediaTokens, StudentFamily, token_id
from avrt.families.tiny_shape import TinyShape, mel_extractor
from avrt.sample import SAMPLING_RATE


class Qwen25Omni(StudentFamily):
    """Features enter in place of embeddings only. Both encoders attend within windows."""

    title = "Qwen2.5-Omni"
    model_type = "qwen2_5_omni"
    class_prefix = "Qwen2_5Omni"
    media_tokens = MediaTokens(
        image="<|IMAGE|>",
        video="<|VIDEO|>",
        audio="<|AUDIO|>",
        vision_start="<|vision_bos|>",
        vision_end="<|vision_eos|>",
        audio_start="<|audio_bos|>",
        audio_end="<|audio_eos|>",
    )
    audio_tokens_per_second = 25.0
    shortest_audio = SAMPLING_RATE // 25
    undeclared: ClassVar[dict[str, tuple[str, ...]]] = {
        "qwen2_5_omni_thinker": (
            "bos_token_id",
            "eos_token_id",
            "ignore_index",
            "pad_token_id",
            "vision_end_token_id",
            "vision_start_token_id",
            "vision_token_id",
        ),
        "qwen2_5_omni_vision_encoder": ("embed_dim", "in_chans", "spatial_patch_size", "tokens_per_second"),
        "qwen2_5_omni_audio_encoder": ("encoder_layerdrop",),
    }
    published: ClassVar[dict[str, str]] = {
        "Qwen/Qwen2.5-Omni-3B": "Qwen2.5-Omni-3B",
        "Qwen/Qwen2.5-Omni-7B": "Qwen2.5-Omni-7B",
    }
    sizes: ClassVar[dict[str, str]] = {r"(^|_)3b$": "Qwen/Qwen2.5-Omni-3B", r"(^|_)7b$": "Qwen/Qwen2.5-Omni-7B"}

    def audio_tokens(self, mel_frames: int) -> int:
        """A convolution and a pooling halve the number of frames each."""
        return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1

    def audio_positions(self, mel_frames: int) -> int:
        """The pooling comes behind the layers."""
        return mel_frames // 2

    def audio_features(self, model: Any, mel: Tensor, mel_frames: Tensor) -> tuple[Tensor, ...]:
        tower = model.audio_tower
        after_convolution, tokens = tower._get_feat_extract_output_lengths(mel_frames)
        features = tower(mel, feature_lens=mel_frames, aftercnn_lens=after_convolution).last_hidden_state
        return features.split(tokens.tolist())

    def visual_features(self, model: Any, patches: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        # Images and videos differ only in their placeholders; the encoder reads both by their grid.
        return tuple(features[None] for features in model.get_video_features(patches, grid).pooler_output)

    def language_shape(self, config: Any) -> LanguageShape:
        text = config.text_config
        head = text.hidden_size // text.num_attention_heads
        return LanguageShape(text.num_hidden_layers, text.hidden_size, text.num_key_value_heads * head, 50)

    def encoder_attention_flops(self, config: Any, patches: int) -> float:
        """Of the few layers that attend within a whole frame; four pairs of frames are apart."""
        vision = config.vision_config
        return len(vision.fullatt_block_indexes) * 4 * patches**2 / 4 * vision.hidden_size

    # ---- a tiny student ---------------------------------------------------------------------------------------------

    tiny_special_tokens = (
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
    )
    chat_template = (
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

    def tiny_config(self, shape: TinyShape, tokenizer: Any, vocab_size: int) -> Any:
        # Time, height and width share the rotary pairs as in the published models: 16, 24 and 24 of 64.
        text = shape.text_settings(vocab_size, side=3 * shape.rotary_pairs // 8)
        windows = {"fullatt_block_indexes": [shape.vision_layers - 1], "window_size": 112}
        tokens = self.media_tokens
        config = self.config_class(
            text_config=text,
            vision_config=shape.vision_settings(shape.vision_layers) | windows,
            audio_config=shape.audio_settings(),
            image_token_index=token_id(tokenizer, tokens.image),
            video_token_index=token_id(tokenizer, tokens.video),
            audio_token_index=token_id(tokenizer, tokens.audio),
            audio_start_token_id=token_id(tokenizer, tokens.audio_start),
            audio_end_token_id=token_id(tokenizer, tokens.audio_end),
            user_token_id=tokenizer("user", add_special_tokens=False)["input_ids"][0],
            tie_word_embeddings=False,
        )
        # Read by get_rope_index though the configuration class does not declare them.
        config.vision_start_token_id = token_id(tokenizer, tokens.vision_start)
        config.vision_end_token_id = token_id(tokenizer, tokens.vision_end)
        return config

    def tiny_processor(self, tokenizer: Any, chunk_seconds: int) -> Any:
        return self.processor_class(
            image_processor=Qwen2VLImageProcessor(),
            video_processor=Qwen2VLVideoProcessor(),
            feature_extractor=mel_extractor(chunk_seconds),
            tokenizer=tokenizer,
            chat_template=self.chat_template,
        )


FAMILY = Qwen25Omni()
