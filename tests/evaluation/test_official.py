"""The benchmarks' own rules on replies built for each fault, and the strict score on the same replies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrt.evaluation.benchmarks import BENCHMARKS, new_record
from avrt.evaluation.benchmarks.official_rules import omnibench_letter
from avrt.evaluation.records.record import Record
from avrt.evaluation.scoring import grade_record, is_gold, score_run
from tests.evaluation.conftest import RunMaker, make_records, reply
from tests.evaluation.test_benchmarks import load

FOUR = ("cat", "dog", "owl", "cow")


def record(benchmark: str, text: str, gold: str = "B", options: tuple[str, ...] = FOUR) -> Record:
    official = options["ABCDEF".index(gold)]
    return make_records(benchmark, [text], gold=gold, options=options, official_gold=official)[0]


def scores(scored: Record, profile: str = "robust") -> tuple[bool | None, bool | None]:
    """(strict, official) of a record."""
    done = grade_record(scored, profile)  # type: ignore[arg-type]
    return done.correct_strict, done.correct_official


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("B", True, True),
        ("  b.", True, True),
        ("<think>It barks.</think><answer>B</answer>", True, False),  # any thinking reply is wrong
        ("Because it barks, no answer.", False, True),  # a word that begins with the gold letter
        ("The answer is B", True, False),
        ("", False, False),
    ],
)
def test_dailyomni_reads_the_letter_at_the_start(text: str, strict: bool, official: bool) -> None:
    assert scores(record("dailyomni", text)) == (strict, official)


def test_dailyomni_failed_items_leave_its_denominator() -> None:
    failed = replace(record("dailyomni", ""), failure="missing_media", finish_reason="missing")
    assert scores(failed) == (False, None)


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("B", True, True),
        ("The best answer is B.", True, True),
        ("A dog is heard, so the answer is B", True, False),  # the first capital A to D anywhere
        ("Cow or dog? Answer: B", True, False),
        ("Best answer: B", True, True),  # the phrase is not removed (a comma is missing), but its B is the gold letter
        ("Best option: C", False, True),  # the same, and now the reply is wrong
        ("Answer: B", True, True),  # the phrase is removed
        ("CORRECT Option: B", True, False),  # the C of a word that is not removed
        ("Best answer:Answer: C", False, True),  # the joined phrase does not match, but its second half does
        ("<think>Both.</think><answer>C</answer>", False, True),
        ("none of these", False, None),  # no letter: the row leaves the denominator
        ("", False, None),
    ],
)
def test_videomme_takes_the_first_letter_anywhere(text: str, strict: bool, official: bool | None) -> None:
    assert scores(record("videomme", text)) == (strict, official)


def test_videomme_has_its_first_script_by_name(make_run: RunMaker) -> None:
    """ "Answer: B" begins with an A, which the first script counts."""
    run = make_run("run", "videomme", ["Answer: A", "Answer: B", "B", "none of these"])
    (now,), (then,) = score_run(run), score_run(run, rule="videomme-2024-06-03")
    assert [entry.metrics["official"]["correct"] for entry in (now, then)] == [1, 2]
    assert "2024" in then.metrics["official"]["rule"]
    assert now.metrics["official"]["rule"] != then.metrics["official"]["rule"]
    assert now.metrics["strict"] == then.metrics["strict"]
    with pytest.raises(ValueError, match="--official-rule: must be one of videomme-2024-06-03, got 'first'"):
        score_run(run, rule="first")


def test_omnibench_gold_is_parsed_out_of_its_text() -> None:
    options = ("A woman explains.", "A lady asks questions.", "A man is answering some questions", "A man explains.")
    asked = record("omnibench", "C", gold="C", options=options)
    assert omnibench_letter(asked.official_gold or "", options) == "A"
    assert scores(asked) == (True, False)  # the right letter is wrong officially
    assert scores(replace(asked, text="A")) == (False, True)  # and the wrong letter A is right
    assert scores(replace(asked, text="<think>x</think><answer>C</answer>")) == (True, False)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(C)", "C"),
        ("(A) or (C)", "C"),
        ("B. dog", "B"),
        ("A or C ", "C"),
        ("B is what I hear in this clip", "B"),
        ("NASA is heard", "A"),  # a capital at a word's end counts
        ("I think that the owl is heard here", "C"),  # an option's text, in more than five words
        ("the owl", None),
        ("cat and owl and then cat again once more", "A"),  # the one found last
    ],
)
def test_omnibench_parser(text: str, letter: str | None) -> None:
    assert omnibench_letter(text, FOUR) == letter


@pytest.mark.parametrize("benchmark", ["mmar", "mmau"])
@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("B", True, False),  # a bare letter is never right
        ("dog", True, True),
        ("The answer is dog.", True, True),
        ("dog, not cat", False, False),
        ("", False, False),
        ("no idea", False, False),
    ],
)
def test_word_set_match(benchmark: str, text: str, strict: bool, official: bool) -> None:
    assert scores(record(benchmark, text)) == (strict, official)


@pytest.mark.parametrize(("name", "rows"), [("mmau", 9), ("mmar", 20)])
def test_word_set_match_scores_wrong_choices_right(real_data: Path, name: str, rows: int) -> None:
    """Order-blind: in these rows another option's words are the gold option's words."""
    benchmark, fooled = BENCHMARKS[name], 0
    for item in load(real_data, name):
        assert grade_record(new_record(benchmark, item, text=item.official_gold), "robust").correct_official
        outcomes = []
        for letter, option in zip(item.sample.letters, item.sample.options, strict=True):
            asked = new_record(benchmark, item, text=f"<answer>{letter}</answer>")
            by_letter = grade_record(asked, "robust")
            assert by_letter.correct_strict == is_gold(letter, asked)
            written = grade_record(replace(asked, text=option), "robust")
            # MMAU asks for chords too: there "C" is an option's text, but a bare C is the letter.
            if not is_gold(letter, asked) and option not in item.sample.letters:
                assert not written.correct_strict
                outcomes.append(written.correct_official)
        fooled += any(outcomes)
    assert fooled == rows


@pytest.mark.parametrize("name", ["dailyomni", "mmau", "mmar", "omnibench", "videomme", "avqa"])
def test_every_gold_answer_is_strictly_right_and_every_other_letter_wrong(real_data: Path, name: str) -> None:
    for item in load(real_data, name):
        for letter in item.sample.letters:
            for text, profile in ((reply(letter), "paper"), (letter, "robust"), (f"({letter})", "robust")):
                scored = grade_record(new_record(BENCHMARKS[name], item, text=text), profile)  # type: ignore[arg-type]
                assert scored.answer == letter
                assert scored.correct_strict == is_gold(letter, scored), (item.sample.id, letter)


def test_either_of_two_equal_options_is_right(real_data: Path) -> None:
    twins = [item for item in load(real_data, "mmau") if len(set(item.sample.options)) < len(item.sample.options)]
    assert len(twins) == 27
    seen = 0
    for item in twins:
        gold = item.sample.options[item.sample.answer]
        for letter, option in zip(item.sample.letters, item.sample.options, strict=True):
            for text in (reply(letter), f"{letter}. {option}", option):
                scored = grade_record(new_record(BENCHMARKS["mmau"], item, text=text), "robust")
                assert scored.correct_strict == (option == gold), (text, item.sample.options)
            seen += option == gold and letter != item.sample.gold
    assert seen > 0


def test_benchmarks_without_a_script_say_so() -> None:
    for name in ("avqa", "rivabench_standup", "rivabench_academic"):
        assert BENCHMARKS[name].official is None
        assert BENCHMARKS[name].official_source.startswith("ours")
        scored = grade_record(record(name, reply("B")), "paper")
        assert scored.correct_official is scored.correct_strict is True


# Replies that hold letters, options, tags and noise, in any order.
_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "◁think▷", "◁/think▷", "<|im_end|>")
_WORDS = ("A", "B", "C", "D", "cat", "dog", "owl", "Answer:", "the answer is ", "A man", "maybe", "Ｂ", "\ud800")
_PIECES = st.sampled_from([*_TAGS, *_WORDS, " ", "\n", ".", "(", ")", "\x00"])
REPLIES = st.one_of(st.text(), st.lists(_PIECES, max_size=12).map("".join))


@given(
    text=REPLIES,
    name=st.sampled_from(list(BENCHMARKS)),
    profile=st.sampled_from(["paper", "robust"]),
    gold=st.sampled_from("ABCD"),
    finish=st.sampled_from(["stop", "length"]),
    options=st.one_of(st.just(FOUR), st.lists(st.text(), min_size=4, max_size=6).map(tuple)),
)
def test_scoring_never_raises_and_no_unclear_reply_is_right(
    text: str, name: str, profile: str, gold: str, finish: str, options: tuple[str, ...]
) -> None:
    asked = replace(record(name, text, gold=gold, options=options), finish_reason=finish)
    scored = grade_record(asked, profile)  # type: ignore[arg-type]
    if scored.answer is None:
        assert scored.correct_strict is False
        assert scored.error_type == "instruction_format"
    else:
        assert scored.answer in "ABCDEF"[: len(options)]
        assert scored.correct_strict == is_gold(scored.answer, scored)
        assert scored.error_type == ("none" if scored.correct_strict else "logic")
    assert scored.correct_official in (True, False, None)
    json.loads(scored.to_json())


@given(st.text(alphabet=st.characters(exclude_characters="ABCDEFabcdef", exclude_categories=["Cs"])))
def test_a_reply_without_any_option_letter_or_text_is_never_right(text: str) -> None:
    """NFKC may turn an exotic character into a letter, which then is a clear answer; nothing else is."""
    import unicodedata

    if not set(unicodedata.normalize("NFKC", text).upper()) & set("ABCD"):
        for profile in ("paper", "robust"):
            assert not grade_record(record("videomme", text), profile).correct_strict  # type: ignore[arg-type]
