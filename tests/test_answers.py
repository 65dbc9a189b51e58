"""The answer parser: both profiles' rules case by case, real teacher outputs, and properties that must never break."""

import json
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from avrt.answers import (
    ParsedAnswer,
    Reason,
    answer_body,
    count_think_words,
    first_think,
    is_formatted,
    parse,
    strip_special_tokens,
)
from avrt.sample import LETTERS, Sample

OPTIONS = ("cat", "dog", "Pop rock", "hail")
THOUGHT = "<think>it barks</think>"


def read(text, profile="paper", options=OPTIONS, finish_reason="stop"):
    parsed = parse(text, options, profile, finish_reason)
    return parsed.letter, parsed.reason


# --- profile "paper" ---


@pytest.mark.parametrize(
    ("text", "letter", "reason"),
    [
        (f"{THOUGHT}<answer>B</answer>", "B", "ok"),
        (f"\n{THOUGHT}\n\n<answer> B\n</answer><|im_end|>", "B", "ok"),
        ("<think> \n</think><answer>D</answer>", "D", "empty_think"),
        ("<answer>D</answer>", "D", "empty_think"),
        # The letter does not depend on the rest of the format.
        (f"{THOUGHT}<answer>B</answer> indeed", "B", "trailing_text"),
        (f"Sure: {THOUGHT}<answer>B</answer>", "B", "trailing_text"),
        (f"{THOUGHT} so <answer>B</answer>", "B", "trailing_text"),
        (f"<answer>B</answer>{THOUGHT}", "B", "trailing_text"),
        ("<think>or <answer>B</answer></think>", "B", "trailing_text"),
        ("so <answer>B</answer>", "B", "trailing_text"),
        ("it barks</think><answer>B</answer>", "B", "orphan_close"),
        ("</think>it barks<think><answer>B</answer>", "B", "orphan_close"),
        ("<think>it barks <answer>B</answer>", "B", "unclosed_think"),
        (f"{THOUGHT}{THOUGHT}<answer>B</answer>", "B", "duplicate_tag"),
        # Two answers, equal or not, nested or not, leave open which was meant.
        (f"{THOUGHT}<answer>B</answer><answer>B</answer>", None, "duplicate_tag"),
        (f"{THOUGHT}<answer>A</answer><answer>B</answer>", None, "duplicate_tag"),
        (f"{THOUGHT}<answer><answer>B</answer></answer>", None, "duplicate_tag"),
        ("<think>I put it in <answer> tags</think><answer>B</answer>", None, "duplicate_tag"),
        (f"{THOUGHT}<answer>B", None, "no_answer_tag"),
        (f"{THOUGHT} B", None, "no_answer_tag"),
        ("The answer is B", None, "no_answer_tag"),
        ("", None, "no_answer_tag"),
        ("</answer>", None, "orphan_close"),
        ("</think></answer>", None, "orphan_close"),
        ("</answer>B<answer>", None, "orphan_close"),
        ("<think>it barks, so B", None, "unclosed_think"),
        (f"{THOUGHT}<answer> </answer>", None, "empty_answer"),
        # The tag's body is an option's capital letter and nothing else.
        (f"{THOUGHT}<answer>b</answer>", None, "not_an_option"),
        (f"{THOUGHT}<answer>B.</answer>", None, "not_an_option"),
        (f"{THOUGHT}<answer>(B)</answer>", None, "not_an_option"),
        (f"{THOUGHT}<answer>dog</answer>", None, "not_an_option"),
        (f"{THOUGHT}<answer>E</answer>", None, "not_an_option"),
        (f"{THOUGHT}<answer>Ｂ</answer>", None, "not_an_option"),
        (f"{THOUGHT}<answer>A, B</answer>", None, "multi_letter"),
        (f"{THOUGHT}<answer>A or B</answer>", None, "multi_letter"),
        (f"{THOUGHT}<answer>AB</answer>", None, "multi_letter"),
        # Tags are lower case, without spaces.
        ("<THINK>x</THINK><ANSWER>B</ANSWER>", None, "no_answer_tag"),
        (f"{THOUGHT}< answer >B</ answer >", None, "no_answer_tag"),
    ],
)
def test_paper_profile(text, letter, reason):
    assert read(text) == (letter, reason)


