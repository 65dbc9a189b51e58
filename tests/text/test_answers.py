"""The answer parser: both profiles' rules, case by case."""

import json

import pytest

from avrt.sample import Sample
from avrt.text.answers import (
    ParsedAnswer,
    Reason,
    answer_body,
    count_think_words,
    first_think,
    parse,
    strip_special_tokens,
)

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
        # The answer is the body of the one pair, whatever else the reply says: the reward needs no more.
        (f"{THOUGHT}<answer>B</answer> Wait, the answer is C.", "B", "trailing_text"),
        ("<think>Maybe <answer>A</answer>? No.</think> B", "A", "trailing_text"),
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
        ("The answer is B or C because both fit", "multi_letter"),
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
        ("The answer is B. No wait, maybe C.", "multi_letter"),
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
