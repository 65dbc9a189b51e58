"""The call of a teacher that is a student of this project: its prompt has the form of its training.

A student was trained on a system message, the frames as one video at their real rate, the audio, and the question in
the wording of `PromptTemplate`. A server gets the same: the template's system message and text, the frames in one
``video_url`` part, and their rate beside it (`avrt.servers.frame_rate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avrt.text.prompts import PromptTemplate


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