@pytest.mark.parametrize(
    ("text", "letter", "reason"),
    [
        ("<think>it barks", None, "truncated"),
        (f"{THOUGHT}", None, "truncated"),
        (f"{THOUGHT}<answer>", None, "truncated"),
        (f"{THOUGHT}<answer>B", None, "truncated"),
        # What was complete before the cut is judged as it stands.
        (f"{THOUGHT}<answer>B</answer>", "B", "ok"),
        (f"{THOUGHT}<answer>B</answer> And so", "B", "trailing_text"),
        (f"{THOUGHT}<answer>E</answer> And so", None, "not_an_option"),
    ],
)
def test_paper_profile_of_a_cut_reply(text, letter, reason):
    assert read(text, finish_reason="length") == (letter, reason)


# --- profile "robust" ---


@pytest.mark.parametrize(
    "text",
    [
        *(
            "B",
            "b",
            "(b)",
            "（B）",
            "【B】",
            "Ｂ",
            "B.",
            "B)",
            " **B** ",
            "`B`",
            '"B"',
            r"$\boxed{B}$",
            "Option B",
            "B, B",
        ),
        *("B. dog", "B: Dog.", "(B) dog", "B) dog", "B dog", "**B. dog**", "B - dog", "Option B: dog"),
        *("dog", "Dog.", '"dog"', "B. dog, it barks", "B. dog. It barks."),
    ],
)
@pytest.mark.parametrize(
    "wrapper", ["{}", "<answer>{}</answer>", "x</think>{}", "Answer: {}", "x\n\nFinal answer:\n{}"]
)
def test_robust_forms_of_one_answer(text, wrapper):
    assert read(wrapper.format(text), "robust") == ("B", "ok")


@pytest.mark.parametrize(
    "text",
    [
        # "the answer is", followed by the end of the text, a sentence or a reason, is an announcement, and what comes
        # before it is not searched: the "A" of "A man" is an article.
        "A man is singing, so the answer is B",
        "A man is singing, so the answer is B.",
        "The answer is B because a dog barks.",
        "The answer is B. The sound is loud.",
        "The correct option is (B).",
        "The best answer among these is: B",
        "It is not a cat, so the answer is B",
        "There is no meowing so the answer is B",
        "The answer is dog. It barks.",
        "**Answer:** B",
        "### Final Answer: **B. dog**\n\nIt barks.",
        "A. cat\nB. dog\nC. Pop rock\nD. hail\n\nAnswer: (B) dog",
        "Answer: B) dog",
        "A or B? The answer is B.",
        "It barks.\n\nB",
        "B\n\nIt barks.",
        "A. cat: nothing meows here\n\n(B) dog",
        "It barks. <answer>B",
        "Barking, hence *(B) dog* fits best.",
    ],
)
def test_robust_announcements_and_lone_lines(text):
    assert read(text, "robust") == ("B", "ok")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A man is singing", "no_answer_tag"),
        ("I hear a B flat", "no_answer_tag"),
        ("A dog", "no_answer_tag"),  # "A" before the text of B is no clear letter, and "A dog" is not B's text
        ("hotdog", "no_answer_tag"),
        ("The dogs bark", "no_answer_tag"),
        ("I hear a dog.", "no_answer_tag"),
        ("The answer is a dog and", "no_answer_tag"),
        ("The answer is not B", "no_answer_tag"),
        ("I don't think the answer is B", "no_answer_tag"),
        ("The wrong answer is B", "no_answer_tag"),
        ("If the answer is B then it barks", "no_answer_tag"),
        ("Is the answer B?", "no_answer_tag"),
        ("So the answer is B?", "no_answer_tag"),
        ("The answer is B or C because both fit", "no_answer_tag"),
        ("It cannot be (B) dog.", "no_answer_tag"),
        ("(B) dog is wrong.", "no_answer_tag"),
        ("Maybe (B) dog. Yet nothing barks here.", "no_answer_tag"),
        ("A or B", "multi_letter"),
        ("A, B", "multi_letter"),
        ("(A) (B)", "multi_letter"),
        ("AB", "multi_letter"),
        ("A. cat B. dog", "multi_letter"),
        ("A. cat\nB. dog\nC. Pop rock\nD. hail", "multi_letter"),
        ("Answer: A/C", "multi_letter"),
        ("A. cat or B", "multi_letter"),
        ("A. cat or dog", "multi_letter"),
        ("B. dog, D", "multi_letter"),
        ("Answer: B\nAnswer: C", "multi_letter"),
        ("Answer: B\n\nC", "multi_letter"),
        ("The answer is B. No wait, the answer is C.", "multi_letter"),
        ("Not sure: (A) cat fits, (B) dog fits", "multi_letter"),
        ("B. cat", "letter_text_conflict"),
        ("Answer: (B) cat", "letter_text_conflict"),
        ("Answer: B. a bird", "letter_text_conflict"),
        ("The answer is B. Cat.", "letter_text_conflict"),
        ("the sound fits (B) hail", "letter_text_conflict"),
        ("E", "not_an_option"),
        ("Answer: E", "not_an_option"),
        ("<answer>E</answer>", "not_an_option"),
        ("<answer>a bird</answer>", "not_an_option"),
        ("<answer>A man is singing</answer>", "not_an_option"),
        ("<answer></answer>", "empty_answer"),
        ("<answer>B or C</answer>", "multi_letter"),
        ("<answer>B. cat</answer>", "letter_text_conflict"),
        ("", "no_answer_tag"),
        ("<think>The answer is B", "unclosed_think"),
        ("◁think▷Answer: B", "unclosed_think"),
        ("<think>Answer: B</think>", "no_answer_tag"),
        ("<think>Answer: B</think>It barks.", "no_answer_tag"),
        ("</answer>", "orphan_close"),
    ],
)
def test_robust_does_not_guess(text, reason):
    assert read(text, "robust") == (None, reason)


