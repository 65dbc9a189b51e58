"""A tiny student, random clips in every combination of streams, and transformers' own forward pass for comparison.

The reference never goes through the project's attention, packing or embedding: it is a second model, loaded by plain
transformers from the same folder and run on the processor's tensors with an attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.families import qwen3_omni_moe
from avrt.families.family import StudentFamily
from avrt.families.registry import FAMILIES, family_of_path
from avrt.model.encoding import Prompt
from avrt.model.student import Student, StudentConfig
from avrt.model.tiny import TinyShape, save_tiny_student
from avrt.sample import SAMPLING_RATE, Clip, Sample
from avrt.text.prompts import PromptTemplate

SHAPE = TinyShape(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vision_width=32,
    audio_width=32,
)
SIZES = {
    "middle": TinyShape(hidden_size=128, intermediate_size=384, num_hidden_layers=4),
    "deep": TinyShape(hidden_size=128, intermediate_size=384, num_hidden_layers=10),
    "wide": TinyShape(hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8),
}
"""Students of 1.2, 2.4 and 6.2 million parameters, to compare plans with. Smaller ones are mostly the audio encoder's
table of positions, which plans leave out (0.4 MB here, 8 MB in the published students)."""

TINY = PromptTemplate(system="", tags_instruction="", letter_instruction="")
"""Question and options only, as in the tiny presets."""

PIXELS = 56 * 56
"""Pixels of a frame; at 3:4, two frames become two tokens."""

EXPERTS = qwen3_omni_moe.FAMILY
"""The family whose language model is a mixture of experts."""

KINDS = ("audio_video", "video", "audio", "image_audio")

TRACES = ("<think>I see red. I hear a bell.</think>\n<answer>B</answer>", "<think>Quiet.</think>\n<answer>A</answer>")
CORPUS = (
    "system\nYou are a helpful assistant.\nuser\nassistant\n",
    "Which thing is seen and heard?\nA. red bell\nB. blue hum\nC. green whistle\nD. grey horn\n",
    *TRACES,
)


def save_student(folder: Path, shape: TinyShape = SHAPE, family: StudentFamily = FAMILIES[0]) -> Path:
    """Write the tiny student that all tests share, or one of another shape or family."""
    tokenizer = build_tiny_tokenizer(CORPUS * 4, vocab_size=320, family=family)
    save_tiny_student(folder, tokenizer, shape, seed=1, family=family)
    return folder


def student_config(folder: Path, **changes: Any) -> StudentConfig:
    settings: dict[str, Any] = {
        "path": str(folder),
        "dtype": "float32",
        "min_pixels": PIXELS,
        "max_pixels": PIXELS,
        "template": TINY,
    }
    return StudentConfig(**settings | changes)


def load_student(folder: Path, **changes: Any) -> Student:
    return Student.load(student_config(folder, **changes))


def load_plain(folder: Path, dtype: torch.dtype, experts: str | None = "eager") -> Any:
    """The same weights as plain transformers loads and runs them (its own scaled-dot-product attention).

    Args:
        experts: how experts are computed; one by one, which takes float64 too, or None for the library's default.
    """
    thinker_class = family_of_path(str(folder)).thinker_class
    model = thinker_class.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", experts_implementation=experts
    )
    return model.eval()


def widen_norms(text_model: Any) -> None:
    """Make norm layers and routers compute in the model's own precision.

    transformers' compute in float32 even in a float64 model, which rounds gradients: then two correct ways to add
    them up agree to 1e-7 only, and a mistake of that size could hide.
    """
    for module in list(text_model.modules()):
        for name, child in module.named_children():
            if child.__class__.__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=child.weight.dtype)
                norm.weight = child.weight
                setattr(module, name, norm)
            elif child.__class__.__name__.endswith("TopKRouter"):
                setattr(module, name, WideRouter(child))


class WideRouter(torch.nn.Module):
    """transformers' router with a softmax in the model's own precision."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.weight = router.weight
        self.top_k = router.top_k

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = hidden.reshape(-1, hidden.shape[-1]) @ self.weight.T
        weights, chosen = logits.softmax(-1).topk(self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), chosen


