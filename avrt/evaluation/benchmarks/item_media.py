"""Names of an item's media: ``video``, ``image``, ``audio``, and numbered ones where a question has several.

``audio`` beside a video is used if the video has no audio of its own. ``audio_1``, ``audio_2`` and so on belong to the
question in any case, and so do ``image_1``, ``image_2`` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_NUMBERED = re.compile(r"(audio|image)_([1-9]\d*)")


def numbered(kind: str, paths: Sequence[str]) -> dict[str, str]:
    """Media of one kind under numbered names."""
    return {f"{kind}_{place}": path for place, path in enumerate(paths, 1)}


def numbered_paths(media: Mapping[str, str], kind: str) -> list[str]:
    """The paths of one kind's numbered media, in their order; empty where there are none."""
    matches = [(_NUMBERED.fullmatch(name), path) for name, path in media.items()]
    found = {int(match[2]): path for match, path in matches if match is not None and match[1] == kind}
    return [found[number] for number in sorted(found)]
