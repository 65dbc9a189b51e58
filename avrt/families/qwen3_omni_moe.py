"""Qwen3-Omni 30B-A3B: mixture of experts, 16-pixel patches, 13 audio tokens a second, DeepStack.

Its vision encoder gives every visual token several features: one in place of the token's embedding, and further ones,
from layers in between, that are added to the hidden states behind the language model's first layers (DeepStack,
https://arxiv.org/abs/2406.04334). Both published students, Instruct and Thinking, are of this family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from avrt.families.family import LanguageShape, MediaTokens, StudentFamily, token_id
from avrt.families.tiny_shape import TinyShape, mel_extractor

CHUNK_FRAMES, CHUNK_TOKENS = 100, 13
"""Mel frames of a chunk that the audio encoder's convolutions see at once, and the tokens that it becomes."""

EXPERTS = ".mlp.experts."


class Qwen3OmniMoe(StudentFamily):
    """Routers choose experts per token, and are trained without an auxiliary loss, see docs/students.md."""

    title = "Qwen3-Omni"
    model_type = "qwen3_omni_moe"
    class_prefix = "Qwen3OmniMoe"
    media_tokens = MediaTokens(
        image="<|image_pad|>",
        video="<|video_pad|>",
        audio="<|audio_pad|>",
        vision_start="<|vision_start|>",
        vision_end="<|vision_end|>",
        audio_start="<|audio_start|>",
        audio_end="<|audio_end|>",
    )
    audio_tokens_per_second = 13.0
    shortest_audio = 400  # one analysis window; any mel frame becomes a token
    vllm_differs = "it rounds the times of a video's frames to whole positions"
    undeclared: ClassVar[dict[str, tuple[str, ...]]] = {
        "qwen3_omni_moe_thinker": (
            "audio_end_token_id",
            "seconds_per_chunk",
            "vision_end_token_id",
            "vision_start_token_id",
        ),
        "qwen3_omni_moe_text": ("head_dim", "shared_expert_intermediate_size", "use_qk_norm", "use_sliding_window"),
        "qwen3_omni_moe_vision_encoder": (
            "apply_vit_abs_pos_embed",
            "image_size",
            "in_chans",
            "spatial_patch_size",
            "tokens_per_second",
        ),
        "qwen3_omni_moe_audio_encoder": (),
    }
    published: ClassVar[dict[str, str]] = {
        "Qwen/Qwen3-Omni-30B-A3B-Instruct": "Qwen3-Omni-30B-A3B",
        "Qwen/Qwen3-Omni-30B-A3B-Thinking": "Qwen3-Omni-30B-A3B",
    }
    sizes: ClassVar[dict[str, str]] = {"qwen3_omni_30b": "Qwen/Qwen3-Omni-30B-A3B-Instruct"}

    def prepare(self, thinker: Any) -> None:
        """All experts of a layer in one product, which torch has for every type but float64.

        Raises:
            ValueError: the audio encoder's chunks are not the published ones.
        """
        if 2 * thinker.config.audio_config.n_window != CHUNK_FRAMES:
            raise ValueError(
                f"student.path: its config.json has audio_config.n_window {thinker.config.audio_config.n_window}; only "
                f"{CHUNK_FRAMES // 2}, that of the published models, is supported"
            )
        thinker.set_experts_implementation("eager" if thinker.dtype == torch.float64 else "grouped_mm")

    # ---- media ------------------------------------------------------------------------------------------------------

    def audio_tokens(self, mel_frames: int) -> int:
        """Three convolutions halve the frames of each chunk, rounding up: 13 tokens of 100 frames."""
        chunks, frames = divmod(mel_frames, CHUNK_FRAMES)
        for _ in range(3):
            frames = (frames + 1) // 2
        return CHUNK_TOKENS * chunks + frames

    def audio_batch(self, mel_frames: int) -> int:
        """The encoder pads every chunk to the longest one of the call, and its convolutions see the padding.

        Prompts with a whole chunk are all padded to that; others only meet their own length.
        """
        return min(mel_frames, CHUNK_FRAMES)

    def audio_positions(self, mel_frames: int) -> int:
        return self.audio_tokens(mel_frames)

    def audio_features(self, model: Any, mel: Tensor, mel_frames: Tensor) -> tuple[Tensor, ...]:
        features = model.audio_tower(mel, feature_lens=mel_frames).last_hidden_state
        return features.split([self.audio_tokens(frames) for frames in mel_frames.tolist()])

    def visual_features(self, model: Any, patches: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        found = model.get_video_features(patches, grid)
        return tuple(map(torch.stack, zip(found.pooler_output, *found.deepstack_features, strict=True)))

    # ---- published layout -------------------------------------------------------------------------------------------

    def published_weights(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The experts of a layer are one weight in memory, and published as matrices of their own."""
        part = name.rpartition(".")[2]
        if EXPERTS not in name or weight.ndim != 3:
            yield from super().published_weights(name, weight)
            return
        prefix = self.published_name(name.removesuffix(part))
        for number, expert in enumerate(weight):
            matrices = dict(zip(("gate_proj", "up_proj"), expert.chunk(2), strict=True))
            for matrix, values in (matrices if part == "gate_up_proj" else {part: expert}).items():
                yield f"{prefix}{number}.{matrix}.weight", values

    # ---- adapters ---------------------------------------------------------------------------------------------------

    def lora_targets(self, matrices: Sequence[str], text_config: Any = None) -> tuple[list[str], list[str]]:
        of_experts = {"gate_proj", "up_proj", "down_proj"} & set(matrices)
        if len({"gate_proj", "up_proj"} & of_experts) == 1:
            raise ValueError(
                "model.lora.target_modules: gate_proj and up_proj of an expert are one matrix; name both or neither"
            )
        parameters = [
            f"mlp.experts.{name}" for name in ("gate_up_proj", "down_proj") if name.replace("_up", "") in matrices
        ]
        dense = text_config is not None and len(self._sparse_layers(text_config)) < text_config.num_hidden_layers
        return [name for name in matrices if dense or name not in of_experts], parameters

    # ---- plans ------------------------------------------------------------------------------------------------------

    def language_shape(self, config: Any) -> LanguageShape:
        text = config.text_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        sparse = self._sparse_layers(text)
        return LanguageShape(
            layers=text.num_hidden_layers,
            attention_size=text.num_attention_heads * head,
            kv_size=text.num_key_value_heads * head,
            launches_per_layer=80,
            equal_layers=len(sparse) in (0, text.num_hidden_layers),
            experts=text.num_experts,
            experts_per_token=text.num_experts_per_tok,
            expert_parameters=len(sparse) * text.num_experts * 3 * text.hidden_size * text.moe_intermediate_size,
        )

    def _sparse_layers(self, text: Any) -> list[int]:
        """The layers that have experts; all of them in the published models."""
        step, dense = text.decoder_sparse_step, set(text.mlp_only_layers)
        return [i for i in range(text.num_hidden_layers) if i not in dense and (i + 1) % step == 0]

    def encoder_attention_flops(self, config: Any, patches: int) -> float:
        """Every layer attends within a frame; four pairs of frames are apart."""
        vision = config.vision_config
        return float(vision.depth * 4 * patches**2 / 4 * vision.hidden_size)

    def visual_rows(self, config: Any) -> int:
        return 1 + len(config.vision_config.deepstack_visual_indexes)

    # ---- a tiny student ---------------------------------------------------------------------------------------------

    tiny_special_tokens = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<|audio_start|>",
        "<|audio_end|>",
        "<|audio_pad|>",
    )
    chat_template = (
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% elif part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def tiny_config(self, shape: TinyShape, tokenizer: Any, vocab_size: int) -> Any:
        # Time, height and width share the rotary pairs as in the published models: 24, 20 and 20 of 64.
        side = 5 * shape.rotary_pairs // 16
        text = shape.text_settings(vocab_size, side, mrope_interleaved=True, interleaved=True) | {
            "moe_intermediate_size": shape.intermediate_size,
            "num_experts": shape.num_experts,
            "num_experts_per_tok": shape.num_experts_per_tok,
            "head_dim": 2 * shape.rotary_pairs,
        }
        layers = max(2, shape.vision_layers)  # the features of one layer are read again
        read_again = {"deepstack_visual_indexes": [layers - 2]}
        tokens = self.media_tokens
        config = self.config_class(
            text_config=text,
            vision_config=shape.vision_settings(layers) | read_again,
            audio_config=shape.audio_settings() | {"downsample_hidden_size": max(8, shape.audio_width // 2)},
            image_token_id=token_id(tokenizer, tokens.image),
            video_token_id=token_id(tokenizer, tokens.video),
            audio_token_id=token_id(tokenizer, tokens.audio),
            audio_start_token_id=token_id(tokenizer, tokens.audio_start),
            user_token_id=tokenizer("user", add_special_tokens=False)["input_ids"][0],
            position_id_per_seconds=13,
            tie_word_embeddings=False,
        )
        # The configuration class does not declare them. get_rope_index reads the first one.
        config.vision_start_token_id = token_id(tokenizer, tokens.vision_start)
        config.vision_end_token_id = token_id(tokenizer, tokens.vision_end)
        config.audio_end_token_id = token_id(tokenizer, tokens.audio_end)
        return config

    def tiny_processor(self, tokenizer: Any, chunk_seconds: int) -> Any:
        settings: dict[str, Any] = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return self.processor_class(
            image_processor=Qwen2VLImageProcessor(**settings),
            video_processor=Qwen2VLVideoProcessor(**settings),
            feature_extractor=mel_extractor(chunk_seconds),
            tokenizer=tokenizer,
            chat_template=self.chat_template,
        )


FAMILY = Qwen3OmniMoe()
