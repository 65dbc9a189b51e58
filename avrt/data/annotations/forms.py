"""Forms of annotation rows: which keys hold the question, its options, its answer and its media.

A form is found by its keys. AVQA, AVRT-20K, OmniInstruct and rows with plain keys are read as they are; the others are
first converted to plain keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from avrt.data.annotations.conversations import from_conversation
from avrt.data.annotations.music_avqa import Pools
from avrt.data.annotations.music_avqa import convert as from_music_avqa
from avrt.data.annotations.problems import from_problem

Row = dict[str, Any]

MEDIA = ("video", "audio", "image")
FIELDS = ("id", "question", "options", "answer", *MEDIA, "reasoning", "question_type", "modality")
"""The plain keys, which `--fields` maps to."""


@dataclass(frozen=True)
class Form:
    """A form of rows.

    Attributes:
        name: the data set or program that writes it, for messages.
        signature: keys that mark the form: the row has one key of every group.
        keys: per field, the keys under which it may be.
        required: fields that every row needs; a question also needs one of `MEDIA`.
        convert: makes a row with plain keys; gets the row, and the answers of the file (MUSIC-AVQA).
        has_reasoning: whether the rows carry reasoning that is meant for fine-tuning.
        mapped: fields of a converted row that come from other keys (``a+b`` joins columns); no key leaves a field out.
    """

    name: str
    signature: tuple[tuple[str, ...], ...]
    keys: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...] = ("question", "options", "answer")
    convert: Callable[[Row, Pools], Row] | None = None
    has_reasoning: bool = False
    mapped: Mapping[str, str] = field(default_factory=dict)

    def matches(self, row: Row) -> bool:
        """Whether a row is in this form, complete or not."""
        return all(any(key in row for key in group) for group in self.signature)

    def missing(self, row: Row, needs_media: bool = True) -> list[str]:
        """What a row lacks, as keys for a message."""
        wanted = [self.keys[name] for name in self.required if needs_media or name not in ("video", "media")]
        if needs_media and self.convert is None and "video" not in self.required:
            wanted.append(tuple(key for name in MEDIA for key in self.keys.get(name, ())))
        return [_alternatives(keys) for keys in wanted if not any(key in row for key in keys)]

    def describe(self) -> str:
        """The keys of a complete row."""
        return ", ".join(_alternatives(self.keys[name]) for name in self.required)


PLAIN_KEYS = {name: (name,) for name in FIELDS} | {
    "id": ("id", "question_id", "index"),
    "options": ("options", "choices"),
    "video": ("video", "video_path", "video_name"),
    "audio": ("audio", "audio_path"),
    "image": ("image", "image_path"),
    "question_type": ("question_type", "task type", "category"),
    "modality": ("modality", "question_relation"),
}
AVQA_KEYS = {
    "id": ("id",),
    "video": ("video_name",),
    "audio": ("audio", "audio_path"),
    "image": ("image", "image_path"),
    "question": ("question_text", "question"),
    "options": ("multi_choice", "choices"),
    "answer": ("answer",),
    "reasoning": ("av_reasoning",),
    "question_type": ("question_type",),
    "modality": ("question_relation",),
}
_AVQA_REQUIRED = ("id", "question", "options", "answer")

PLAIN = Form("plain", (("question",), ("answer",)), PLAIN_KEYS, required=("question", "answer"))
FORMS = (
    Form(
        "MUSIC-AVQA",
        (("question_content",),),
        {
            "id": ("question_id",),
            "video": ("video_id",),
            "question": ("question_content",),
            "answer": ("anser", "answer"),
        },
        required=("id", "video", "question", "answer"),
        convert=from_music_avqa,
    ),
    Form(
        "ShareGPT",
        (("messages", "conversations"),),
        {
            "id": ("id",),
            "question": ("messages", "conversations"),
            "media": ("videos", "audios", "images", "video", "audio", "image"),
        },
        required=("question", "media"),
        convert=lambda row, _: from_conversation(row),
    ),
    Form(
        "AVQA-R1-6K, Video-R1 or HumanOmniV2",
        (("problem",), ("solution",)),
        {
            "id": ("problem_id", "id"),
            "question": ("problem",),
            "answer": ("solution",),
            "media": ("path", "video", "audio", "image", "videos", "audios", "images"),
        },
        required=("question", "answer", "media"),
        convert=lambda row, _: from_problem(row),
    ),
    Form("AVRT-20K", (("av_reasoning",),), AVQA_KEYS, _AVQA_REQUIRED, has_reasoning=True),
    Form("AVQA", (("video_name",), ("question_text", "multi_choice", "choices")), AVQA_KEYS, _AVQA_REQUIRED),
    Form("AVQA", (("question_text",), ("multi_choice",)), AVQA_KEYS, _AVQA_REQUIRED),
    Form("OmniInstruct", (("audio_label", "original_meta"), ("question",)), PLAIN_KEYS),
    PLAIN,
)


class FormError(ValueError):
    """A file is in no form that can be read.

    Attributes:
        lacks: the message without the keys that were found, those that are expected, and the advice.
    """

    def __init__(self, lacks: str, details: str = "") -> None:
        super().__init__(lacks + details)
        self.lacks = lacks


def find_form(row: Row, place: str, needs_media: bool = True) -> Form:
    """The form of a row, by its keys.

    Args:
        place: file and entry, for the message.
        needs_media: whether the row must name its media.

    Raises:
        FormError: it is in none, or incomplete; the message lists the keys found and those expected.
    """
    form = next((form for form in FORMS if form.matches(row)), None)
    found = f"found {_listing(row)}"
    number = f" (id {row['id']!r})" if "id" in row else ""
    mapping = "; for keys of your own give --fields, such as --fields question=KEY,options=KEY,answer=KEY,video=KEY"
    if form is None:
        avqa = FORMS[4]
        raise FormError(
            f"{place}{number} has no {', '.join(avqa.missing(row))} and is in no known form",
            f": {found}; expected AVQA's form with the keys {avqa.describe()}, or that of "
            f"{', '.join(dict.fromkeys(f.name for f in FORMS))}{mapping}",
        )
    if missing := form.missing(row, needs_media):
        raise FormError(
            f"{place}{number}, read in the form of {form.name}, has no {', '.join(missing)}",
            f": expected {form.describe()}, {found}{mapping}",
        )
    return form


def mapped_form(fields: str, row: Row, place: str) -> Form:
    """The form that ``--fields question=prompt,options=choices,...`` describes, checked on a file's first row.

    A field's key may be several columns, joined by ``+`` (``options=a+b+c+d``). Fields that are not mentioned are
    looked for under the keys of the row's own form, or their plain keys. ``id=`` (nothing) numbers the rows.

    Raises:
        FormError: a field that does not exist, or a key that the row has not.
    """
    given: dict[str, str] = {}
    for item in fields.split(","):
        name, equals, key = (part.strip() for part in item.partition("="))
        if not equals or name not in FIELDS or (not key and name != "id"):
            raise FormError(f"fields: {item!r} is not FIELD=KEY with one of {', '.join(FIELDS)}")
        given[name] = key
    for name, key in given.items():
        absent = [part for part in key.split("+") if part not in row] if key and key not in row else []
        if absent:
            raise FormError(f"fields: {place} has no `{'`, `'.join(absent)}` for {name}; found {_listing(row)}")
    own = next((form for form in FORMS if form.matches(row)), PLAIN)
    has_reasoning = own.has_reasoning or "reasoning" in given
    if own.convert is not None and not {"question", "answer"} <= given.keys():
        form = replace(own, mapped=given, has_reasoning=has_reasoning)
    else:
        keys = dict(PLAIN_KEYS if own.convert is not None else own.keys)
        keys |= {name: (key,) if key else () for name, key in given.items()}
        form = Form("mapped", (), keys, required=("question", "answer"), has_reasoning=has_reasoning)
    if missing := form.missing(row):
        raise FormError(f"fields: {place} has no {', '.join(missing)}; map it too; found {_listing(row)}")
    return form


def _alternatives(keys: tuple[str, ...]) -> str:
    return " or ".join(f"`{key}`" for key in keys)


def _listing(row: Row) -> str:
    return ", ".join(f"`{key}`" for key in list(row)[:20]) or "no keys"
