"""What a student family says about its models; everything else in the project asks here.

Shape letters: N clips, H hidden size of the language model, F mel frames, L layers that read visual features again.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import transformers
from torch import Tensor

from avrt.families.tiny_shape import TinyShape


@dataclass(frozen=True)
class MediaTokens:
    """Special tokens in place of media features and around them.

    Attributes:
        image, video, audio: placeholders, one per feature.
        vision_start, vision_end, audio_start, audio_end: around a clip's placeholders.
        vision_pad: of the vocabulary, in no prompt.
    """

    image: str
    video: str
    audio: str
    vision_start: str
    vision_end: str
    audio_start: str
    audio_end: str
    vision_pad: str = "<|vision_pad|>"

    @property
    def all(self) -> tuple[str, ...]:
        """Every one of them. A response can never contain one: a sampled placeholder would have no feature."""
        around = (self.vision_start, self.vision_end, self.vision_pad, self.audio_start, self.audio_end)
        return (self.audio, self.image, self.video, *around)

    @property
    def named(self) -> dict[str, str]:
        """The attributes that transformers' processors read from their tokenizer."""
        return {
            "image_token": self.image,
            "audio_token": self.audio,
            "video_token": self.video,
            "vision_bos_token": self.vision_start,
            "vision_eos_token": self.vision_end,
            "audio_bos_token": self.audio_start,
            "audio_eos_token": self.audio_end,
        }


@dataclass(frozen=True)
class LanguageShape:
    """Sizes of a language model that its memory and time depend on.

    Attributes:
        layers: transformer layers.
        attention_size: width of all query heads together.
        kv_size: width of all key heads together; values have as much.
        equal_layers: whether all layers have the same sizes.
        experts: of a layer, 0 where every token passes the whole layer.
        experts_per_token: those that a token passes.
        expert_parameters: of all experts of all layers together.
        launches_per_layer: kernels of a decoding step, counted on the CPU.
    """

    layers: int
    attention_size: int
    kv_size: int
    launches_per_layer: int
    equal_layers: bool = True
    experts: int = 0
    experts_per_token: int = 0
    expert_parameters: int = 0

    def parameters_read(self, tokens: float) -> float:
        """Parameters of experts that a step with so many tokens reads, if tokens choose experts independently."""
        if not self.experts:
            return 0.0
        return self.expert_parameters * (1 - (1 - self.experts_per_token / self.experts) ** tokens)

    @property
    def active_expert_parameters(self) -> int:
        """Parameters of experts that one token passes."""
        return self.expert_parameters * self.experts_per_token // self.experts if self.experts else 0


