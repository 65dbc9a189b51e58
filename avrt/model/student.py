"""The student: Qwen2.5-Omni's thinker with frozen encoders.

Only the thinker is loaded (no talker, no speaker file). Vision and audio encoder, their projections into the language
model included, are frozen; the language model is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from avrt.config.remote_code import check_no_remote_code
from avrt.model.encoders import audio_features, visual_features
from avrt.model.encoding import Prompt, PromptEncoder
from avrt.model.float32_default import float32_default
from avrt.model.published_format import END_TOKENS, write_published_format
from avrt.model.shared_prompt import ATTENTION_NAME, AttentionKernel
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel
from avrt.text.prompts import AnswerFormat, PromptTemplate

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

MEDIA_TOKENS = (
    "<|AUDIO|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
)
"""Tokens that stand for media. A response can never contain one: a sampled placeholder has no feature to show."""


@dataclass
class StudentConfig:
    """Which student to train, and how it reads its prompts.

    Attributes:
        path: hub id (``Qwen/Qwen2.5-Omni-7B``) or local folder.
        revision: commit of the hub repository, for a run that can be repeated.
        dtype: float32, bfloat16 or float64.
        min_pixels, max_pixels: bounds on the pixels of each frame as the vision encoder sees it; one token covers
            28 x 28 pixels of two frames.
        max_prompt_tokens: prompts longer than this are refused.
        template: wording of the prompt.
        answer_format: ``tags`` (reason, then answer, in tags) or ``letter`` (the bare letter).
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping its activations.
        encoder_batch_tokens: media tokens that a frozen encoder works on at one time; prompts go through it together
            up to this bound, and a longer one alone. 1 is one prompt at a time (nothing but time and memory changes).
        attention_kernel: what computes the attention of prompts and responses in one row: ``sdpa`` (any device) or
            ``flex``, which spares GPUs a copy of the prompt's keys per response, compiles when first used, and trains
            on GPUs only. It has not been run on one yet.
    """

    path: str = "Qwen/Qwen2.5-Omni-7B"
    revision: str | None = None
    dtype: str = "bfloat16"
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    max_prompt_tokens: int | None = None
    template: PromptTemplate = field(default_factory=PromptTemplate)
    answer_format: AnswerFormat = "tags"
    gradient_checkpointing: bool = False
    encoder_batch_tokens: int = 4096
    attention_kernel: AttentionKernel = "sdpa"

    def __post_init__(self) -> None:
        if self.encoder_batch_tokens < 1:
            raise ValueError(
                f"model.init_args.student.encoder_batch_tokens must be positive, is {self.encoder_batch_tokens}"
            )
        if self.attention_kernel not in get_args(AttentionKernel):
            raise ValueError(
                f"model.init_args.student.attention_kernel must be sdpa or flex, is {self.attention_kernel!r}"
            )
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"model.init_args.student.min_pixels ({self.min_pixels}) must be positive and at most max_pixels "
                f"({self.max_pixels})"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"model.init_args.student.dtype must be one of {', '.join(DTYPES)}, is {self.dtype!r}")


class Student(nn.Module):
    """A thinker with frozen encoders and shared-prompt attention, and its processor.

    Args:
        thinker: `Qwen2_5OmniThinkerForConditionalGeneration`.
        processor: its `Qwen2_5OmniProcessor`.
        config: how prompts are read.
    """

    def __init__(self, thinker: Any, processor: Any, config: StudentConfig) -> None:
        super().__init__()
        self.thinker = thinker
        self.processor = processor
        self.config = config
        freeze_encoders(thinker)
        thinker.model.language_model.set_attn_implementation(ATTENTION_NAME)
        if config.gradient_checkpointing:
            thinker.model.language_model.activation_checkpointing_enable({"use_reentrant": False})
            # transformers loads models in evaluation mode, where it checkpoints nothing, and Lightning keeps a module's
            # mode. The text model has no dropout, so this is all that the mode changes.
            thinker.model.language_model.train()
        self.encoder_runs = 0
        """Prompts whose media went through the encoders so far; one per prompt and rollout window."""

    @classmethod
    def load(cls, config: StudentConfig) -> Student:
        """Load from a hub id or local folder.

        Code that the folder brings along is never run, and attention is always torch's own, whatever the folder says.

        Raises:
            ValueError: nothing of that name can be loaded; names the key and says how to fix it.
        """
        source = _source(config.path)
        where: dict[str, Any] = {"revision": config.revision or "main", "trust_remote_code": False}
        thinker_class: Any = Qwen2_5OmniThinkerForConditionalGeneration
        try:
            if Path(source).is_dir():
                check_no_remote_code(Path(source))
            processor = Qwen2_5OmniProcessor.from_pretrained(source, **where)
            thinker, info = thinker_class.from_pretrained(
                source,
                **where,
                dtype=DTYPES[config.dtype],
                attn_implementation="sdpa",
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            processor.apply_chat_template([{"role": "user", "content": "?"}], add_generation_prompt=True)
        except (OSError, ValueError, SafetensorError, TemplateError) as error:
            raise ValueError(
                f"model.init_args.student.path: cannot load {config.path!r}: it must be a hub id such as "
                f"Qwen/Qwen2.5-Omni-7B or a folder with a saved student ({_first_line(error)})"
            ) from error
        missing = sorted(info["missing_keys"])
        if missing:  # transformers has filled them with random numbers
            raise ValueError(
                f"model.init_args.student.path: {config.path!r} lacks {len(missing)} of the thinker's weights, for "
                f"example {missing[0]!r}; it is incomplete, download or save it again"
            )
        if info["mismatched_keys"]:
            name, found, expected = sorted(info["mismatched_keys"])[0]
            raise ValueError(
                f"model.init_args.student.path: {config.path!r}: the weight {name!r} has shape {tuple(found)}, and "
                f"config.json says {tuple(expected)}; weights and config.json are of different models"
            )
        return cls(thinker, processor, config)

    @property
    def language_model(self) -> LanguageModel:
        """The trained part: text model and head."""
        return LanguageModel(self.thinker.model.language_model, self.thinker.lm_head, self.config.attention_kernel)

    @property
    def encoder(self) -> PromptEncoder:
        """What turns samples into prompts for this student."""
        c = self.config
        return PromptEncoder(
            self.processor, c.template, c.answer_format, c.min_pixels, c.max_pixels, c.max_prompt_tokens
        )

    @property
    def device(self) -> torch.device:
        return self.thinker.lm_head.weight.device

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return tuple(self.processor.tokenizer.convert_tokens_to_ids(list(END_TOKENS)))

    @property
    def banned_tokens(self) -> Tensor:
        """bool ``[V]``: media tokens, and the rows of the vocabulary that no token has."""
        tokenizer = self.processor.tokenizer
        banned = torch.zeros(self.thinker.lm_head.out_features, dtype=torch.bool)
        banned[tokenizer.convert_tokens_to_ids(list(MEDIA_TOKENS))] = True
        banned[len(tokenizer) :] = True
        return banned.to(self.device)

    def reference(self) -> LanguageModel:
        """A frozen copy of the language model alone; the encoders are frozen and shared."""
        policy = self.language_model
        text_model = copy.deepcopy(policy.text_model).eval().requires_grad_(False)
        head = copy.deepcopy(policy.head).requires_grad_(False)
        if policy.head_weight is policy.text_model.get_input_embeddings().weight:
            head.weight = text_model.get_input_embeddings().weight
        return LanguageModel(text_model, head, policy.kernel)

    @torch.no_grad()
    @float32_default()
    def embed(self, prompts: Sequence[Prompt]) -> list[EmbeddedPrompt]:
        """Run the frozen encoders once per prompt and place every token in time and space."""
        model, limit = self.thinker.model, self.config.encoder_batch_tokens
        pictures = visual_features(model, self.processor, prompts, limit)
        sounds = audio_features(model, prompts, limit)
        self.encoder_runs += len(pictures.keys() | sounds.keys())
        return [self._place(p, pictures.get(i), sounds.get(i)) for i, p in enumerate(prompts)]

    def _place(self, prompt: Prompt, pictures: Tensor | None, sounds: Tensor | None) -> EmbeddedPrompt:
        """A prompt and its media features, each at its placeholder."""
        config = self.thinker.config
        picture_token = config.video_token_id if prompt.image_grid_thw is None else config.image_token_id
        # Found on the host: on a GPU, `nonzero` would wait for all that the encoders still have to do.
        places, features = [], []
        for token, what in ((picture_token, pictures), (config.audio_token_id, sounds)):
            if what is None:
                continue
            where = (prompt.input_ids == token).nonzero().squeeze(1)
            if len(where) != len(what):
                raise ValueError(
                    f"sample {prompt.sample.id!r}: {len(where)} media placeholders for {len(what)} media features"
                )
            places.append(where)
            features.append(what)
        device = self.device
        no_features = torch.empty(0, self.thinker.lm_head.in_features, device=device)
        return EmbeddedPrompt(
            input_ids=prompt.input_ids.to(device),
            position_ids=self.position_ids(prompt).to(device),
            media_positions=torch.cat(places).to(device) if places else torch.empty(0, dtype=torch.long, device=device),
            media_features=torch.cat(features) if features else no_features,
        )

    @float32_default()
    def position_ids(self, prompt: Prompt) -> Tensor:
        """Temporal, height and width position of every prompt token (TMRoPE), ``[3, P]``; times are float32 always.

        The one place where positions come from: rollout, training, reference and evaluation all read them here.
        """
        ids = prompt.input_ids[None].cpu()
        spacing = prompt.second_per_grid
        seconds = None if spacing is None else torch.tensor([spacing], dtype=torch.float32)
        mel_frames = None if prompt.input_features is None else torch.tensor([prompt.input_features.shape[1]])
        positions, _ = self.thinker.model.get_rope_index(
            ids,
            image_grid_thw=prompt.image_grid_thw,
            video_grid_thw=prompt.video_grid_thw,
            attention_mask=torch.ones_like(ids),
            audio_seqlens=mel_frames,
            second_per_grids=seconds,
        )
        return positions[:, 0]

    def decode(self, token_ids: Tensor | Sequence[int]) -> str:
        """Text of a response without special tokens."""
        return self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Write a folder in the published layout, see `avrt.model.published_format.write_published_format`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_published_format(self.thinker, self.processor, folder)


def freeze_encoders(thinker: nn.Module) -> None:
    """Freeze vision and audio encoder; everything else stays trainable."""
    for encoder in (thinker.model.visual, thinker.model.audio_tower):  # type: ignore[union-attr]
        encoder.requires_grad_(False)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trainable, frozen) parameters, each tensor once."""
    trainable = frozen = 0
    for parameter in module.parameters():
        if parameter.requires_grad:
            trainable += parameter.numel()
        else:
            frozen += parameter.numel()
    return trainable, frozen


def _source(path: str) -> str:
    """A path that exists, or a hub id; anything that looks like a path but is missing is an error of its own."""
    if Path(path).is_dir():
        return path
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ValueError(
            f"model.init_args.student.path: {path!r} is neither a folder that exists nor a hub id of the form "
            "owner/name (for example Qwen/Qwen2.5-Omni-3B)"
        )
    return path


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
