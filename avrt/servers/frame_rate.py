"""The rate of frames that are sent as one video, for which a message has no place.

vLLM passes ``mm_processor_kwargs`` to the model's processor; with its own default of 2 frames per second it would place
the frames of a 10 s clip within 4 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROCESSOR = "mm_processor_kwargs"
"""Parameter of a call with settings of the model's processor."""


def with_frame_rate(sampling: Mapping[str, Any], rate: float | None) -> Mapping[str, Any]:
    """A call's parameters with the rate of its frames; the same without one."""
    if rate is None:
        return sampling
    return {**sampling, PROCESSOR: {**sampling.get(PROCESSOR, {}), "fps": rate, "do_sample_frames": False}}