class StudentFamily(abc.ABC):
    """A family of omni models whose thinker can be a student.

    A thinker has a text model at ``model.language_model``, encoders at ``model.visual`` and ``model.audio_tower``, its
    head at ``lm_head``, and computes positions in ``model.get_rope_index``. Its attention functions are chosen by name
    and get the keyword arguments of the text model's call.

    Attributes:
        title: name for people.
        model_type: of the whole model in ``config.json``; ``<model_type>_thinker`` is that of the thinker alone.
        class_prefix: of its classes in transformers.
        media_tokens: special tokens of media.
        end_tokens: tokens that end a response; the first one ends a turn.
        shortest_audio: samples that become a token. Shorter audio is padded with silence: without any token, the
            positions of what follows are unknown.
        audio_tokens_per_second: for plans.
        vllm_differs: why vLLM's model computes another function, empty where it does not.
        undeclared: published settings that transformers' configuration classes do not declare, by model type.
        published: hub ids of models, and the names of their shapes in `avrt/planning/published`.
        sizes: hub ids by a pattern of the names of folders that come from them, in lower case with underscores.
    """

    title: ClassVar[str]
    model_type: ClassVar[str]
    class_prefix: ClassVar[str]
    media_tokens: ClassVar[MediaTokens]
    end_tokens: ClassVar[tuple[str, ...]] = ("<|im_end|>", "<|endoftext|>")
    shortest_audio: ClassVar[int]
    audio_tokens_per_second: ClassVar[float]
    vllm_differs: ClassVar[str] = ""
    undeclared: ClassVar[dict[str, tuple[str, ...]]]
    published: ClassVar[dict[str, str]]
    sizes: ClassVar[dict[str, str]]

    def __repr__(self) -> str:
        return self.title

    # ---- classes ----------------------------------------------------------------------------------------------------

    @property
    def thinker_type(self) -> str:
        """`model_type` of the thinker's own configuration."""
        return f"{self.model_type}_thinker"

    @property
    def thinker_class(self) -> Any:
        """The thinker with its head."""
        return getattr(transformers, f"{self.class_prefix}ThinkerForConditionalGeneration")

    @property
    def config_class(self) -> Any:
        """Of the thinker's configuration."""
        return getattr(transformers, f"{self.class_prefix}ThinkerConfig")

    @property
    def processor_class(self) -> Any:
        return getattr(transformers, f"{self.class_prefix}Processor")

    @property
    def whole_class_name(self) -> str:
        """Name of the class of the whole model, as in ``architectures`` of a published ``config.json``."""
        return f"{self.class_prefix}ForConditionalGeneration"

    def prepare(self, thinker: Any) -> None:  # noqa: B027 (most families have nothing to choose)
        """Choose among the library's implementations of a loaded thinker's layers."""

    # ---- media ------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def audio_tokens(self, mel_frames: int) -> int:
        """Tokens of audio with so many mel frames."""

    def audio_batch(self, mel_frames: int) -> int:
        """Prompts with different values are never encoded in one call, because they would change each other.

        Args:
            mel_frames: of the longest clip of a prompt.
        """
        return 0

    @abc.abstractmethod
    def audio_positions(self, mel_frames: int) -> int:
        """Positions of the audio encoder's layers, for plans."""

    @abc.abstractmethod
    def audio_features(self, model: Any, mel: Tensor, mel_frames: Tensor) -> tuple[Tensor, ...]:
        """Features ``[tokens, H]`` of N clips.

        Args:
            model: the thinker's ``model``.
            mel: the clips' features one after another, ``[mel bins, F]``.
            mel_frames: of each clip, ``[N]``.
        """

    @abc.abstractmethod
    def visual_features(self, model: Any, patches: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        """Features ``[1 + L, tokens, H]`` of N images or videos.

        The first row of a clip takes the place of its placeholders' embeddings. Row i of the others is added to the
        hidden states behind the language model's layer i.

        Args:
            model: the thinker's ``model``.
            patches: ``[patches, patch values]``.
            grid: patches in time, height and width of each clip, ``[N, 3]``.
        """

    def frame_pixels_per_token(self, config: Any) -> int:
        """Pixels of a frame that one visual token covers."""
        vision = config.vision_config
        return int((vision.patch_size * vision.spatial_merge_size) ** 2)

    # ---- published layout -------------------------------------------------------------------------------------------

    def published_name(self, name: str) -> str:
        """The published name of a weight of the thinker: text model and encoders are siblings below ``thinker.``."""
        for part, published in (
            ("model.language_model.", "model."),
            ("model.visual.", "visual."),
            ("model.audio_tower.", "audio_tower."),
        ):
            if name.startswith(part):
                return f"thinker.{published}{name.removeprefix(part)}"
        return f"thinker.{name}"

    def published_weights(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What is published in place of a weight of the thinker: the weight itself, or its parts."""
        yield self.published_name(name), weight

    # ---- adapters ---------------------------------------------------------------------------------------------------

    def lora_targets(self, matrices: Sequence[str], text_config: Any = None) -> tuple[list[str], list[str]]:
        """Where adapters on some matrices go.

        Args:
            matrices: names of `avrt.model.lora.LANGUAGE_MODEL_MATRICES`.
            text_config: of the language model; None to check the names only.

        Returns:
            names of modules, and of parameters that are not in a module of their own.

        Raises:
            ValueError: the family keeps a matrix together with one that is not named.
        """
        return list(matrices), []

    # ---- plans ------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def language_shape(self, config: Any) -> LanguageShape:
        """Sizes of the language model of a thinker's configuration."""

    @abc.abstractmethod
    def encoder_attention_flops(self, config: Any, patches: int) -> float:
        """FLOPs of the vision encoder's attention in the layers where it is not negligible, for one prompt."""

    def visual_rows(self, config: Any) -> int:
        """Features of a visual token: 1 + L."""
        return 1

    # ---- a tiny student ---------------------------------------------------------------------------------------------

    tiny_special_tokens: ClassVar[tuple[str, ...]]
    """Special tokens of a tiny student's tokenizer, in the order of the published ids."""

    chat_template: ClassVar[str]
    """Conversation format of a tiny student: what the published one writes, without tools."""

    @abc.abstractmethod
    def tiny_config(self, shape: TinyShape, tokenizer: Any, vocab_size: int) -> Any:
        """Configuration of a thinker with few narrow layers whose special tokens are the tokenizer's."""

    @abc.abstractmethod
    def tiny_processor(self, tokenizer: Any, chunk_seconds: int) -> Any:
        """A real processor around a tokenizer with the family's special tokens."""


def token_id(tokenizer: Any, token: str) -> int:
    """The id of a special token.

    Raises:
        ValueError: the tokenizer does not have it.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if tokenizer.convert_ids_to_tokens(found) != token:  # for an unknown one, that of another token
        raise ValueError(f"the tokenizer has no token {token!r}; it is of another family of students")
    return int(found)
