"""Samples of shards that other tools made: WebDataset tars of clips and questions, such as video2dataset's.

A sample needs a clip (a video, numbered frames or an image, each with or without audio, or audio alone) and a JSON
member with a question in a form that `avrt.data.annotations` reads. Its media are decoded when it is read, by the code
and in the kind of process that `pack` uses, and with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from avrt.data.annotations import FormError, sample_of
from avrt.data.clip_workers import ClipReader, ClipSettings
from avrt.data.foreign_members import MemberKinds, clean_key, listing, sort_members
from avrt.data.frame_times import frame_times, shown_at
from avrt.data.records import AUDIO_MEMBER, MEMBER_PATTERN, EncodedClip, RecordError, decode_clip, parse_json
from avrt.files.anonymous_file import anonymous_file
from avrt.media.errors import MediaError, MediaReason
from avrt.media.video import segment_centers
from avrt.sample import Sample
from avrt.text.targets import TargetError, checked_target

CLIP_SECONDS = 0.7
"""Time of one core to decode a clip of 10 s at 720p; small clips take less."""

READER_GIGABYTES = 1
"""Memory of the child process that decodes, measured on 720p clips."""

CLIP_TIMEOUT_SECONDS = 120.0

MEDIA_KEYS = ("video", "video_path", "video_name", "audio", "audio_path", "image", "image_path")

OUR_FIELDS = frozenset({"format_version", "crc32", "members"})
"""Fields of a JSON member of this project. One damaged byte hides one of them, not all."""

EXPECTED = "expected a clip (.mp4, .webm, numbered .jpg, .wav, ...) and a .json with a question, options and answer"


class NoClipError(RecordError):
    """A sample whose clip could not be had when the shard was made, as its JSON member says: no fault of the shard."""


def is_foreign(names: Iterable[str], record: Any) -> bool:
    """Whether a sample was made by another tool.

    Args:
        names: the sample's members, without its key.
        record: the parsed JSON member; None where there is none, or it does not parse. Then the names decide.
    """
    if isinstance(record, dict):
        return not OUR_FIELDS & record.keys()
    return not all(MEMBER_PATTERN.fullmatch(name) for name in names)


def foreign_record(names: Iterable[str], record: dict[str, Any] | None, key: str, split: str = "train") -> Sample:
    """The question of one sample of another tool's shard, without its media.

    The id is the JSON member's ``id``, else the key; characters that an id cannot have are replaced, see
    `avrt.data.foreign_members.clean_key`. `source` is the clip's name in the JSON member, else the id.

    Args:
        names: the sample's members, without its key.
        record: the parsed JSON member; None where there is none.
        key: the sample's name in the shard.
        split: the split, where the JSON member has no ``split``.

    Raises:
        NoClipError: the tool could not get the clip.
        RecordError: ``forbidden_member``, ``extra_member``, or ``other_tool`` where the sample is not a question with a
            clip; the message says what it is.
    """
    names = tuple(names)
    kinds = sort_members(names)
    made = f"made by another tool: members {listing(names)}"
    if not isinstance(record, dict):
        content = "" if record is None else f"; its JSON member is a {type(record).__name__}"
        raise RecordError("other_tool", f"{made}{content}; {EXPECTED}")
    if not kinds.has_clip:
        if failure := failure_of(record):
            raise NoClipError("missing_member", f"has no clip: {failure}")
        raise RecordError("other_tool", f"{made}, which hold no clip; {EXPECTED}")
    # The clip is beside the JSON member: what the member says about where it came from is kept, but not looked up.
    addresses = {name: record[name] for name in MEDIA_KEYS if _is_address(record.get(name))}
    row = {name: value for name, value in record.items() if name not in addresses}
    sample_id = clean_key(own_id(record) or key)
    row.setdefault("video_name", sample_id)
    stated = record.get("split")
    try:
        sample = sample_of(
            row,
            split=stated if isinstance(stated, str) and stated.strip() else split,
            id=sample_id,
        )
    except ValueError as error:
        keys = ", ".join(list(record)[:12])
        problem = error.lacks if isinstance(error, FormError) else error
        raise RecordError(
            "other_tool",
            f"{made}; its JSON member, with the keys {keys}, is not a question: {problem}. Questions can also come "
            "from a file of their own: `python -m avrt pack --annotations FILE --shards ...`",
        ) from error
    return replace(sample, source=sample.source or sample_id, extra=sample.extra | addresses)


def foreign_sample(members: Mapping[str, bytes], key: str, split: str = "train") -> Sample:
    """A sample with its clip, from all its members by name (without the key).

    The clip is read with the settings that `pack` has by default, in a child of this process. The child is started at
    the first sample and ends with this process. `trace` is the target for fine-tuning, or None if the reasoning in the
    JSON member breaks the format or answers wrong.

    Raises:
        RecordError: as `foreign_record`; ``bad_json``; ``bad_media`` where the clip cannot be used, or its reading
            crashes or takes too long.
        ChildProcessError: the child process does not start.
    """
    global _reader
    if _reader is None:
        _reader = ForeignReader()
    return _reader.sample(members, key, split)


def failure_of(record: Mapping[str, Any]) -> str | None:
    """Why the tool that made the shard had no clip, in its own words; None if it does not say so.

    video2dataset keeps a row that it could not download, with ``status`` and ``error_message``.
    """
    status = record.get("status")
    if not isinstance(status, str) or status == "success":
        return None
    message = record.get("error_message")
    return f"{status}: {message}" if message else status


def own_id(record: Mapping[str, Any]) -> str | None:
    """The id that a JSON member states, or None."""
    value = record.get("id")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() else None


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and "://" in value


def cost_line(samples: int) -> str:
    """One line on the cost of training on shards of other tools, and how to avoid it."""
    return (
        f"{samples:,} samples are in shards of another tool: their clips are decoded again in every epoch, which takes "
        f"about {CLIP_SECONDS:g} s of a core for each 10 s of 720p, {samples * CLIP_SECONDS / 3600:.1f} hours in all, "
        f"and {READER_GIGABYTES:g} GB of memory for each data worker; `python -m avrt pack --shards ... --out ...` "
        "decodes them once"
    )


class ForeignReader:
    """Reads whole samples of other tools' shards, one at a time; their media are decoded in a child process.

    The child starts at the first sample. The object can be pickled and forked into data workers, each of which then
    starts a child of its own.

    Args:
        settings: how clips are read; None for the defaults, which are those of `pack`.
        timeout_seconds: longest time for one sample's clip.
    """

    def __init__(self, settings: ClipSettings | None = None, *, timeout_seconds: float = CLIP_TIMEOUT_SECONDS) -> None:
        self.settings = settings or ClipSettings()
        # Of numbered frames, images and audio are read apart: what is missing shows when they are together.
        lenient = replace(self.settings, require_video=False, require_audio=False)
        self._reader = ClipReader(lenient, timeout_seconds=timeout_seconds)

    def sample(self, members: Mapping[str, bytes], key: str, split: str = "train") -> Sample:
        """See `foreign_sample`. Streams are required of videos; other samples have what their members are."""
        kinds = sort_members(members)
        record = None if kinds.json is None else parse_json(members[kinds.json])
        sample = foreign_record(members, record, key, split)
        try:
            encoded = self.encoded(members, record, lambda name: anonymous_file([members[name]], len(members[name])))
            if kinds.video:
                self.require_streams(encoded)
        except MediaError as error:
            raise RecordError(
                "bad_media",
                f"{error.reason.value}: {error.detail}; `python -m avrt pack --shards` converts such shards once and "
                "leaves out clips that it cannot use",
            ) from error
        try:
            trace = checked_target(sample)
        except TargetError:
            trace = None  # it must not be learned
        return replace(sample, clip=decode_clip(encoded), trace=trace)

    def encoded(
        self,
        names: Iterable[str],
        record: Mapping[str, Any] | None,
        as_file: Callable[[str], AbstractContextManager[Path]],
    ) -> EncodedClip:
        """A sample's media as our shards store them, whatever streams there are.

        Args:
            names: the members, without the key.
            record: the JSON member, for the times of numbered frames.
            as_file: makes a file of a member for as long as its block lasts.

        Raises:
            MediaError: the clip cannot be used.
        """
        kinds = sort_members(names)
        if kinds.frames and kinds.video is None:
            return self._read_frames(kinds, record or {}, as_file)
        image = None if kinds.video else kinds.image
        files = {"video": kinds.video, "image": image, "audio": kinds.audio}
        with ExitStack() as stack:
            paths = {kind: stack.enter_context(as_file(name)) for kind, name in files.items() if name}
            return self._reader.read_files(**paths)

    def require_streams(self, encoded: EncodedClip) -> None:
        """Check a clip against `ClipSettings.require_video` and `require_audio`.

        Raises:
            MediaError: ``no_video`` or ``no_audio``.
        """
        if self.settings.require_video and not encoded.info["num_frames"]:
            raise MediaError(MediaReason.NO_VIDEO, "there is no video stream, image or numbered frame")
        if self.settings.require_audio and not encoded.info["num_audio_samples"]:
            raise MediaError(MediaReason.NO_AUDIO, "there is no audio stream and no audio member")

    def _read_frames(
        self,
        kinds: MemberKinds,
        record: Mapping[str, Any],
        as_file: Callable[[str], AbstractContextManager[Path]],
    ) -> EncodedClip:
        """Numbered frames, and audio where there is a member: as many frames as settings say, like those of a video."""
        audio: EncodedClip | None = None
        if kinds.audio is not None:
            with as_file(kinds.audio) as path:
                audio = self._reader.read_files(audio=path)
        starts, duration = frame_times(record, len(kinds.frames), audio.info["duration"] if audio else None)
        count = self.settings.num_frames
        moments = [float(moment) for moment in segment_centers(Fraction(duration), count)]
        images: dict[int, EncodedClip] = {}
        shown = shown_at(starts, moments)
        for index in dict.fromkeys(shown):
            with as_file(kinds.frames[index]) as path:
                images[index] = self._reader.read_files(image=path)
        first = images[shown[0]].info
        for index, image in images.items():
            if (image.info["width"], image.info["height"]) != (first["width"], first["height"]):
                name = kinds.frames[index]
                raise MediaError(MediaReason.BAD_SHAPE, f"{name} has another size than {kinds.frames[shown[0]]}")
        digits = max(2, len(str(count - 1)))
        members = {
            f"frame{position:0{digits}d}.{self.settings.image_format}": data
            for position, index in enumerate(shown)
            for data in images[index].members.values()
        }
        info = {
            **first,
            "timestamps": moments,
            "fps": count / duration,
            "duration": duration,
            "is_image": False,
            "num_frames": count,
            "num_audio_samples": audio.info["num_audio_samples"] if audio else 0,
        }
        return EncodedClip(members | ({AUDIO_MEMBER: audio.members[AUDIO_MEMBER]} if audio else {}), info)

    def close(self) -> None:
        """End the child process, at once."""
        self._reader.close()


_reader: ForeignReader | None = None
"""This process's reader; a forked process starts a child of its own."""
