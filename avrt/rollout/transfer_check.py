"""A check after every transfer of weights: does the engine give a fixed prompt the policy's log-probabilities?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, token_logprobs
from avrt.rollout.engine import Response, SamplingConfig
from avrt.sample import Clip, Sample

TOKENS = 16
"""Length of the responses that are compared."""

LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest mean difference of a token's log-probability, by the type that the engine computes in."""

Respond = Callable[[EmbeddedPrompt, SamplingConfig], Response]
"""A response of the engine to a prompt."""


MEDIA = 2
"""Sounds in the fixed prompt; an engine has to accept as many."""

HOP = 160
"""Samples of audio that a mel frame advances by."""


def fixed_sample() -> Sample:
    """A question about noise: 4 frames at 2 per second with 4 s of sound, and another 2 s of sound.

    One mel frame more adds a token to the first sound, and one less takes a token from the second.
    """
    noise = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4, 3, 84, 112), generator=noise, dtype=torch.uint8)
    sounds = [torch.rand(mel_frames * HOP, generator=noise) * 0.2 - 0.1 for mel_frames in (402, 199)]
    return Sample(
        "transfer-check",
        "What is seen and heard?",
        ("noise", "a bell", "a dog", "rain"),
        0,
        clip=Clip(frames, (0.0, 0.5, 1.0, 1.5), 2.0, sounds[0]),
        other_clips=(Clip(None, waveform=sounds[1]),),
    )


class TransferCheck:
    """Compares the engine with the policy on a fixed audio-visual prompt.

    Args:
        student: the policy.
        sampling: the run's; its temperature is used.
        dtype: that the engine computes in.
        limit: largest mean difference of a token's log-probability; None for that of `LIMITS`.
    """

    def __init__(
        self, student: Student, sampling: SamplingConfig, dtype: torch.dtype, limit: float | None = None
    ) -> None:
        self.student = student
        self.sampling = SamplingConfig(TOKENS, sampling.temperature, sampling.kv_cache_tokens, seed=0)
        self.dtype = dtype
        self._limit = limit
        self.prompt = student.embed([student.encoder.encode(fixed_sample())])[0]  # the encoders are frozen

    @property
    def limit(self) -> float:
        """Of the engine's type, or of autocast around the check if that is coarser."""
        if self._limit is not None:
            return self._limit
        device = self.student.device.type
        policy = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype
        return max(LIMITS[self.dtype], LIMITS.get(policy, 0.0))

    def run(self, respond: Respond) -> float:
        """Ask an engine, and `judge` its response."""
        return self.judge(respond(self.prompt, self.sampling))

    @torch.no_grad()
    def judge(self, response: Response) -> float:
        """The mean difference over the tokens of an engine's response to `prompt` with `sampling`.

        Raises:
            ValueError: it is above the limit.
        """
        scores = token_logprobs(
            self.student.language_model,
            [self.prompt],
            [[response.token_ids]],
            temperature=self.sampling.temperature,
            banned=self.student.banned_tokens,
        )
        difference = float((scores.logprobs[0].float().cpu() - response.logprobs).abs().mean())
        if not difference <= self.limit:  # nan too
            shown = "not a number" if math.isnan(difference) else f"{difference:.4g}"
            raise ValueError(
                f"the rollout engine does not sample from the policy: after the transfer of weights the "
                f"log-probabilities of a fixed prompt differ by {shown} a token (limit {self.limit:g}); the step is "
                "not taken. See docs/rollout.md for causes"
            )
        return difference