@pytest.mark.parametrize(
    ("text", "letter", "reason"),
    [
        ("<think>first <answer>A</answer></think><answer>B</answer>", "B", "ok"),
        ("<think>first <answer>A</answer></think>Answer: B", "B", "ok"),
        ("<think>so <answer>B</answer></think>", "B", "ok"),
        ("<think>so <answer>B</answer></think>Thank you.", "B", "ok"),
        ("<think>so <answer>B</answer>", "B", "ok"),
        ("<answer>A</answer> No: <answer>B</answer>", "B", "duplicate_tag"),
        ("<ANSWER>B</ANSWER>", "B", "ok"),
        ("＜answer＞B＜/answer＞", "B", "ok"),
        ("<think></think>B", "B", "empty_think"),
        ("it barks</think>B", "B", "ok"),
        ("◁think▷a cat? Answer: A◁/think▷B<|im_assistant|>", "B", "ok"),
        ("◁think▷x◁/think▷ B ◁think▷ or", None, "unclosed_think"),
    ],
)
def test_robust_looks_after_the_thinking_and_takes_the_last_pair(text, letter, reason):
    assert read(text, "robust") == (letter, reason)


@pytest.mark.parametrize(
    ("text", "letter", "reason"),
    [
        ("Answer: B", None, "truncated"),  # may have been going to be "Both", or "B or C"
        ("It barks, so the answer is A", None, "truncated"),
        ("Answer: B\nThe sound of", "B", "ok"),
        ("<answer>B</answer> The sound", "B", "ok"),
        ("<answer>B", None, "truncated"),
        ("◁think▷it barks◁/", None, "truncated"),
        ("Answer: A or B\nBoth", None, "multi_letter"),
    ],
)
def test_robust_ignores_the_unfinished_line_of_a_cut_reply(text, letter, reason):
    assert read(text, "robust", finish_reason="length") == (letter, reason)


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("C. elegans", ("E. coli", "C. elegans"), "B"),  # an option's text, not letter C
        ("A", ("B", "A"), "A"),  # a bare letter is a letter
        ("B. A", ("B", "A"), "B"),
        ("A dog", ("cat", "A dog"), "B"),
        ("A dog", ("dog", "A dog"), None),  # "A: dog" and "A dog" are both there
        ("A man is singing", ("cat", "A man is singing"), "B"),
        ("Answer: dog barking", ("dog", "dog barking"), "B"),
        ("B. dog barking", ("cat", "dog", "dog barking"), None),
        ("same", ("same", "same"), None),
        ("B. same", ("same", "same"), "B"),
        ("Answer: 20 ℃", ("10 °C", "20 °C"), "B"),
        ("-5", ("5", "-5"), "B"),
        ("C#", ("C", "C#"), "B"),
        ("...", ("...", "x"), None),
        ("None of the above", ("cat", "None of the above"), "B"),
        ("B. There is no sound", ("cat", "There is no sound"), "B"),
    ],
)
def test_robust_with_options_that_look_like_letters(text, options, letter):
    assert read(text, "robust", options)[0] == letter


