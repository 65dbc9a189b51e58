"""The frozen encoders, run on the media of several prompts together.

The media of one prompt are little work, and most of the time of a call is overhead. Both encoders take many clips in
one call without attention between them: vision attends within a frame or a window of it, audio within some seconds.
The features of a clip therefore do not depend on the other clips, up to the rounding of matrix products of another
size.

Shape letters: H hidden size of the language model, F mel frames, L layers that read visual features again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from avrt.families.family import StudentFamily
from avrt.model.encoding import Prompt
from avrt.model.float32_default import float32_default

T = TypeVar("T")


def normalized_patches(processor: Any, prompt: Prompt, device: torch.device | str = "cpu") -> Tensor:
    """A prompt's patches as the vision encoder reads them, float32 ``[patches, patch values]`` on `device`.

    The processor's own functions compute them, so the result is bit-identical to the processor's.
    """
    is_image = prompt.image_grid_thw is not None
    media = processor.image_processor if is_image else processor.video_processor
    frames = _present(prompt.frames).to(device)
    with float32_default():
        normalized = media.rescale_and_normalize(
            frames, media.do_rescale, media.rescale_factor, media.do_normalize, media.image_mean, media.image_std
        )
    batch = normalized if is_image else normalized[None]
    patches, *_ = media.patchify(
        batch,
        patch_size=media.patch_size,
        merge_size=media.merge_size,
        temporal_patch_size=media.temporal_patch_size,
    )
    return patches[0]


def visual_features(
    family: StudentFamily, model: Any, processor: Any, prompts: Sequence[Prompt], max_tokens: int
) -> dict[int, Tensor]:
    """Features of every prompt's image or video, ``[1 + L, tokens, H]``, by the prompt's index in `prompts`.

    Args:
        family: of the student; says what the rows are, see `StudentFamily.visual_features`.
        model: the thinker without its head.
        processor: its processor.
        prompts: those without image or video are skipped.
        max_tokens: most tokens in one call of the encoder; a prompt with more has its own call.
    """
    merged = model.visual.spatial_merge_unit
    device = model.visual.device
    grids = {i: grid for i, p in enumerate(prompts) if (grid := _grid(p)) is not None}
    tokens = {i: int(grid.prod()) // merged for i, grid in grids.items()}

    def run(batch: list[int]) -> tuple[Tensor, ...]:
        pixels = torch.cat([normalized_patches(processor, prompts[i], device) for i in batch])
        grid = torch.cat([grids[i] for i in batch]).to(device)
        return family.visual_features(model, pixels, grid)

    return _in_batches(tokens, max_tokens, run)


def audio_features(family: StudentFamily, model: Any, prompts: Sequence[Prompt], max_tokens: int) -> dict[int, Tensor]:
    """Features of every clip's audio, ``[tokens, H]``, by the clip's place among the media of all prompts.

    The audio of a prompt is encoded in one call, as by the published model.

    Args:
        family, model, max_tokens: as for `visual_features`.
        prompts: with all their clips.
    """
    device = model.audio_tower.device
    heard: dict[int, dict[int, Tensor]] = {}  # by prompt and place
    place = 0
    for number, prompt in enumerate(prompts):
        for part in prompt.media:
            if part.input_features is not None:
                heard.setdefault(number, {})[place] = part.input_features
            place += 1

    def run(batch: list[int]) -> tuple[dict[int, Tensor], ...]:
        clips = [mel for number in batch for mel in heard[number].values()]
        lengths = torch.tensor([mel.shape[1] for mel in clips], device=device)
        features = iter(family.audio_features(model, torch.cat(clips, dim=1).to(device), lengths))
        return tuple({at: next(features) for at in heard[number]} for number in batch)

    found: dict[int, Tensor] = {}
    longest = {number: max(mel.shape[1] for mel in clips.values()) for number, clips in heard.items()}
    for kind in sorted({family.audio_batch(frames) for frames in longest.values()}):
        tokens = {
            number: sum(family.audio_tokens(mel.shape[1]) for mel in heard[number].values())
            for number, frames in longest.items()
            if family.audio_batch(frames) == kind
        }
        for of_prompt in _in_batches(tokens, max_tokens, run).values():
            found |= of_prompt
    return found


def _in_batches(tokens: dict[int, int], limit: int, run: Callable[[list[int]], tuple[T, ...]]) -> dict[int, T]:
    """`run` over consecutive items of at most `limit` tokens together."""
    batches: list[list[int]] = []
    held = 0
    for i, count in tokens.items():
        if batches and held + count <= limit:
            batches[-1].append(i)
            held += count
        else:
            batches.append([i])
            held = count
    return {i: features for batch in batches for i, features in zip(batch, run(batch), strict=True)}


def _grid(prompt: Prompt) -> Tensor | None:
    return prompt.image_grid_thw if prompt.image_grid_thw is not None else prompt.video_grid_thw


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
