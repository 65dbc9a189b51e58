"""Responses with a thinking budget: after so many tokens the thinking is closed and the answer is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

ANSWER_TOKENS = 32
"""Fewest tokens for the answer behind the closed thinking, whatever the token limit leaves."""


@dataclass(frozen=True)
class ThinkingBudget:
    """Samples responses, or changes sampled ones, so that their thinking has no more than a number of tokens.

    A budget counts the tokens of a response from its start. A response that has closed its thinking within them is as
    it was.

    Attributes:
        engine: sampling settings to engine.
        sampling: settings of responses without a budget.
        encode: text to token ids, without special tokens.
        decode: token ids to text.
    """

    engine: Callable[[SamplingConfig], RolloutEngine]
    sampling: SamplingConfig
    encode: Callable[[str], list[int]]
    decode: Callable[[Tensor], str]

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int], budget: int
    ) -> list[list[Response]]:
        """Like `RolloutEngine.generate`, with a budget; tokens of thinking past the budget are never computed."""
        if budget:
            first = self.engine(replace(self.sampling, max_completion_length=budget))
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
        places, prefixes = [], []
        for i, group in enumerate(groups):
            for j, response in enumerate(group):
                prefix = self._prefix(response, budget)
                if prefix is not None:
                    places.append((i, j))
                    prefixes.append(prefix)
        if not places:
            return changed
        tokens_left = max(ANSWER_TOKENS, self.sampling.max_completion_length - budget)
        answers = self.engine(replace(self.sampling, max_completion_length=tokens_left)).generate(
            [continued(prompts[i], prefix.token_ids) for (i, _), prefix in zip(places, prefixes, strict=True)],
            1,
            # Another stream than that of the response, which has used the numbers of its own up to here.
            [(seeds[i] + 1 + j) % 2**63 for i, j in places],
        )
        for (i, j), prefix, (answer,) in zip(places, prefixes, answers, strict=True):
            changed[i][j] = Response(
                torch.cat([prefix.token_ids, answer.token_ids]),
                torch.cat([prefix.logprobs, answer.logprobs]),
                answer.finished,
            )
        return changed

    def _prefix(self, response: Response, budget: int) -> Response | None:
        """The part of a response that its answer continues; None if it keeps within the budget by itself."""
        tokens = response.token_ids
        kept = min(budget, len(tokens))
        text = self.decode(tokens[:kept])
        if response.finished and len(tokens) <= budget:
            return None
        if THINK_CLOSED in text:
            return None if len(tokens) > budget else response
        while kept and text.endswith(_PARTIAL_TAGS):
            kept -= 1
            text = self.decode(tokens[:kept])
        kept, closing = self._closing(
            tokens[:kept], ASK_FOR_ANSWER if THINK_OPEN in text else THINK_OPEN + ASK_FOR_ANSWER
        )
        forced = torch.tensor(closing, dtype=torch.long)
        return Response(
            torch.cat([tokens[:kept], forced]),
            # These tokens were not drawn, so they have no log-probability.
            torch.cat([response.logprobs[:kept], torch.full((len(forced),), float("nan"))]),
            finished=False,
        )

    def _closing(self, tokens: Tensor, text: str) -> tuple[int, list[int]]:
        """The number of tokens that stay, and those of `text` behind them.

        They are the tokens that the student was trained on: ``>D`` may be one token, and ``.</`` another. So those that
        depend on the letter are left to the student, and the last one before the text is divided anew with it.
        """
        kept = len(tokens)
        if kept and self.encode(last := self.decode(tokens[-1:])) == tokens[-1:].tolist():
            kept, text = kept - 1, last + text
        return kept, _shared_beginning([self.encode(text + letter) for letter in LETTERS])


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
