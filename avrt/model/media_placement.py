"""Media features at the placeholders of a prompt.

Shape letters: P prompt tokens, M media tokens, U visual ones among them, H hidden size, L layers that read visual
features again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.model.encoding import Prompt
from avrt.model.token_logprobs import EmbeddedPrompt


def place_media(
    prompt: Prompt,
    config: Any,
    position_ids: Tensor,
    visual: Sequence[Tensor | None],
    audio: Sequence[Tensor | None],
    empty: Tensor,
) -> EmbeddedPrompt:
    """A prompt with the features of each clip, each at its placeholder, on the device of `empty`.

    Args:
        config: of the thinker; names the placeholders.
        position_ids: ``[3, P]``.
        visual: features ``[1 + L, tokens, H]`` of each clip's image or video, see `StudentFamily.visual_features`.
        audio: features ``[tokens, H]`` of each clip's audio.
        empty: no features, ``[0, H]``.

    Raises:
        ValueError: the prompt has another number of placeholders than there are features.
    """
    visual_by_token: dict[int, list[Tensor]] = {}
    for part, seen in zip(prompt.media, visual, strict=True):
        if seen is not None:
            token = config.video_token_id if part.image_grid_thw is None else config.image_token_id
            visual_by_token.setdefault(token, []).append(seen)
    seen_at, seen_features = _placed(prompt, visual_by_token, dim=1)
    heard = [features for features in audio if features is not None]
    heard_at, heard_features = _placed(prompt, {config.audio_token_id: heard} if heard else {}, dim=0)
    device = empty.device
    # A copy: a part would keep all features alive beside those in `media_features`.
    layers = seen_features[1:].clone() if seen_features is not None and len(seen_features) > 1 else None
    features = [f for f in (None if seen_features is None else seen_features[0], heard_features) if f is not None]
    return EmbeddedPrompt(
        input_ids=prompt.input_ids.to(device),
        position_ids=position_ids.to(device),
        media_positions=torch.cat([seen_at, heard_at]).to(device),
        media_features=torch.cat(features) if features else empty,
        source=prompt,
        visual_positions=None if layers is None else seen_at.to(device),
        visual_layers=layers,
    )


def _placed(prompt: Prompt, by_token: dict[int, list[Tensor]], dim: int) -> tuple[Tensor, Tensor | None]:
    """Positions of some placeholders, ascending, and their features in that order along `dim`."""
    # Found on the host: on a GPU, `nonzero` would wait for all that the encoders still have to do.
    places, features = [torch.empty(0, dtype=torch.long)], []
    for token, of_clips in by_token.items():
        found = of_clips[0] if len(of_clips) == 1 else torch.cat(of_clips, dim)
        where = (prompt.input_ids == token).nonzero().squeeze(1)
        if len(where) != found.shape[dim]:
            raise ValueError(
                f"sample {prompt.sample.id!r}: {len(where)} media placeholders for {found.shape[dim]} media features"
            )
        places.append(where)
        features.append(found)
    positions = torch.cat(places)
    if len(features) < 2:  # the placeholders of one kind are in order
        return positions, features[0] if features else None
    positions, order = positions.sort()
    return positions, torch.cat(features, dim).index_select(dim, order.to(features[0].device))
