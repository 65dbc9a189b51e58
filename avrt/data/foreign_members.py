"""Members of shards that other tools made: the clip, the question, and what is left unread."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from avrt.data.records import RecordError
from avrt.sample import KEY_PATTERN

VIDEO_EXTENSIONS = frozenset(
    {"mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg", "ts", "flv", "wmv", "3gp", "ogv"}
)
AUDIO_EXTENSIONS = frozenset({"wav", "flac", "mp3", "m4a", "ogg", "opus", "aac"})
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
FORBIDDEN_EXTENSIONS = frozenset(
    {"pyd", "pyc", "pth", "pt", "pkl", "pickle", "dill", "joblib", "npy", "npz", "ten", "tenbin"}
)
"""Python objects and arrays. Reading some of them runs code, and none is a clip or a question."""

FRAME_NAME = re.compile(r"(?:frames?|images?|img|f)?[._-]?([0-9]{1,9})")
"""A frame's name in front of its extension, such as ``0``, ``frame_000`` or ``img-12``."""


@dataclass(frozen=True)
class MemberKinds:
    """The members of one sample by what they hold, each by its name (what follows the key and a dot).

    Attributes:
        json: the question, or None.
        video, audio: media files, or None.
        image: a single image that is not one of numbered frames, or None.
        frames: numbered images, in the order of their numbers.
    """

    json: str | None = None
    video: str | None = None
    audio: str | None = None
    image: str | None = None
    frames: tuple[str, ...] = ()

    @property
    def has_clip(self) -> bool:
        """Whether there is any media."""
        return bool(self.video or self.audio or self.image or self.frames)


def sort_members(names: Iterable[str]) -> MemberKinds:
    """Tell the members of one sample apart by their extensions, in upper or lower case. Others are ignored.

    Raises:
        RecordError: ``forbidden_member`` for a pickle and the like; ``extra_member`` for two members of one kind, which
            may be two samples whose keys have dots.
    """
    found: dict[str, list[str]] = {"json": [], "video": [], "audio": [], "image": []}
    frames: dict[int, str] = {}
    for name in sorted(names):
        stem, _, extension = name.lower().rpartition(".")
        if extension in FORBIDDEN_EXTENSIONS:
            raise RecordError(
                "forbidden_member", f"{name} is never read: pickles can run code, and arrays are no clips"
            )
        if extension in IMAGE_EXTENSIONS:
            number = FRAME_NAME.fullmatch(stem)
            if number is None:
                found["image"].append(name)
            elif frames.setdefault(int(number[1]), name) != name:
                raise RecordError("extra_member", f"{name} and {frames[int(number[1])]} have the same number")
        elif kind := _kind(extension):
            found[kind].append(name)
    for kind, several in found.items():
        # A thumbnail or a second image beside a video says nothing new.
        if len(several) > 1 and not (kind == "image" and found["video"]):
            raise RecordError(
                "extra_member",
                f"has {', '.join(several)}, where one is expected; names with further dots are one sample for "
                "webdataset: `python -m avrt pack --shards` tells them apart",
            )
    single = {kind: several[0] if several else None for kind, several in found.items()}
    return MemberKinds(**single, frames=tuple(frames[number] for number in sorted(frames)))


def _kind(extension: str) -> str | None:
    if extension == "json":
        return "json"
    if extension in VIDEO_EXTENSIONS:
        return "video"
    return "audio" if extension in AUDIO_EXTENSIONS else None


def listing(names: Iterable[str]) -> str:
    """The kinds of members in a sentence: ``.json, .mp4, .txt``; numbered frames are named once."""
    kinds = {re.sub(r"[0-9]+(?=\.)", "N", name) for name in names}
    return ", ".join(f".{kind}" for kind in sorted(kinds)[:8]) or "none"


def clean_key(text: str) -> str:
    """A sample id made of any text: the text itself if it can be one, else its letters and digits with a checksum.

    The checksum keeps ``a/b`` and ``a_b`` apart, whatever else is in the set.
    """
    if KEY_PATTERN.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:60]
    return f"{readable}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
