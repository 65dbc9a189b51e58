"""Students with random weights of the published shapes, created on the device, and prompts for them.

A matrix gets standard deviation 1/sqrt(fan-in) and token embeddings 1, so that signals keep their scale and depend on
the input; with the usual 0.02 almost all outputs would be equal, and exactness checks would see nothing.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2_5OmniThinkerForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from avrt.media.geometry import TOKEN_PIXELS
from avrt.model.encoding import Prompt, PromptEncoder
from avrt.model.shared_prompt import ATTENTION_NAME
from avrt.model.student import Dtype, Student, StudentConfig
from avrt.model.tiny import TinyShape, tiny_config, tiny_processor
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel
from avrt.planning.shapes import load_config
from avrt.rollout.engine import SamplingConfig
from avrt.sample import SAMPLING_RATE, Clip, Sample
from benchmarks.gpu.shapes import Shape, Skipped
from benchmarks.models import text_prompt
from benchmarks.students import WORD, EndlessStudent, tokenizer

MINIATURE_VOCABULARY = 600

MAX_PIXELS = 10**7
"""Frames are never resized."""

if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):  # the name before transformers 5.20
    PreTrainedModel.activation_checkpointing_enable = PreTrainedModel.gradient_checkpointing_enable  # type: ignore[attr-defined]


def student_config(shape: Shape, size: str) -> Any:
    """The thinker's configuration, with the ids of the small tokenizer's special tokens."""
    tokens = tokenizer()
    if not shape.published:
        layers = {"3b": 3, "7b": 2}[size]
        tiny = TinyShape(hidden_size=64, num_hidden_layers=layers, vision_width=32, audio_width=32)
        return tiny_config(tiny, tokens, MINIATURE_VOCABULARY)
    config, _ = load_config(published_name(size))
    small = tiny_config(TinyShape(), tokens)
    for name in (
        "image_token_id",
        "video_token_id",
        "audio_token_id",
        "audio_start_token_id",
        "audio_end_token_id",
        "user_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    ):
        if hasattr(small, name):
            setattr(config, name, getattr(small, name))
    return config


def published_name(size: str) -> str:
    return f"Qwen/Qwen2.5-Omni-{size.upper()}"


def build(model_class: Any, config: Any, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A random model, created on the device."""
    with torch.device(device), _no_init_weights():
        model = model_class._from_config(config, dtype=dtype)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.Embedding):
                    parameter.normal_(generator=generator)
                elif parameter.dim() >= 2:
                    parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
                else:
                    parameter.fill_(0.0 if name == "bias" else 1.0)
    return model.eval()


def _no_init_weights() -> Any:
    """The library's own initialization is slow, and is replaced."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # another version
        return nullcontext()
    return no_init_weights()


def text_policy(
    shape: Shape, size: str, device: torch.device, dtype: torch.dtype, layers: int | None = None
) -> LanguageModel:
    """The language model of a student alone."""
    config = student_config(shape, size).text_config
    config.num_hidden_layers = layers or config.num_hidden_layers
    text_model = build(Qwen2_5OmniThinkerTextModel, config, device, dtype)
    text_model.set_attn_implementation(ATTENTION_NAME)
    head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device=device, dtype=dtype)
    with torch.no_grad():
        head.weight.normal_(0.0, config.hidden_size**-0.5, generator=torch.Generator(device).manual_seed(1))
    return LanguageModel(text_model, head)


def with_kernel(model: LanguageModel, kernel: Any) -> LanguageModel:
    """The same weights with another implementation of attention."""
    return LanguageModel(model.text_model, model.head, kernel)


def in_dtype(model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """A copy with weights of another type; rotary frequencies stay float32."""
    text_model = copy.deepcopy(model.text_model)
    for parameter in text_model.parameters():
        parameter.data = parameter.data.to(dtype)
    return LanguageModel(text_model, copy.deepcopy(model.head).to(dtype), model.kernel)


def plain_language_model(model: LanguageModel) -> Qwen2ForCausalLM:
    """transformers' Qwen2 with the same weights (the same tensors): for text it computes the same function."""
    c: Any = model.text_model.config
    config = Qwen2Config(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_parameters["rope_theta"]},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    config._attn_implementation = "sdpa"
    device, dtype = model.head_weight.device, model.head_weight.dtype
    with torch.device("meta"):
        peer = Qwen2ForCausalLM._from_config(config, dtype=dtype)
    peer.model.load_state_dict(model.text_model.state_dict(), assign=True)
    peer.lm_head.weight = model.head.weight
    with torch.device(device):
        peer.model.rotary_emb = type(peer.model.rotary_emb)(config)
    return peer.eval()


