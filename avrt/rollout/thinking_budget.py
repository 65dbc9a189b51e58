"""Responses with a thinking budget: after so many tokens the thinking is closed and the answer is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.engine import Response, RolloutEngine, SamplingConfig
from avrt.sample import LETTERS

THINK_OPEN = "<think>"
THINK_CLOSED = "</think>"
ASK_FOR_ANSWER = "</think>\n<answer>"
"""Text that closes the thinking, as in the target of supervised fine-tuning (`avrt.text.prompts.format_target`)."""

_PARTIAL_TAGS = tuple(tag[:size] for tag in (THINK_OPEN, THINK_CLOSED) for size in range(1, len(tag)))

STREAMS = 2**32
"""Distance of the random streams of an answer's first token and of its others."""

ANSWER_TOKENS = 32
"""Fewest tokens for the answer behind the closed thinking, whatever the token limit leaves."""


@dataclass(frozen=True)
class ThinkingBudget:
    """Samples responses, or changes sampled ones, so that their thinking has no more than a number of tokens.

    Where the thinking is closed, the answer begins with a letter: if the tokenizer joins ``>`` and the letter, the
    first token is drawn from those that begin an answer.

    A budget counts the tokens of a response from its start. A response that has closed its thinking within them is as
    it was.

    Attributes:
        engine: sampling settings, and the only tokens to sample or None for all, to engine.
        sampling: settings of responses without a budget.
        encode: text to token ids, without special tokens.
        decode: token ids to text.
        opening: what the chat template writes of every response itself.
    """

    engine: Callable[[SamplingConfig, Collection[int] | None], RolloutEngine]
    sampling: SamplingConfig
    encode: Callable[[str], list[int]]
    decode: Callable[[Tensor], str]
    opening: str = ""

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int], budget: int
    ) -> list[list[Response]]:
        """Like `RolloutEngine.generate`, with a budget; tokens of thinking past the budget are never computed."""
        if budget:
            first = self.engine(replace(self.sampling, max_completion_length=budget), None)
            groups = first.generate(prompts, num_generations, seeds)
        else:
            nothing = Response(torch.empty(0, dtype=torch.long), torch.empty(0), finished=False)
            groups = [[nothing] * num_generations for _ in prompts]
        return self.closed(prompts, groups, seeds, budget)

    def closed(
        self, prompts: Sequence[EmbeddedPrompt], groups: Sequence[Sequence[Response]], seeds: Sequence[int], budget: int
    ) -> list[list[Response]]:
        """The responses as they would be with a budget.

        Args:
            groups: the responses to each prompt; those that have not ended have `budget` tokens or more.
        """
        changed = [list(group) for group in groups]
        begun: dict[tuple[int, int], tuple[Response, frozenset[int]]] = {}
        for i, group in enumerate(groups):
            for j, response in enumerate(group):
                found = self._prefix(response, budget)
                if found is not None:
                    begun[i, j] = found
        if not begun:
            return changed
        prefixes = {place: prefix for place, (prefix, _) in begun.items()}
        tokens_left = max(ANSWER_TOKENS, self.sampling.max_completion_length - budget)
        joined = [place for place, (_, first_tokens) in begun.items() if first_tokens]
        if joined:
            only = frozenset[int]().union(*(first_tokens for _, first_tokens in begun.values()))
            engine = self.engine(replace(self.sampling, max_completion_length=1), only)
            prefixes |= _continue(engine, prompts, {place: prefixes[place] for place in joined}, seeds, 0)
        engine = self.engine(replace(self.sampling, max_completion_length=tokens_left), None)
        for (i, j), whole in _continue(engine, prompts, prefixes, seeds, 1).items():
            changed[i][j] = whole
        return changed

    def _prefix(self, response: Response, budget: int) -> tuple[Response, frozenset[int]] | None:
        """The part of a response that its answer continues, and the tokens of which the next one must be, empty for
        any; None if it keeps within the budget by itself."""
        tokens = response.token_ids
        kept = min(budget, len(tokens))
        text = self.decode(tokens[:kept])
        if response.finished and len(tokens) <= budget:
            return None
        if THINK_CLOSED in text:
            return None if len(tokens) > budget else (response, frozenset())
        while kept and text.endswith(_PARTIAL_TAGS):
            kept -= 1
            text = self.decode(tokens[:kept])
        closing = ASK_FOR_ANSWER if THINK_OPEN in self.opening + text else THINK_OPEN + ASK_FOR_ANSWER
        kept, forced_ids, first_tokens = self._closing(tokens[:kept], closing)
        forced = torch.tensor(forced_ids, dtype=torch.long)
        prefix = Response(
            torch.cat([tokens[:kept], forced]),
            # These tokens were not drawn, so they have no log-probability.
            torch.cat([response.logprobs[:kept], torch.full((len(forced),), float("nan"))]),
            finished=False,
        )
        return prefix, first_tokens

    def _closing(self, tokens: Tensor, text: str) -> tuple[int, list[int], frozenset[int]]:
        """The number of tokens that stay, those of `text` behind them, and those that may be next, empty for any.

        They are the tokens that the student was trained on: ``>D`` may be one token, and ``.</`` another. So those that
        depend on the letter are left to the student, and the last one before the text is divided anew with it.
        """
        kept = len(tokens)
        if kept and self.encode(last := self.decode(tokens[-1:])) == tokens[-1:].tolist():
            kept, text = kept - 1, last + text
        with_letter = [self.encode(text + letter) for letter in LETTERS]
        shared = _shared_beginning(with_letter)
        is_whole = len(shared) == len(self.encode(text))
        return kept, shared, frozenset() if is_whole else frozenset(ids[len(shared)] for ids in with_letter)


def _continue(
    engine: RolloutEngine,
    prompts: Sequence[EmbeddedPrompt],
    prefixes: dict[tuple[int, int], Response],
    seeds: Sequence[int],
    stream: int,
) -> dict[tuple[int, int], Response]:
    """Responses that continue some prefixes, by prompt and number."""
    answers = engine.generate(
        [continued(prompts[i], prefix.token_ids) for (i, _), prefix in prefixes.items()],
        1,
        # Other random streams than that of the response, which has used the numbers of its own up to here.
        [(seeds[i] + 1 + j + stream * STREAMS) % 2**63 for i, j in prefixes],
    )
    return {
        place: Response(
            torch.cat([prefix.token_ids, answer.token_ids]),
            torch.cat([prefix.logprobs, answer.logprobs]),
            answer.finished,
        )
        for (place, prefix), (answer,) in zip(prefixes.items(), answers, strict=True)
    }


def _shared_beginning(sequences: Sequence[Sequence[int]]) -> list[int]:
    return [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*sequences, strict=False))]


def continued(prompt: EmbeddedPrompt, token_ids: Tensor) -> EmbeddedPrompt:
    """A prompt with the first tokens ``[C]`` of a response behind it; media features are not computed again."""
    device = prompt.input_ids.device
    start = prompt.position_ids.max() + 1
    positions = start + torch.arange(len(token_ids), device=device)
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, token_ids.to(device)]),
        position_ids=torch.cat([prompt.position_ids, positions.expand(3, -1).to(prompt.position_ids.dtype)], dim=1),
    )