def random_clip(
    kind: str,
    seed: int,
    frames: int = 8,
    seconds: float = 10.0,
    audio_seconds: float = 1.0,
    height: int = 60,
    width: int = 80,
) -> Clip:
    """Noise with the streams of `kind`: ``video``, ``audio``, ``image`` or two of them joined by ``_``.

    `frames` are spread over `seconds`; the audio is shorter, to keep prompts small.
    """
    generator = torch.Generator().manual_seed(seed)
    images, fps, timestamps = None, None, ()
    if "image" in kind:
        images = torch.randint(0, 256, (1, 3, height, width), generator=generator).to(torch.uint8)
        timestamps = (0.0,)
    elif "video" in kind:
        images = torch.randint(0, 256, (frames, 3, height, width), generator=generator).to(torch.uint8)
        fps = frames / seconds
        timestamps = tuple(i / fps for i in range(frames))
    waveform = torch.randn(int(audio_seconds * SAMPLING_RATE), generator=generator) * 0.1 if "audio" in kind else None
    return Clip(images, timestamps, fps, waveform, seconds, width, height, is_image="image" in kind)


def make_sample(kind: str = "audio_video", number: int = 0, **clip: Any) -> Sample:
    return Sample(
        id=f"{kind}-{number}",
        question="Which thing is seen and heard?",
        options=("red bell", "blue hum", "green whistle", "grey horn")[: 2 + number % 3],
        answer=number % 2,
        source=f"clip-{number}",
        clip=random_clip(kind, seed=number, **clip),
        trace=TRACES[number % 2],
    )


def mixed_samples() -> list[Sample]:
    """One sample of every combination of streams, with prompts of different length."""
    return [make_sample(kind, i, audio_seconds=0.5 + 0.25 * i) for i, kind in enumerate(KINDS)]


def random_responses(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[Tensor]:
    """Responses of ordinary tokens (byte-level letters and merges, no special tokens)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab_size - 20, (length,), generator=generator) for length in lengths]


def plain_inputs(student: Student, prompt: Prompt, response: Tensor | None = None, rows: int = 1) -> dict[str, Tensor]:
    """Arguments of transformers' own forward or `generate` for one prompt, with or without a response.

    Made by the processor itself with its full padding of the audio, not from the project's encoder.
    """
    sample, clip, processor, config = prompt.sample, prompt.sample.clip, student.processor, student.config
    assert clip is not None
    kinds = [kind for kind in ("image", "video", "audio") if kind in sample.id.rsplit("-", 1)[0]]
    parts: list[dict[str, str]] = [{"type": kind} for kind in sorted(kinds, key=lambda kind: kind == "audio")]
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", sample.options, strict=False))
    parts.append({"type": "text", "text": f"{sample.question}\n{options}"})
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    size = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    arguments: dict[str, Any] = {}
    if "image" in kinds:
        assert clip.frames is not None
        arguments |= {"images": [clip.frames[0]], "images_kwargs": {"size": size}}
    if "video" in kinds:
        arguments["videos"] = [clip.frames]
        arguments["videos_kwargs"] = {"do_sample_frames": False, "fps": clip.fps, "size": size}
    if "audio" in kinds:
        assert clip.waveform is not None
        arguments |= {"audio": [clip.waveform.numpy()], "audio_kwargs": {"sampling_rate": SAMPLING_RATE}}
    inputs = dict(processor(text=text, return_tensors="pt", **arguments))
    if response is not None:
        inputs["input_ids"] = torch.cat([inputs["input_ids"], response[None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if rows > 1:
        inputs = {key: value.repeat(rows, *(1,) * (value.ndim - 1)) for key, value in inputs.items()}
    return inputs


def plain_logits(model: Any, student: Student, prompt: Prompt, response: Tensor) -> Tensor:
    """Logits ``[C, V]`` that predict a response, from transformers' own full forward; carries the gradient."""
    inputs = plain_inputs(student, prompt, response)
    inputs = {key: value.to(model.dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    if "video_second_per_grid" in inputs:
        inputs["video_second_per_grid"] = inputs["video_second_per_grid"].float()
    logits = model(**inputs, use_cache=False).logits[0]
    return logits[-len(response) - 1 : -1]
