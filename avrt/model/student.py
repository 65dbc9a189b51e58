"""The student: an omni model's thinker with frozen encoders.

Only the thinker is loaded (no talker, no speaker file). The vision and audio encoders, including their projections into
the language model, are frozen; the language model is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from torch import Tensor, nn

from avrt.families.registry import family_of_config
from avrt.media.defaults import MAX_FRAME_PIXELS, MIN_FRAME_PIXELS
from avrt.model.banned_tokens import find_banned_tokens
from avrt.model.encoder_attention import batch_encoder_windows
from avrt.model.encoders import audio_features, visual_features
from avrt.model.encoding import Prompt, PromptEncoder
from avrt.model.float32_default import float32_default
from avrt.model.loading import load_pretrained
from avrt.model.media_placement import place_media
from avrt.model.published_format import write_published_format
from avrt.model.shared_prompt import ATTENTION_NAME, AttentionKernel
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel
from avrt.text.prompts import AnswerFormat, PromptTemplate

OLDEST_TRANSFORMERS = "5.21"
"""The first version whose thinker keeps its encoders in ``thinker.model``."""

Dtype = Literal["float32", "bfloat16", "float64"]
DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


@dataclass
class StudentConfig:
    """Which student to train, and how it encodes its prompts.

    Attributes:
        path: hub id (``Qwen/Qwen2.5-Omni-7B``) or local folder.
        revision: commit of the hub repository, for a run that can be repeated.
        dtype: float32, bfloat16 or float64.
        min_pixels, max_pixels: bounds on the pixels of each frame as the vision encoder sees it; one token covers
            28 x 28 or 32 x 32 pixels of two frames, see docs/students.md.
        max_prompt_tokens: longer prompts are refused.
        template: wording of the prompt.
        answer_format: ``tags`` (reason, then answer, in tags) or ``letter`` (the bare letter).
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping its activations.
        encoder_batch_tokens: most media tokens in one call of a frozen encoder; several prompts share a call up to this
            bound, and a prompt with more tokens has its own. It changes time and memory only.
        attention_kernel: implementation of the attention of prompts and responses in one row: ``sdpa`` (any device) or
            ``flex``, which saves GPUs a copy of the prompt's keys per response, compiles when first used, and trains
            on GPUs only. It has not been run on a GPU yet.
    """

    path: str = "Qwen/Qwen2.5-Omni-7B"
    revision: str | None = None
    dtype: Dtype = "bfloat16"
    min_pixels: int = MIN_FRAME_PIXELS
    max_pixels: int = MAX_FRAME_PIXELS
    max_prompt_tokens: int | None = None
    template: PromptTemplate = field(default_factory=PromptTemplate)
    answer_format: AnswerFormat = "tags"
    gradient_checkpointing: bool = False
    encoder_batch_tokens: int = 4096
    attention_kernel: AttentionKernel = "sdpa"

    def __post_init__(self) -> None:
        if self.encoder_batch_tokens < 1:
            raise ValueError(f"encoder_batch_tokens must be positive, got {self.encoder_batch_tokens}")
        if self.attention_kernel not in get_args(AttentionKernel):
            raise ValueError(f"attention_kernel must be sdpa or flex, got {self.attention_kernel!r}")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels ({self.min_pixels}) must be positive and at most max_pixels ({self.max_pixels})"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")


class Student(nn.Module):
    """A thinker with frozen encoders and shared-prompt attention, and its processor.

    Args:
        thinker: of one of the families of `avrt.families.registry`.
        processor: its processor.
        config: how prompts are read.

    Raises:
        ValueError: transformers is too old.
    """

    def __init__(self, thinker: Any, processor: Any, config: StudentConfig) -> None:
        super().__init__()
        _check_transformers(thinker)
        self.family = family_of_config(thinker.config)
        self.thinker = thinker
        self.processor = processor
        self.config = config
        self.family.prepare(thinker)
        freeze_encoders(thinker)
        batch_encoder_windows(thinker)
        text_model = thinker.model.language_model
        text_model.set_attn_implementation(ATTENTION_NAME)
        if config.gradient_checkpointing:
            text_model.activation_checkpointing_enable({"use_reentrant": False})
            # transformers loads models in evaluation mode, where it checkpoints nothing, and Lightning keeps a module's
            # mode. The text model has no dropout, so this is all that the mode changes.
            text_model.train()
        self.language_model = LanguageModel(text_model, thinker.lm_head, config.attention_kernel)
        """The trained part: text model and head."""
        self.encoder_runs = 0
        """Prompts whose media went through the encoders so far; one per prompt and rollout window."""
        self._banned_tokens: Tensor | None = None

    @classmethod
    def load(cls, config: StudentConfig) -> Student:
        """Load from a hub id or local folder.

        Raises:
            ValueError: nothing of that name can be loaded; see `avrt.model.loading.load_pretrained`.
        """
        return cls(*load_pretrained(config.path, config.revision, DTYPES[config.dtype]), config)

    @cached_property
    def encoder(self) -> PromptEncoder:
        """The encoder of samples to prompts for this student."""
        c = self.config
        return PromptEncoder(
            self.processor, c.template, c.answer_format, c.min_pixels, c.max_pixels, c.max_prompt_tokens
        )

    @property
    def device(self) -> torch.device:
        return self.thinker.lm_head.weight.device

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        return tuple(self.processor.tokenizer.convert_tokens_to_ids(list(self.family.end_tokens)))

    @property
    def banned_tokens(self) -> Tensor:
        """bool ``[V]``: media tokens, and the rows of the vocabulary that have no token.

        Computed once, and copied once to each device that the weights are moved to.
        """
        if self._banned_tokens is None or self._banned_tokens.device != self.device:
            # Training reads it too, where a tensor made in inference mode would be refused.
            with torch.inference_mode(False):
                self._banned_tokens = find_banned_tokens(
                    self.family, self.processor.tokenizer, self.thinker.lm_head.out_features
                ).to(self.device)
        return self._banned_tokens

    def copy_language_model(self, device: torch.device | None = None) -> LanguageModel:
        """A frozen deep copy of the language model, for use as the reference policy.

        It needs as much memory again as the language model's weights, on its device only. The encoders are frozen and
        not copied.

        Args:
            device: of the copy; None for the language model's own.
        """
        policy = self.language_model
        copies: dict[int, Any] = {}  # a tied head stays tied
        for module in (policy.text_model, policy.head):
            for weight in module.parameters():
                if id(weight) not in copies:
                    copied = weight.detach().to(device or weight.device, copy=True)
                    copies[id(weight)] = nn.Parameter(copied, requires_grad=False)
            for buffer in module.buffers():
                copies.setdefault(id(buffer), buffer.detach().to(device or buffer.device, copy=True))
        text_model = copy.deepcopy(policy.text_model, copies).eval()
        return LanguageModel(text_model, copy.deepcopy(policy.head, copies), policy.kernel)

    @torch.no_grad()
    @float32_default()
    def embed(self, prompts: Sequence[Prompt]) -> list[EmbeddedPrompt]:
        """Run the frozen encoders once per prompt, and compute the position ids of every prompt token."""
        model, limit = self.thinker.model, self.config.encoder_batch_tokens
        media = [part for prompt in prompts for part in prompt.media]
        visual = visual_features(self.family, model, self.processor, media, limit)
        audio = audio_features(self.family, model, prompts, limit)
        empty = torch.empty(0, self.thinker.lm_head.in_features, device=self.device)
        embedded, begin = [], 0
        for prompt in prompts:
            parts = range(begin, begin := begin + len(prompt.media))
            self.encoder_runs += any(part in visual or part in audio for part in parts)
            seen, heard = ([found.get(part) for part in parts] for found in (visual, audio))
            positions = self.position_ids(prompt)
            embedded.append(place_media(prompt, self.thinker.config, positions, seen, heard, empty))
        return embedded

    @float32_default()
    def position_ids(self, prompt: Prompt) -> Tensor:
        """Temporal, height and width position of every prompt token (TMRoPE), ``[3, P]``; times are float32 always.

        Rollout, training, reference and evaluation all take their positions from here.
        """
        ids = prompt.input_ids[None].cpu()
        media = prompt.media
        images = [part.image_grid_thw for part in media if part.image_grid_thw is not None]
        videos = [part.video_grid_thw for part in media if part.video_grid_thw is not None]
        spacing = [part.second_per_grid for part in media if part.second_per_grid is not None]
        mel_frames = [part.input_features.shape[1] for part in media if part.input_features is not None]
        positions, _ = self.thinker.model.get_rope_index(
            ids,
            image_grid_thw=torch.cat(images) if images else None,
            video_grid_thw=torch.cat(videos) if videos else None,
            attention_mask=torch.ones_like(ids),
            audio_seqlens=torch.tensor(mel_frames) if mel_frames else None,
            second_per_grids=torch.tensor(spacing, dtype=torch.float32) if spacing else None,
        )
        return positions[:, 0]

    def decode(self, token_ids: Tensor | Sequence[int]) -> str:
        """Text of tokens without special tokens."""
        return self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)

    def response_text(self, token_ids: Tensor | Sequence[int]) -> str:
        """Text of a response, with the beginning that the chat template has written in the prompt."""
        return self.encoder.opening + self.decode(token_ids)

    def save(self, folder: str | Path) -> None:
        """Write a folder in the published layout, see `avrt.model.published_format.write_published_format`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_published_format(self.thinker, self.processor, folder)


def _check_transformers(thinker: Any) -> None:
    """Refuse versions whose thinker has another layout, with their number instead of a missing attribute's name."""
    if not hasattr(thinker.model, "language_model"):
        raise ValueError(
            f"transformers {transformers.__version__} is too old: a student needs {OLDEST_TRANSFORMERS} or later; "
            "install the version that pyproject.toml names"
        )


def freeze_encoders(thinker: nn.Module) -> None:
    """Freeze the vision and audio encoders; everything else stays trainable."""
    for encoder in (thinker.model.visual, thinker.model.audio_tower):  # type: ignore[union-attr]
        encoder.requires_grad_(False)
