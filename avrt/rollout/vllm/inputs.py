"""Encoded prompts as vLLM takes them, and vLLM's outputs as responses.

vLLM has its own processor and encoders, and works from frames and samples. It gets the frames that the student's vision
encoder sees, in their final size, and the audio that the student's features were computed from, each as an item of its
own, with the video's true frame rate.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from avrt.model.encoding import Prompt
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.engine import Response
from avrt.sample import SAMPLING_RATE

FRAMES_PER_PATCH = 2
"""Frames that a temporal patch of the vision encoder covers."""

ANY_SIZE = {"shortest_edge": 1, "longest_edge": 1 << 30}
"""Bounds on pixels under which vLLM's processor leaves every frame as it is."""


def media_tokens_of(student: Student) -> frozenset[int]:
    """Token ids of the student's media placeholders."""
    ids = student.thinker.config
    return frozenset((ids.image_token_id, ids.video_token_id, ids.audio_token_id))


def source_of(prompt: EmbeddedPrompt) -> Prompt:
    """What was embedded.

    Raises:
        ValueError: it has not been kept.
    """
    if prompt.source is None:
        raise ValueError("vLLM samples from prompts with their media; this one has embedded features only")
    return prompt.source


def vllm_prompt(prompt: Prompt, media_tokens: Collection[int]) -> dict[str, Any]:
    """A prompt in vLLM's form, its media as tensors; `with_media` makes them what vLLM takes.

    Args:
        prompt: with one placeholder per media feature.
        media_tokens: the placeholders' token ids. vLLM expects one per clip and repeats it itself.

    Returns:
        token ids, and for each kind of media a list: images uint8 ``[3, height, width]``, videos uint8
        ``[T, 3, height, width]``, audio float32 ``[S]``.

    Raises:
        ValueError: the prompt has several videos with different frame rates, for which vLLM has no setting.
    """
    data: dict[str, list[Tensor]] = {}
    rates = set()
    for part in prompt.media:
        if part.frames is not None and part.image_grid_thw is not None:
            data.setdefault("image", []).append(part.frames[0])
        elif part.frames is not None:
            assert part.second_per_grid is not None
            data.setdefault("video", []).append(part.frames)
            rates.add(FRAMES_PER_PATCH / part.second_per_grid)
        if part.waveform is not None:
            data.setdefault("audio", []).append(part.waveform)
    request: dict[str, Any] = {"prompt_token_ids": _one_per_clip(prompt.input_ids, media_tokens)}
    if not data:
        return request
    settings: dict[str, Any] = {"size": ANY_SIZE}
    if len(rates) > 1:
        raise ValueError(
            f"sample {prompt.sample.id!r} has videos with different frame rates, and vLLM takes one rate per prompt; "
            "leave it out or use the built-in engine (model.rollout: builtin)"
        )
    if rates:
        settings |= {"fps": rates.pop(), "do_sample_frames": False}
    return request | {"multi_modal_data": data, "mm_processor_kwargs": settings}


def with_media(request: dict[str, Any]) -> dict[str, Any]:
    """A prompt of `vllm_prompt` with pictures and arrays instead of tensors."""
    forms = {
        "image": lambda frame: Image.fromarray(frame.permute(1, 2, 0).numpy()),
        "video": lambda frames: frames.permute(0, 2, 3, 1).numpy(),
        "audio": lambda waveform: (waveform.numpy(), SAMPLING_RATE),
    }
    data = request.get("multi_modal_data", {})
    media = {kind: [forms[kind](item) for item in items] for kind, items in data.items()}
    return request | ({"multi_modal_data": media} if media else {})


def _one_per_clip(token_ids: Tensor, media_tokens: Collection[int]) -> list[int]:
    """Token ids with each run of one placeholder as a single one; clips are never adjacent."""
    ids = token_ids.tolist()
    return [token for i, token in enumerate(ids) if token not in media_tokens or i == 0 or ids[i - 1] != token]


def check_prompt(prompt: Prompt, seen: list[int] | None) -> None:
    """Check that vLLM read a prompt as the student does, token by token, from what it reports after a request.

    Raises:
        ValueError: another number of media tokens, or other text.
    """
    ids = prompt.input_ids.tolist()
    if seen != ids:
        count = "none" if seen is None else len(seen)
        raise ValueError(
            f"sample {prompt.sample.id!r}: vLLM read {count} prompt tokens, and the student has {len(ids)}: their "
            "processors disagree; use the versions of docs/rollout.md"
        )


def response(output: Any, sample_id: str) -> Response:
    """One of vLLM's completions.

    Raises:
        ValueError: vLLM broke the request off.
    """
    if output.finish_reason not in ("stop", "length"):
        raise ValueError(f"sample {sample_id!r}: vLLM ended a response with {output.finish_reason!r}")
    tokens = list(output.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(tokens, output.logprobs, strict=True)]
    return Response(
        torch.tensor(tokens), torch.tensor(logprobs, dtype=torch.float32), finished=output.finish_reason == "stop"
    )
