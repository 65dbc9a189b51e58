"""The ceilings of the question set, proved by letting the best possible player loose on the annotations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from fractions import Fraction

import pytest

from avrt.demo.clips import COLORS, PITCHES
from avrt.demo.questions import BLOCK_SIZE, MAX_QUESTIONS_PER_CLIP, DemoQuestion, plan_clips, plan_questions
from avrt.sample import LETTERS

SETS = [("train", 768, 3, 0), ("val", 16, 1, 0), ("val", 128, MAX_QUESTIONS_PER_CLIP, 7)]


@pytest.fixture(params=SETS, ids=lambda value: "-".join(map(str, value)))
def questions(request: pytest.FixtureRequest) -> list[DemoQuestion]:
    split, n_clips, questions_per_clip, seed = request.param
    return plan_questions(plan_clips(split, n_clips, seed), questions_per_clip)


def best_accuracy(questions: Iterable[DemoQuestion], seen: Callable[[DemoQuestion], Hashable]) -> Fraction:
    """Best accuracy of a model that has memorized the whole set and sees only `seen` of a question."""
    answers: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for question in questions:
        answers[seen(question)][question.answer] += 1
    right = sum(max(counts.values()) for counts in answers.values())
    return Fraction(right, sum(counts.total() for counts in answers.values()))


def text(question: DemoQuestion) -> tuple[str, tuple[str, ...]]:
    return question.text, question.options


def test_ceilings_of_a_player_with_perfect_memory(questions: list[DemoQuestion]) -> None:
    assert best_accuracy(questions, text) == Fraction(1, 4)
    assert best_accuracy(questions, lambda q: (text(q), q.clip.color)) == Fraction(1, 2)
    assert best_accuracy(questions, lambda q: (text(q), q.clip.pitch)) == Fraction(1, 2)
    assert best_accuracy(questions, lambda q: (text(q), q.clip.color, q.clip.pitch)) == 1


def test_a_player_who_reads_the_options_needs_no_memory(questions: list[DemoQuestion]) -> None:
    for question in questions:
        named = [tuple(option.split(" ")) for option in question.options]
        colors, pitches = {color for color, _ in named}, {pitch for _, pitch in named}
        assert set(named) == {(color, pitch) for color in colors for pitch in pitches}
        assert (len(colors), len(pitches)) == (2, 2)
        assert named.index((question.clip.color, question.clip.pitch)) == question.answer


TEXT_STATISTICS: dict[str, Callable[[DemoQuestion, int], Hashable]] = {
    "letter": lambda q, i: i,
    "letter after this wording": lambda q, i: (q.text, i),
    "option": lambda q, i: q.options[i],
    "option at this letter": lambda q, i: (q.options[i], i),
    "color": lambda q, i: q.options[i].split(" ")[0],
    "pitch": lambda q, i: q.options[i].split(" ")[1],
    "pitch at this letter": lambda q, i: (q.options[i].split(" ")[1], i),
    "option before this one": lambda q, i: (q.options[i - 1], q.options[i]),
    "all options": lambda q, i: (frozenset(q.options), q.options[i]),
}


@pytest.mark.parametrize("statistic", TEXT_STATISTICS.values(), ids=TEXT_STATISTICS.keys())
def test_no_statistic_of_the_training_text_beats_chance(statistic: Callable[[DemoQuestion, int], Hashable]) -> None:
    train = plan_questions(plan_clips("train", 512, 0), 3)
    val = plan_questions(plan_clips("val", 128, 0), 3)
    right: Counter[Hashable] = Counter()
    shown: Counter[Hashable] = Counter()
    for question in train:
        for i in range(4):
            shown[statistic(question, i)] += 1
            right[statistic(question, i)] += i == question.answer

    def score(question: DemoQuestion, i: int) -> float:
        key = statistic(question, i)
        return right[key] / shown[key] if shown[key] else 0.25

    for questions in (train, val):
        guessed = [max(range(4), key=lambda i, q=question: score(q, i)) for question in questions]
        hits = sum(guess == question.answer for guess, question in zip(guessed, questions, strict=True))
        assert Fraction(hits, len(questions)) == Fraction(1, 4)


def test_letters_classes_and_pairs_are_balanced(questions: list[DemoQuestion]) -> None:
    n = len(questions)
    assert Counter(q.answer for q in questions) == dict.fromkeys(range(4), n // 4)
    assert Counter(q.clip.color for q in questions) == dict.fromkeys(COLORS, n // 4)
    assert Counter(q.clip.pitch for q in questions) == dict.fromkeys(PITCHES, n // 4)
    assert Counter((q.clip.color, q.clip.pitch) for q in questions) == {
        (color, pitch): n // BLOCK_SIZE for color in COLORS for pitch in PITCHES
    }


def test_a_clips_questions_oppose_it_to_different_classes(questions: list[DemoQuestion]) -> None:
    wrong: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        words = {word for option in question.options for word in option.split(" ")}
        wrong[question.clip.name] += words - {question.clip.color, question.clip.pitch}
    assert all(len(set(words)) == len(words) for words in wrong.values())


def test_annotations_follow_the_avqa_schema(questions: list[DemoQuestion]) -> None:
    records = [question.annotation() for question in questions]
    for record in records:
        assert {key: type(value) for key, value in record.items()} == {
            "id": int,
            "video_name": str,
            "video_id": int,
            "question_text": str,
            "multi_choice": list,
            "answer": int,
            "question_relation": str,
            "question_type": str,
        }
        assert len(set(record["multi_choice"])) == 4
        assert (record["question_relation"], record["question_type"]) == ("Both", "Which")
    assert len({record["id"] for record in records}) == len(records)
    assert len({(record["video_name"], record["video_id"]) for record in records}) == len(
        {record["video_id"] for record in records}
    )


def test_train_and_val_share_no_id_and_no_clip() -> None:
    train = plan_questions(plan_clips("train", 128, 0), 2)
    val = plan_questions(plan_clips("val", 128, 0), 3)
    for key in ("id", "video_id", "video_name"):
        assert not {q.annotation()[key] for q in train} & {q.annotation()[key] for q in val}


def test_a_larger_set_extends_a_smaller_one() -> None:
    small, large = plan_clips("train", 64, 5), plan_clips("train", 192, 5)
    assert large[:64] == small
    assert plan_questions(large, 3)[: 64 * 3] == plan_questions(small, 3)
    assert plan_clips("train", 64, 6) != small


def test_traces_name_what_is_there_and_end_in_the_right_letter(questions: list[DemoQuestion]) -> None:
    n_words = Counter()
    for question in questions:
        letter = LETTERS[question.answer]
        opening, _, rest = question.trace().partition("<think>")
        thought, _, answer = rest.partition("</think>\n")
        assert opening == ""
        assert answer == f"<answer>{letter}</answer>"
        words = thought.replace(".", " ").split()
        assert [word for word in words if word in COLORS] == [question.clip.color]
        assert [word for word in words if word in PITCHES] == [question.clip.pitch]
        with_color, with_pitch = (
            [LETTERS[i] for i, option in enumerate(question.options) if name in option.split()]
            for name in (question.clip.color, question.clip.pitch)
        )
        assert set(with_color) & set(with_pitch) == {letter}
        named = [word for word in words if word in "ABCD"]
        assert named == [*with_color, *with_pitch, letter]
        n_words[len(words)] += 1
    assert n_words == {12: len(questions)}


@pytest.mark.parametrize("n_clips", [0, -16, 15, 100])
def test_a_number_of_clips_that_cannot_be_balanced_is_refused(n_clips: int) -> None:
    with pytest.raises(ValueError, match=f"`val_clips` must be a positive multiple of {BLOCK_SIZE}.*try [1-9]"):
        plan_clips("val", n_clips, 0)


@pytest.mark.parametrize("questions_per_clip", [0, MAX_QUESTIONS_PER_CLIP + 1])
def test_too_many_questions_per_clip_are_refused(questions_per_clip: int) -> None:
    with pytest.raises(ValueError, match="`questions_per_clip`"):
        plan_questions(plan_clips("val", 64, 0), questions_per_clip)
