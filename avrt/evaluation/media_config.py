"""How much of each clip a model gets in an evaluation."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace

from avrt.evaluation.item_clips import CLIP_TIMEOUT_SECONDS, MAX_FRAMES
from avrt.media.defaults import MAX_AUDIO_SECONDS, NUM_FRAMES
from avrt.media.masking import Modalities


@dataclass
class ClipSettings:
    """Settings of one benchmark that replace the general ones of `MediaConfig`; null keeps those.

    Attributes:
        num_frames, frames_per_second, max_audio_seconds: as in `MediaConfig`.
    """

    num_frames: int | None = None
    frames_per_second: float | None = None
    max_audio_seconds: float | None = None


@dataclass
class MediaConfig:
    """How much of each clip the model gets. Clips in shards are used as they were packed.

    Attributes:
        modalities: ``AV``; ``A`` (same audio, black frames); ``V`` (same frames, silent audio).
        num_frames: frames of a video, spaced uniformly over its whole length.
        max_audio_seconds: seconds of audio from the start.
        clip_timeout_seconds: longest time for one item's files; an item whose files take longer is unreadable.
        frames_per_second: take this many frames per second of a video instead, at most `num_frames`.
        per_benchmark: settings of single benchmarks, by name.
    """

    modalities: Modalities = "AV"
    num_frames: int = NUM_FRAMES
    max_audio_seconds: float = MAX_AUDIO_SECONDS
    clip_timeout_seconds: float = CLIP_TIMEOUT_SECONDS
    frames_per_second: float | None = None
    per_benchmark: dict[str, ClipSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= MAX_FRAMES:
            raise ValueError(f"`num_frames` must be 1 to {MAX_FRAMES}, got {self.num_frames}")
        for name in ("max_audio_seconds", "clip_timeout_seconds", "frames_per_second"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be above 0 and finite, got {value}")
        for name in self.per_benchmark:
            try:
                self.of(name)
            except ValueError as error:
                raise ValueError(f"`per_benchmark.{name}`: {error}") from error

    def of(self, benchmark: str) -> MediaConfig:
        """The settings for one benchmark, by its name."""
        own = self.per_benchmark.get(benchmark, ClipSettings())
        values = {item.name: getattr(own, item.name) for item in fields(own)}
        return replace(self, per_benchmark={}, **{name: value for name, value in values.items() if value is not None})

    def check_names(self, known: Collection[str]) -> None:
        """Refuse settings for a benchmark that does not exist.

        Raises:
            ValueError: names it.
        """
        for name in self.per_benchmark:
            if name not in known:
                raise ValueError(f"`per_benchmark`: must name benchmarks ({', '.join(known)}), got {name!r}")