class RandomStudent(EndlessStudent):
    """A student that may sample every token but those that mark media, although its tokenizer knows few."""

    @property
    def banned_tokens(self) -> Tensor:
        if self._banned_tokens is None:
            config = self.thinker.config
            banned = torch.zeros(self.thinker.lm_head.out_features, dtype=torch.bool, device=self.device)
            banned[[config.image_token_id, config.video_token_id, config.audio_token_id]] = True
            self._banned_tokens = banned
        return self._banned_tokens


def random_student(
    shape: Shape, size: str, device: torch.device, dtype: Dtype = "bfloat16", checkpointing: bool = True
) -> Student:
    """A whole student: encoders, language model and a small tokenizer."""
    thinker = build(
        Qwen2_5OmniThinkerForConditionalGeneration, student_config(shape, size), device, getattr(torch, dtype)
    )
    if not hasattr(thinker.model, "language_model"):
        raise Skipped(
            f"transformers {transformers.__version__} arranges the thinker's modules in another way; install the "
            "project's version"
        )
    thinker.set_attn_implementation("sdpa")
    return RandomStudent(thinker, tiny_processor(tokenizer()), random_student_config(dtype, checkpointing))


def random_student_config(dtype: Dtype, checkpointing: bool) -> StudentConfig:
    return StudentConfig(
        path="random",
        dtype=dtype,
        min_pixels=TOKEN_PIXELS,
        max_pixels=MAX_PIXELS,
        gradient_checkpointing=checkpointing,
    )


def audio_visual_prompts(shape: Shape, count: int) -> list[Prompt]:
    """Prompts of 8 random frames, audio and text, each with its own content, of `shape.prompt_tokens` tokens."""
    encoder = PromptEncoder(tiny_processor(tokenizer()), min_pixels=TOKEN_PIXELS, max_pixels=MAX_PIXELS)
    generator = torch.Generator().manual_seed(0)
    height, width = shape.frame_size
    clips = []
    for _ in range(count):
        frames = torch.randint(0, 256, (8, 3, height, width), dtype=torch.uint8, generator=generator)
        waveform = 0.1 * torch.randn(shape.audio_seconds * SAMPLING_RATE, generator=generator)
        times = tuple(shape.audio_seconds / 8 * t for t in range(8))
        clips.append(Clip(frames, times, 8 / shape.audio_seconds, waveform, float(shape.audio_seconds), height, width))

    def encode(number: int, words: int) -> Prompt:
        sample = Sample(str(number), "red" + WORD * words, ("red", "green"), 0, clip=clips[number])
        return encoder.encode(sample)

    words = max(0, shape.prompt_tokens - len(encode(0, 0).input_ids))
    return [encode(number, words) for number in range(count)]


def random_prompts(model: LanguageModel, tokens: int, count: int, seed: int = 0) -> list[EmbeddedPrompt]:
    """Text prompts of random tokens, on the model's device."""
    generator = torch.Generator().manual_seed(seed)
    device = model.head_weight.device
    prompts = []
    for _ in range(count):
        ids = torch.randint(0, len(model.head_weight) - 16, (tokens,), generator=generator)
        parts = text_prompt(ids).tensors
        prompts.append(EmbeddedPrompt(**{name: part.to(device) for name, part in parts.items()}))
    return prompts


def random_responses(model: LanguageModel, count: int, group: int, tokens: int, seed: int = 1) -> list[list[Tensor]]:
    """Responses of random tokens to `count` prompts, on the model's device."""
    generator = torch.Generator().manual_seed(seed)
    device, vocabulary = model.head_weight.device, len(model.head_weight) - 16
    return [
        [torch.randint(0, vocabulary, (tokens,), generator=generator).to(device) for _ in range(group)]
        for _ in range(count)
    ]


def sampling(tokens: int, decoding: str | None = None, **settings: Any) -> SamplingConfig:
    """Settings of a rollout whose whole window fits.

    Args:
        decoding: ``plain``, ``static`` or ``graphs``; None for the default.
    """
    chosen = {} if decoding is None or not has_decoding() else {"decoding": decoding}
    return SamplingConfig(max_completion_length=tokens, kv_cache_tokens=10**9, **chosen, **settings)


def has_decoding() -> bool:
    """Whether the built-in engine has more than one way of decoding."""
    return "decoding" in inspect.signature(SamplingConfig).parameters


def decoding_modes(device: torch.device) -> list[tuple[str, str | None]]:
    """Every way of decoding, and why it cannot run here (None if it can)."""
    if not has_decoding():
        missing = "this version has no sampling.decoding"
        return [("plain", None), ("static", missing), ("graphs", missing)]
    graphs = None if device.type == "cuda" else "CUDA graphs need a GPU"
    return [("plain", None), ("static", None), ("graphs", graphs)]


def seeds(prompts: Sequence[object]) -> list[int]:
    return list(range(len(prompts)))
