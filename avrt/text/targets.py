"""Reasoning that came with a question, checked before it is a target of supervised fine-tuning."""

from __future__ import annotations

from avrt.sample import Sample
from avrt.text.answers import Reason, parse
from avrt.text.prompts import format_target

NO_REASONING = "no_reasoning"
WRONG_ANSWER = "wrong_answer"
"""Reasons against a target, beside those of `avrt.text.answers.Reason` (the format)."""


class TargetError(ValueError):
    """Reasoning that cannot be taught; `reason` is a short code, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def checked_target(sample: Sample) -> str:
    """The target text made of the reasoning in a sample's `trace`.

    The rule is the one for a merger's replies in `avrt.traces.sample_filter`: a think pair with text, then an answer
    pair with the letter of one option, and nothing around them; and that option is the gold one.

    Raises:
        TargetError: there is none, or it does not follow the rule.
    """
    if sample.trace is None:
        raise TargetError(NO_REASONING, "the row has no reasoning")
    parsed = parse(sample.trace, sample, "paper")
    if parsed.letter is None or parsed.reason is not Reason.OK:
        raise TargetError(parsed.reason.value, f"the reasoning ends: {sample.trace[-80:]!r}")
    if not sample.is_right(parsed.letter):
        raise TargetError(WRONG_ANSWER, f"the reasoning answers {parsed.letter}, the gold answer is {sample.gold}")
    assert parsed.think is not None
    return format_target(parsed.think, parsed.letter)