# --- the pieces that rewards use ---


def test_first_think_and_its_words():
    text = "x</think><think>one two\n three<think> four</think> five</think>"
    assert first_think(text) == "one two\n three<think> four"
    assert count_think_words(text) == 4
    assert first_think("<think>open") is None
    assert count_think_words("<think>open") == 0
    assert first_think("<think></think>") == ""


def test_answer_body_is_stripped():
    assert answer_body("x <answer> B \n</answer> y") == "B"
    assert answer_body("<answer></answer>") == ""
    assert answer_body("<answer>B</answer></answer>") is None


def test_special_tokens_are_removed():
    assert strip_special_tokens(" <|im_start|>a<|im_end|>\n<|endoftext|></s>") == "a"


def test_the_thinking_is_returned_as_written():
    assert parse("<think> a\nb </think><answer>A</answer>", OPTIONS) == ParsedAnswer("A", Reason.OK, " a\nb ")
    assert parse("◁think▷ a\nb ◁/think▷Answer: A", OPTIONS, "robust") == ParsedAnswer("A", Reason.OK, "a\nb")
    assert parse("<think>…½</think>Ａ", OPTIONS, "robust") == ParsedAnswer("A", Reason.OK, "…½")
    assert parse("Answer: A", OPTIONS, "robust").think is None


def test_a_sample_or_its_options():
    sample = Sample(id="s", question="?", options=OPTIONS, answer=0)
    assert parse("<answer>D</answer>", sample) == parse("<answer>D</answer>", OPTIONS)


def test_reasons_are_plain_strings_in_json():
    assert json.dumps({"reason": Reason.EMPTY_THINK}) == '{"reason": "empty_think"}'


@pytest.mark.parametrize("options", ["ABCD", ("cat",), (), tuple("x" * 27)])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="2 to 26 option texts"):
        parse("B", options)


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="`profile` must be one of paper, robust"):
        parse("B", OPTIONS, "lenient")


# --- real teacher outputs ---


def rows(real_data, name):
    return [json.loads(line) for line in (real_data / "traces" / name).read_text(encoding="utf-8").splitlines()]


def options_of(question):
    """The options inside a question such as ``Which? (A) x, (B) y. Please ...``."""
    texts = re.split(r"\([A-Z]\)", question.partition(" Please ")[0])[1:]
    return [text.strip().rstrip(",").rstrip() for text in texts]


def test_audio_flamingo_outputs(real_data):
    """Untagged text: the option stands in the closing sentence, with stray asterisks; captions name no option."""
    found = []
    for row in rows(real_data, "af3_think.jsonl"):
        options = options_of(row["question"]) if "question" in row else ["dog", "music"]
        found.append(read(row["text"], "robust", options))
        assert read(row["text"], "paper", options) == (None, "no_answer_tag")
    expected = [(letter, "ok") for letter in "CDBAB"] + [(None, "no_answer_tag")] * 2
    assert found == expected


def test_kimi_outputs(real_data):
    """Captions: no option to find, but the thinking must be told from the text, and cut replies recognised."""
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
    """The same real thinking, followed by what the prompt asks for."""
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


# --- properties ---

PIECES = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "◁think▷",
            "◁/think▷",
            "<|im_end|>",
            "Answer:",
            "the answer is",
        ),
        *(
            "A",
            "B",
            "(C)",
            "d",
            "E.",
            "cat",
            "dog",
            "not",
            "or",
            " ",
            "\n",
            "*",
            ".",
            ",",
            ":",
            "?",
            "A man",
            r"\boxed{",
        ),
    ]
)
REPLIES = st.one_of(st.text(), st.lists(PIECES, max_size=14).map("".join), st.lists(PIECES, max_size=14).map(" ".join))
PROFILES = st.sampled_from(["paper", "robust"])
FINISHES = st.sampled_from(["stop", "length"])


