"""The demo's judge over real HTTP: it measures the clip, and the judge reward reads its scores."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from avrt.demo.clips import COLORS, PITCHES, render_clip
from avrt.demo.judge import judge
from avrt.demo.questions import DemoQuestion, plan_clips, plan_questions
from avrt.demo.servers import JUDGE_MODEL, server_url
from avrt.demo.trace_run import demo_server
from avrt.media.reader import read_clip
from avrt.rewards import JudgeReward
from avrt.sample import Completion, Sample
from avrt.servers.config import ServerConfig
from avrt.servers.local_server import free_port
from avrt.text.rubrics import Rubric

COUNT = 6


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[DemoQuestion, Sample]]:
    """Some questions of the demo with their clips."""
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for question in plan_questions(plan_clips("train", 64, seed=0), 1)[:COUNT]:
        buffer, path = io.BytesIO(), folder / f"{question.clip.name}.mp4"
        render_clip(question.clip, buffer)
        path.write_bytes(buffer.getvalue())
        sample = Sample(str(question.id), question.text, question.options, question.answer, clip=read_clip(path))
        found.append((question, sample))
    return found


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    with demo_server(port):
        yield server_url(port)


def reward(url: str, rubric: str) -> JudgeReward:
    server = ServerConfig([url], model=JUDGE_MODEL, sampling={"max_tokens": 64, "temperature": 0.0})
    return JudgeReward(server, rubric, max_failed_share=0.0)


def with_other(trace: str, word: str, words: object) -> str:
    """A trace that claims another color or pitch."""
    other = next(name for name in words if name != word)  # type: ignore[attr-defined]
    return trace.replace(word, other)


def test_claims_are_measured_in_the_clip(questions: list[tuple[DemoQuestion, Sample]], url: str) -> None:
    completions, expected = [], []
    for question, sample in questions:
        trace = question.trace()
        wrong_color = with_other(trace, question.clip.color, COLORS)
        for text, score in (
            (trace, 1.0),
            (wrong_color, 0.5),
            (with_other(wrong_color, question.clip.pitch, PITCHES), 0.0),
            (trace.replace(question.clip.pitch, "a sound"), 0.5),
            (f"<think>{' '.join([*COLORS, *PITCHES])}</think><answer>A</answer>", 0.0),
            (trace.partition("</think>")[2], 0.0),
        ):
            completions.append(Completion(sample, text))
            expected.append(score)
    result = reward(url, "grounding").score(completions)
    assert result.values == expected
    assert sum(result.curves["called"]) == 5 * COUNT


def test_the_answer_is_compared_with_the_reasoning(questions: list[tuple[DemoQuestion, Sample]], url: str) -> None:
    completions, expected = [], []
    for question, sample in questions:
        trace = question.trace()
        gold, other = sample.gold, next(letter for letter in sample.letters if letter != sample.gold)
        for text, score in (
            (trace, 1.0),
            (trace.replace(f"<answer>{gold}", f"<answer>{other}"), 0.0),
            (trace.replace(f"{gold}.</think>", f"{other}.</think>"), 0.5),
            (trace.replace("So ", "Perhaps "), 0.5),
        ):
            completions.append(Completion(sample, text))
            expected.append(score)
    assert reward(url, "consistency").score(completions).values == expected


def test_the_judge_replies_as_the_rubric_asks() -> None:
    sample = Sample("s", "Which?", ("red bell", "blue hum"), 0)
    response = "<think>I see red. I hear bell. So A.</think><answer>B</answer>"
    for form in ("line", "json"):
        rubric = Rubric("{options}\n{thinking}\n{answer}", (1, 5), reply=form)  # type: ignore[arg-type]
        prompt = rubric.fill(sample, response)
        assert prompt is not None
        options = dict(zip(sample.letters, sample.options, strict=True))
        for color, pitch, score in ((None, None, 0.0), ("red", None, 1 / 3), ("red", "bell", 0.5)):
            assert rubric.read_score(judge(prompt, options, color, pitch)) == pytest.approx(score, abs=1e-5)
    with pytest.raises(ValueError, match="no reasoning"):
        judge("What is it?", {}, None, None)
