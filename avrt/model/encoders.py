"""The frozen encoders, run on the media of several prompts together.

The media of one prompt are little work, and most of the time of a call is overhead. Both encoders take many clips in
one call without attention between them: vision attends within a frame or a window of it, audio within two seconds. The
features of a clip therefore do not depend on the other clips, up to the rounding of matrix products of another size.

Shape letters: H hidden size of the language model, F mel frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.media.geometry import MEL_FRAMES_PER_TOKEN
from avrt.model.encoding import Prompt
from avrt.model.float32_default import float32_default


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


def visual_features(model: Any, processor: Any, prompts: Sequence[Prompt], max_tokens: int) -> dict[int, Tensor]:
    """Features of every prompt's image or video, ``[tokens, H]``, by the prompt's index in `prompts`.

    Args:
        model: `Qwen2_5OmniThinkerModel`.
        processor: its `Qwen2_5OmniProcessor`.
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
        # Images and videos differ only in their placeholders; the encoder reads both by their grid.
        return model.get_video_features(pixels, grid).pooler_output

    return _in_batches(tokens, max_tokens, run)


def audio_features(model: Any, prompts: Sequence[Prompt], max_tokens: int) -> dict[int, Tensor]:
    """Features of every prompt's audio, ``[tokens, H]``; arguments as for `visual_features`."""
    tower = model.audio_tower
    frames = {i: p.input_features.shape[1] for i, p in enumerate(prompts) if p.input_features is not None}

    def run(batch: list[int]) -> tuple[Tensor, ...]:
        mel = torch.cat([_present(prompts[i].input_features) for i in batch], dim=1).to(tower.device)
        lengths = torch.tensor([frames[i] for i in batch], device=tower.device)
        after_convolution, tokens = tower._get_feat_extract_output_lengths(lengths)
        features = tower(mel, feature_lens=lengths, aftercnn_lens=after_convolution).last_hidden_state
        return features.split(tokens.tolist())

    return _in_batches({i: -(-f // MEL_FRAMES_PER_TOKEN) for i, f in frames.items()}, max_tokens, run)


def _in_batches(
    tokens: dict[int, int], limit: int, run: Callable[[list[int]], tuple[Tensor, ...]]
) -> dict[int, Tensor]:
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