@settings(deadline=None)
@given(
    text=REPLIES,
    options=st.lists(st.one_of(st.text(max_size=8), PIECES), min_size=2, max_size=10),
    profile=PROFILES,
    finish_reason=FINISHES,
)
def test_never_raises_and_the_letter_is_an_options(text, options, profile, finish_reason):
    parsed = parse(text, options, profile, finish_reason)
    assert parsed.letter is None or (len(parsed.letter) == 1 and parsed.letter in LETTERS[: len(options)])
    assert isinstance(parsed.reason, Reason)
    if parsed.reason is Reason.OK:
        assert parsed.letter is not None


@settings(deadline=None)
@given(text=REPLIES, finish_reason=FINISHES)
def test_paper_reasons_agree_with_the_format_term(text, finish_reason):
    parsed = parse(text, OPTIONS, "paper", finish_reason)
    if parsed.letter is not None:
        assert answer_body(text) == parsed.letter
        formatted = is_formatted(text)
        assert formatted or parsed.reason is not Reason.OK
        if formatted:
            assert parsed.reason is (Reason.OK if first_think(text).strip() else Reason.EMPTY_THINK)


@settings(deadline=None)
@given(think=REPLIES, letter=st.sampled_from("ABCD"))
def test_what_the_paper_profile_reads_in_a_formatted_reply_the_robust_one_reads_too(think, letter):
    text = f"<think>{think}</think>\n<answer>{letter}</answer>"
    assume(is_formatted(text))
    assert parse(text, OPTIONS, "paper").letter == parse(text, OPTIONS, "robust").letter == letter


WORDS = st.sampled_from(["man", "woman", "is", "singing", "plays", "loudly", "near", "the", "river", "with", "rain"])


@settings(deadline=None)
@given(
    before=st.lists(WORDS, max_size=6),
    letter=st.sampled_from("ABCDabcdI"),
    after=st.lists(WORDS, min_size=0, max_size=6),
)
def test_a_letter_inside_a_sentence_is_no_answer(before, letter, after):
    assume(before or after)
    sentence = " ".join([*before, letter, *after])
    for text in (sentence, f"{sentence}.", f"<think>x</think>{sentence}", f"<answer>{sentence}</answer>"):
        assert parse(text, OPTIONS, "robust").letter is None


PLAIN_FORMS = ["{0}", "({0})", "{0}. {1}", "({0}) {1}"]
FORMS = [*PLAIN_FORMS, "Answer: {0}", "Answer: {0}. {1}", "The answer is {0}.", "the best fit is: *({0}) {1}*"]


@settings(deadline=None)
@given(data=st.data(), pair=st.permutations(range(4)))
def test_two_different_letters_are_invalid(data, pair):
    glue = data.draw(st.sampled_from(["\n", "\n\n", " or ", ", ", " / ", " and "]))
    forms = st.sampled_from(FORMS if "\n" in glue else PLAIN_FORMS)
    text = glue.join(data.draw(forms).format("ABCD"[index], OPTIONS[index]) for index in pair[:2])
    for reply in (text, f"<think>x</think>{text}", f"<answer>{text}</answer>"):
        assert parse(reply, OPTIONS, "robust").letter is None
        assert parse(reply, OPTIONS, "paper").letter is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a, " * 20_000 + "#",
            "(" * 60_000,
            "answer: " * 3_000,
            "." * 60_000 + "x",
            "<answer>" * 20_000,
            "$" * 60_000,
        ),
        *("<" + " " * 60_000, "(A) " * 20_000, "\\boxed{" * 10_000, '"' * 60_000 + "B", "the answer is B\n" * 2_000),
    ],
)
def test_long_degenerate_replies_end(text):
    """A reply that repeats itself must not blow up a pattern's backtracking (the suite's time limit would catch it)."""
    for profile in ("paper", "robust"):
        parse(text, OPTIONS, profile)
