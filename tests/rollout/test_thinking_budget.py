"""Thinking budgets: the answer continues exactly what was thought, and what keeps within the budget is unchanged."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
import torch

from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, RolloutEngine, SamplingConfig
from avrt.rollout.thinking_budget import ThinkingBudget, continued
from avrt.text.prompts import format_target
from tests.tiny_student import mixed_samples

GREEDY = SamplingConfig(max_completion_length=24, temperature=0.0)


def engine(student: Student, sampling: SamplingConfig, only: Collection[int] | None = None) -> TransformersRollout:
    banned = student.banned_tokens
    if only is not None:
        banned = torch.ones_like(banned)
        banned[list(only)] = False
    return TransformersRollout(student.language_model, sampling, student.eos_token_ids, banned)


def embedded(student: Student) -> list[EmbeddedPrompt]:
    return student.embed([student.encoder.encode(sample) for sample in mixed_samples()])


def test_a_prompt_with_the_first_tokens_continues_as_the_response_did(student32: Student) -> None:
    """Prompts with video, audio, an image and text alone, cut at several places."""
    prompts = embedded(student32)
    groups = engine(student32, GREEDY).generate(prompts, 1, [0] * len(prompts))
    for cut in (1, 5, 11):
        longer = [continued(prompt, group[0].token_ids[:cut]) for prompt, group in zip(prompts, groups, strict=True)]
        rest = engine(student32, replace(GREEDY, max_completion_length=24 - cut)).generate(longer, 1, [0] * len(longer))
        for (whole,), (tail,) in zip(groups, rest, strict=True):
            assert tail.token_ids.tolist() == whole.token_ids[cut:].tolist()
            torch.testing.assert_close(tail.logprobs, whole.logprobs[cut:], rtol=0, atol=1e-5)


def test_the_answer_follows_the_closed_thinking(student32: Student) -> None:
    prompts = embedded(student32)
    tokenizer = student32.processor.tokenizer

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    budget = ThinkingBudget(lambda sampling, only: engine(student32, sampling, only), GREEDY, encode, student32.decode)
    groups = budget.generate(prompts, 1, [0] * len(prompts), 6)
    full = engine(student32, GREEDY).generate(prompts, 1, [0] * len(prompts))
    for prompt, (limited,), (whole,) in zip(prompts, groups, full, strict=True):
        # The untrained student opens no thinking. The last token of six may be divided anew with the text behind it.
        text = student32.decode(whole.token_ids[:6]) + "<think></think>\n<answer"
        assert student32.decode(limited.token_ids).startswith(text)
        (forced,) = limited.logprobs.isnan().nonzero(as_tuple=True)
        assert forced[0] in (5, 6)
        assert forced.tolist() == list(range(forced[0], forced[-1] + 1))
        assert limited.token_ids[: forced[0]].tolist() == whole.token_ids[: forced[0]].tolist()
        torch.testing.assert_close(limited.logprobs[: forced[0]], whole.logprobs[: forced[0]], rtol=0, atol=1e-5)
        answer = limited.token_ids[forced[-1] + 1 :]
        assert len(answer)
        # The answer's log-probabilities are those of the whole row, thinking and closing tag included.
        scores = token_logprobs(
            student32.language_model, [prompt], [[limited.token_ids]], banned=student32.banned_tokens
        ).logprobs[0]
        # Not of the first one: it is drawn from the tokens that begin an answer.
        torch.testing.assert_close(limited.logprobs[1 - len(answer) :], scores[1 - len(answer) :], rtol=0, atol=1e-5)


def test_the_student_continues_tokens_of_its_training() -> None:
    """Where ``>D`` or ``.</`` is one token, ``<answer>`` and ``</think>`` alone end or begin in others."""
    thinking = "A dog barks. It is loud."
    targets = {letter: format_target(thinking, letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    tokenizer = build_tiny_tokenizer([*targets.values()] * 3, vocab_size=700)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(tokens: torch.Tensor) -> str:
        return tokenizer.decode(tokens.tolist())

    assert encode("<answer>D</answer>") != encode("<answer>") + encode("D</answer>")
    assert encode("loud.</think>") != encode("loud.") + encode("</think>")
    begun: list[list[int]] = []

    class Engine:
        """Answers D: the first token is the one of those that are allowed, if not all are."""

        def __init__(self, only: Collection[int] | None) -> None:
            self.only = only

        def generate(
            self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
        ) -> list[list[Response]]:
            begun.extend(prompt.input_ids.tolist() for prompt in prompts)
            text = "</answer>" if self.only is None else ">D"
            ids = torch.tensor(encode(text))
            assert self.only is None or set(ids.tolist()) <= set(self.only)
            return [[Response(ids, torch.zeros(len(ids)), finished=self.only is None)] for _ in prompts]

    limited = ThinkingBudget(lambda sampling, only: Engine(only), SamplingConfig(100, 0.0), encode, decode)
    whole = torch.tensor(encode(f"<think>{thinking} And so on, for long.</think>"))
    for budget in range(len(encode("<think>")), len(encode(f"<think>{thinking}")) + 1):
        begun.clear()
        reply = Response(whole, torch.zeros(len(whole)), finished=False)
        ((closed,),) = limited.closed([PROMPT], [[reply]], [0], budget)
        assert decode(closed.token_ids) == decode(whole[:budget]) + "</think>\n<answer>D</answer>"
        for letter in targets:
            expected = encode(decode(whole[:budget]) + f"</think>\n<answer>{letter}</answer>")
            assert begun[0] == expected[: len(begun[0])], (budget, letter)
            assert tokenizer.decode(begun[0]).endswith("<answer")


class Scripted:
    """An engine whose responses are given as text, one character per token; notes its prompts."""

    def __init__(self, thinking: str, answer: str) -> None:
        self.thinking, self.answer = thinking, answer
        self.asked: list[str] = []
        self.limits: list[int] = []

    def engine(self, sampling: SamplingConfig, only: Collection[int] | None) -> RolloutEngine:
        self.limits.append(sampling.max_completion_length)
        outer = self

        class Engine:
            def generate(
                self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
            ) -> list[list[Response]]:
                begun = [decode(prompt.input_ids) for prompt in prompts]
                outer.asked += begun
                texts = [outer.answer if text else outer.thinking for text in begun]
                return [[cut(text, sampling.max_completion_length)] * num_generations for text in texts]

        return Engine()

    def budget(self, limit: int = 100) -> ThinkingBudget:
        return ThinkingBudget(self.engine, SamplingConfig(limit, 0.0), lambda text: [ord(c) for c in text], decode)


def decode(tokens: torch.Tensor) -> str:
    return "".join(chr(token) for token in tokens.tolist())


def cut(text: str, limit: int) -> Response:
    tokens = torch.tensor([ord(c) for c in text[:limit]])
    return Response(tokens, torch.zeros(len(tokens)), finished=len(text) <= limit)


PROMPT = EmbeddedPrompt(
    torch.empty(0, dtype=torch.long),
    torch.full((3, 1), 7),
    torch.empty(0, dtype=torch.long),
    torch.empty(0, 4),
)

WHOLE = "<think>a dog barks</think>\n<answer>B</answer>"


@pytest.mark.parametrize("way", ["generate", "closed"])
@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (0, "<think></think>\n<answer>C</answer>"),
        (3, "<think></think>\n<answer>C</answer>"),  # within <think>: no broken tag stays
        (12, "<think>a dog</think>\n<answer>C</answer>"),
        (18, "<think>a dog barks</think>\n<answer>C</answer>"),
        (23, "<think>a dog barks</think>\n<answer>C</answer>"),  # within </think>: no broken tag stays
        (len(WHOLE), WHOLE),
        (len(WHOLE) + 9, WHOLE),
    ],
)
def test_the_text_of_a_reply_with_a_budget(way: str, budget: int, text: str) -> None:
    script = Scripted(WHOLE, "C</answer>")
    limited = script.budget()
    if way == "generate":
        ((response,),) = limited.generate([PROMPT], 1, [0], budget)
    else:
        ((response,),) = limited.closed([PROMPT], [[cut(WHOLE, 100)]], [0], budget)
    assert decode(response.token_ids) == text
    assert response.finished
    assert len(response.logprobs) == len(response.token_ids)
    assert math.isnan(response.logprobs.sum()) == (budget < len(WHOLE))


def test_thinking_that_ends_within_the_budget_is_never_cut() -> None:
    script = Scripted(WHOLE, "C</answer>")
    ((kept,),) = script.budget().closed([PROMPT], [[cut(WHOLE, 100)]], [0], WHOLE.index("</think>") + 9)
    assert decode(kept.token_ids) == WHOLE
    # Sampled up to the budget only, it continues from there without a forced closing tag.
    start = WHOLE.index("</think>") + 9
    ((rest,),) = script.budget().generate([PROMPT], 1, [0], start)
    assert decode(rest.token_ids) == WHOLE[:start] + "C</answer>"
    assert not rest.logprobs.isnan().any()
    assert script.limits[-2:] == [start, 100 - start]


def test_an_answer_always_has_room() -> None:
    script = Scripted("<think>" + "so " * 50, "C</answer>")
    ((response,),) = script.budget(limit=40).generate([PROMPT], 1, [0], 39)
    assert decode(response.token_ids).endswith("</think>\n<answer>C</answer>")
    assert script.limits == [39, 32]


@pytest.mark.parametrize(
    ("budget", "text"), [(0, "</think>\n<answer>C</answer>"), (5, "a dog</think>\n<answer>C</answer>")]
)
def test_thinking_that_the_prompt_has_opened_is_not_opened_again(budget: int, text: str) -> None:
    scripted = Scripted("a dog barks</think>\n<answer>B</answer>", "C</answer>")
    limited = replace(scripted.budget(), opening="<think>\n")
    ((response,),) = limited.generate([PROMPT], 1, [0], budget)
    assert decode(response.token_ids) == text
