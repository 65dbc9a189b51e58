"""Prompts: every option has its letter, absent streams do not appear, targets follow the format."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrt.sample import LETTERS, Clip, Sample
from avrt.text.answers import is_formatted, parse
from avrt.text.prompts import (
    DEFAULT,
    PromptTemplate,
    build_messages,
    clip_modalities,
    format_target,
    question_text,
)

TINY = PromptTemplate(system="", tags_instruction="", letter_instruction="")
SAMPLE = Sample(id="s", question="What makes the sound?", options=("a {dog}", "a cat", "rain"), answer=1)


def test_question_options_and_instruction_stand_on_their_own_lines():
    lines = question_text(SAMPLE).split("\n")
    assert lines[:4] == ["What makes the sound?", "A. a {dog}", "B. a cat", "C. rain"]
    assert len(lines) == 5
    for wanted in ("<think>", "</think>", "<answer>", "</answer>", "(A, B or C)"):
        assert wanted in lines[4]


def test_letter_format_asks_for_no_tags():
    text = question_text(SAMPLE, answer_format="letter")
    assert "(A, B or C)" in text
    assert "<" not in text


def test_the_prompt_never_shows_the_gold_answer():
    prompts = {question_text(dataclasses.replace(SAMPLE, answer=index)) for index in range(3)}
    assert len(prompts) == 1


def test_tiny_template_is_question_and_options_only():
    assert question_text(SAMPLE, template=TINY) == "What makes the sound?\nA. a {dog}\nB. a cat\nC. rain"
    assert [message["role"] for message in build_messages(SAMPLE, modalities=(), template=TINY)] == ["user"]


@pytest.mark.parametrize(
    ("modalities", "kinds"),
    [
        (("audio", "video"), ["video", "audio", "text"]),
        (("video",), ["video", "text"]),
        (("audio",), ["audio", "text"]),
        ({"image", "audio"}, ["image", "audio", "text"]),
        ((), ["text"]),
    ],
)
def test_streams_are_separate_items_and_missing_ones_leave_no_trace(modalities, kinds):
    system, user = build_messages(SAMPLE, modalities=modalities)
    assert system == {"role": "system", "content": [{"type": "text", "text": DEFAULT.system}]}
    assert user["role"] == "user"
    assert [part["type"] for part in user["content"]] == kinds
    assert user["content"][-1] == {"type": "text", "text": question_text(SAMPLE)}
    assert all(set(part) == {"type"} for part in user["content"][:-1])


def test_system_prompt_can_be_replaced_or_left_out():
    assert build_messages(SAMPLE, modalities=(), system_prompt="Listen.")[0]["content"][0]["text"] == "Listen."
    assert build_messages(SAMPLE, modalities=(), system_prompt="")[0]["role"] == "user"


def test_messages_are_plain_json():
    messages = build_messages(SAMPLE, modalities=("video", "audio"))
    assert json.loads(json.dumps(messages)) == messages


@pytest.mark.parametrize("modalities", [("smell",), ("video", "image"), "audio"])
def test_wrong_modalities_are_refused(modalities):
    with pytest.raises(ValueError, match="`modalities`"):
        build_messages(SAMPLE, modalities=modalities)


def test_wrong_answer_format_is_refused():
    with pytest.raises(ValueError, match="`answer_format` must be one of tags, letter"):
        question_text(SAMPLE, answer_format="json")


def test_clip_modalities_follow_what_the_clip_has():
    frames, wave = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(16)
    assert clip_modalities(Clip(frames=frames, fps=0.8, waveform=wave)) == ("video", "audio")
    assert clip_modalities(Clip(frames=frames, is_image=True)) == ("image",)
    assert clip_modalities(Clip(frames=None, waveform=wave)) == ("audio",)


def test_a_template_of_the_users_own():
    template = PromptTemplate(system="", option_line="({letter}) {text}", tags_instruction="One of {letters}.")
    assert question_text(SAMPLE, template=template).split("\n")[1:] == [
        "(A) a {dog}",
        "(B) a cat",
        "(C) rain",
        "One of A, B or C.",
    ]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("option_line", "{letter} {option}"),
        ("option_line", "{letter}."),
        ("option_line", "{text}"),
        ("tags_instruction", "choose {"),
        ("tags_instruction", "choose {}"),
        ("letter_instruction", "choose from {options}"),
        ("letter_instruction", "choose {letters.first}"),
    ],
)
def test_a_broken_template_names_its_part(part, text):
    with pytest.raises(ValueError, match=f"`{part}`"):
        PromptTemplate(**{part: text})


def test_two_options_read_as_a_or_b():
    sample = Sample(id="s", question="?", options=("x", "y"), answer=0)
    assert "(A or B)" in question_text(sample)


@settings(deadline=None)
@given(think=st.text().filter(lambda t: not any(c in t for c in "<>")), index=st.integers(0, 3))
def test_targets_keep_the_format_they_teach(think, index):
    target = format_target(think, LETTERS[index])
    assert is_formatted(target)
    assert parse(target, ["w", "x", "y", "z"]).letter == LETTERS[index]


def test_target_layout():
    assert format_target(" It barks. ", "B") == "<think>It barks.</think>\n<answer>B</answer>"


@pytest.mark.parametrize(
    ("think", "letter"), [("x", "b"), ("x", ""), ("x", "AB"), ("a <answer> b", "A"), ("</think>", "A")]
)
def test_targets_that_would_break_the_format_are_refused(think, letter):
    with pytest.raises(ValueError, match=r"capital letter|must not contain"):
        format_target(think, letter)
