"""The call of a teacher that is a student of this project: its prompt has the form of its training.

A student was trained on a system message, the frames as one video at their real rate, the audio, and the question in
the wording of `PromptTemplate`. A server gets the same: the template's system message and text, the frames in one
``video_url`` part, and their rate in ``mm_processor_kwargs``, which vLLM passes to the processor (its own default would
place the frames of a 10 s clip within 4 s).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avrt.text.prompts import PromptTemplate

PROCESSOR = "mm_processor_kwargs"
"""Parameter of a call with settings of the model's processor."""


def prompt_pattern(template: PromptTemplate) -> str:
    """The wording of all prompts, to tell one run's from another's."""
    lines = [template.system, template.question_line, template.option_line, template.tags_instruction]
    return "\n".join(lines)


def frame_rate(clip: Mapping[str, Any], streams: str) -> float | None:
    """The rate of the frames that are sent as a video, per second; None if none are.

    Args:
        clip: its description in the shard's JSON member.
        streams: of the teacher.
    """
    return clip["fps"] if "V" in streams and clip["num_frames"] and not clip["is_image"] else None


def with_frame_rate(sampling: Mapping[str, Any], rate: float | None) -> Mapping[str, Any]:
    """A call's parameters with the rate of its frames; the same without one."""
    if rate is None:
        return sampling
    return {**sampling, PROCESSOR: {**sampling.get(PROCESSOR, {}), "fps": rate, "do_sample_frames": False}}
