"""Completions, and judges of a scripted server, for tests."""

from __future__ import annotations

import re
from typing import Any

import torch

from avrt.rewards import JudgeReward
from avrt.sample import Clip, Completion, Sample
from avrt.servers.config import ServerConfig
from tests.servers.scripted_server import Reply

CLIP = Clip(
    frames=torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).to(torch.uint8),
    timestamps=(0.0, 1.0),
    fps=1.0,
    waveform=torch.linspace(-0.5, 0.5, 800),
)
SAMPLE = Sample("s", "What is heard?", ("cat", "dog"), 0, clip=CLIP)


def completion(thinking: str, answer: str = "A", sample: Sample = SAMPLE) -> Completion:
    return Completion(sample, f"<think>{thinking}</think>\n<answer>{answer}</answer>")


def thinking_of(prompt: str) -> str:
    """The reasoning in a judge's prompt."""
    found = re.search(r"<thinking>\n((?:> .*\n)+)</thinking>", prompt)
    assert found
    return "\n".join(line[2:] for line in found[1].splitlines())


def count_words(body: dict[str, Any], text: str, times: int) -> Reply:
    """A judge that gives one point for each word of the reasoning."""
    return Reply(f"These are words.\nScore: {len(thinking_of(text).split())}")


def reward(url: str, **settings: Any) -> JudgeReward:
    server: dict[str, Any] = {
        "model": "m",
        "sampling": {"max_tokens": 8, "temperature": 0.0},
        "max_concurrency": 4,
        "request_timeout_seconds": 5.0,
        "max_attempts": 2,
        "backoff_seconds": 0.01,
        "server_wait_seconds": 5.0,
        **settings.pop("server", {}),
    }
    return JudgeReward(ServerConfig([url], **server), **{"max_failed_share": 1.0, "timeout_seconds": 20.0, **settings})
