"""The answer parser on real teachers' outputs."""

import json
import re

from avrt.text.answers import is_formatted, parse
from tests.text.test_answers import read


def rows(real_data, name):
    return [json.loads(line) for line in (real_data / "traces" / name).read_text(encoding="utf-8").splitlines()]


def options_of(question):
    """The options inside a question such as ``Which? (A) x, (B) y. Please ...``."""
    texts = re.split(r"\([A-Z]\)", question.partition(" Please ")[0])[1:]
    return [text.strip().rstrip(",").rstrip() for text in texts]


def test_audio_flamingo_outputs(real_data):
    """Untagged text: the option is in the closing sentence, with stray asterisks; captions name no option."""
    found = []
    for row in rows(real_data, "af3_think.jsonl"):
        options = options_of(row["question"]) if "question" in row else ["dog", "music"]
        found.append(read(row["text"], "robust", options))
        assert read(row["text"], "paper", options) == (None, "no_answer_tag")
    expected = [(letter, "ok") for letter in "CDBAB"] + [(None, "no_answer_tag")] * 2
    assert found == expected


def test_kimi_outputs(real_data):
    """Captions: no option, but the thinking is separated from the text, and truncated replies are recognized."""
    found = []
    for row in rows(real_data, "kimi_vl.jsonl"):
        parsed = parse(row["text"], ["cat", "dog"], "robust", "stop" if row["complete"] else "length")
        found.append((parsed.letter, parsed.reason, parsed.think is not None))
        if parsed.think is not None:
            assert parsed.think.startswith("So, let's ")
            assert "▷" not in parsed.think
    assert found == [
        (None, "no_answer_tag", True),
        (None, "no_answer_tag", True),
        (None, "truncated", True),
        (None, "truncated", False),
        (None, "truncated", False),
    ]


def test_kimi_outputs_with_an_answer_in_place_of_the_caption(real_data):
    """The same real thinking, followed by an answer in the format of the prompt."""
    for row in rows(real_data, "kimi_vl.jsonl")[:3]:
        thinking = row["text"].partition("◁/think▷")[0]
        text = (
            thinking
            + "◁/think▷Visual Description: two cats.\nReasoning: they lie still.\nAnswer: (B) dog<|im_assistant|>"
        )
        assert read(text, "robust") == ("B", "ok")
        assert read(thinking + "◁/", "robust") == (None, "unclosed_think")


def test_merged_traces_and_the_papers_degenerate_outputs(real_data):
    *excerpts, control = rows(real_data, "paper_merged.jsonl")
    for row in excerpts:
        for profile in ("paper", "robust"):
            assert read(row["text"], profile, ["w", "x", "y", "sew clothes"]) == (None, "no_answer_tag")
    for profile in ("paper", "robust"):
        assert [read(text, profile) for text in control["text"]] == [
            ("D", "empty_think"),
            (None, "orphan_close"),
            (None, "orphan_close"),
            (None, "unclosed_think"),
        ]
    assert [is_formatted(text) for text in control["text"]] == [True, False, False, False]
