"""The thinking without content of `format_only`."""

from __future__ import annotations

import json
import re

import pytest

from avrt.text.answers import is_formatted
from avrt.text.prompts import format_target
from avrt.traces.config import load_config
from avrt.traces.filler import filler

FIRST = """\
Let me analyze this question carefully.
Step 1: First I look at what the question asks and what kind of answer it needs.
Step 2: What is heard: I listen to the audio and consider what it contributes to the question.
Step 3: What is seen: I go through the frames from first to last and keep in mind what matters here.
Step 4: Each option is considered in turn, and I check how well it fits.
After weighing all of this, the most suitable option is clear."""


def test_each_sample_keeps_its_wording_and_samples_have_different_ones() -> None:
    texts = [filler(f"q{i}") for i in range(200)]
    assert texts == [filler(f"q{i}") for i in range(200)]
    assert len(set(texts)) > 150
    # Fixed, so that an output made elsewhere, or by another version of Python, is the same.
    assert filler("q000") == FIRST


def test_it_has_numbered_steps_both_modalities_and_a_conclusion() -> None:
    for i in range(200):
        opening, *steps, conclusion = filler(f"q{i}").splitlines()
        assert opening.endswith(".")
        assert conclusion.endswith(".")
        assert [re.search(r"\d", step)[0] for step in steps] == ["1", "2", "3", "4"]  # type: ignore[index]
        labels = [step.split(": ")[-2] for step in steps[1:3]]
        assert {label.split()[-1].lower() for label in labels} <= {"audio", "video", "analysis", "heard", "seen"}
        assert len(set(labels)) == 2


def test_own_texts() -> None:
    texts = ["I see the clip.", "I hear the sound."]
    found = [filler(f"q{i}", texts) for i in range(200)]
    assert found == [filler(f"q{i}", texts) for i in range(200)]
    assert 80 < found.count(texts[0]) < 120


@pytest.mark.parametrize(
    ("texts", "words"), [([], "expects some"), (["a", " "], "blank"), (["a </think>"], "must not contain </think>")]
)
def test_texts_that_cannot_be_a_thinking_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=f"fillers: .*{words}"):
        load_config(["cli_configs/traces_demo.yaml"], [f"--fillers={json.dumps(texts)}"])


def test_a_target_with_it_follows_the_format() -> None:
    assert is_formatted(format_target(filler("q1"), "B"))
