"""The order of a prompt's text and media."""

from __future__ import annotations

from typing import Any

import pytest

from avrt.text.prompts import arrange

AV, IMAGE, AUDIO = ("video", "audio"), ("image",), ("audio",)


@pytest.mark.parametrize(
    ("text", "clips", "parts"),
    [
        ("q", [AV], [(0, "video"), (0, "audio"), "q"]),
        ("q", [()], ["q"]),
        ("q", [IMAGE, IMAGE, AUDIO], [(0, "image"), (1, "image"), (2, "audio"), "q"]),
        ("<image2>, <image1>?", [IMAGE, IMAGE], [(1, "image"), ", ", (0, "image"), "?"]),
        # Streams without a place come first; a place that is named twice is the first one.
        ("a <audio1> b <audio1>", [IMAGE, AUDIO], [(0, "image"), "a ", (1, "audio"), " b <audio1>"]),
        # A video's audio follows it, and can have a place of its own.
        ("a <video1> b", [AV], ["a ", (0, "video"), (0, "audio"), " b"]),
        ("a <video1> b <audio1>", [AV], ["a ", (0, "video"), " b ", (0, "audio")]),
        ("a <audio1> b", [AV], [(0, "video"), "a ", (0, "audio"), " b"]),
        ("<audio2>", [AV, AUDIO], [(0, "video"), (0, "audio"), (1, "audio")]),
        # What is not there stays text: a model that takes no images still reads the question.
        ("<image1> and <audio1>", [AUDIO], ["<image1> and ", (0, "audio")]),
        ("<image0> <image3> <Image1> <image 1>", [IMAGE], [(0, "image"), "<image0> <image3> <Image1> <image 1>"]),
    ],
)
def test_streams_come_first_or_at_their_place(text: str, clips: list[Any], parts: list[Any]) -> None:
    assert arrange(text, clips) == parts


def test_ten_and_more_of_a_kind() -> None:
    clips = [IMAGE] * 12
    assert arrange("<image11><image1>", clips)[-2:] == [(10, "image"), (0, "image")]
    assert len(arrange("<image11><image1>", clips)) == 12
