"""GRPO with a judge: its curves, completions that it cannot score, and an exact resume with another server."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.rewards import JudgeReward, RewardError, Scores
from avrt.sample import Completion
from avrt.servers.config import ServerConfig
from tests.lightning_modules.training import StopAfter, VowelReward, fit, grpo_data, grpo_module, weights
from tests.servers.scripted_server import Reply, ScriptedServer


class ThinkingAloud(JudgeReward):
    """The random student never opens a tag, so all that it writes is judged as its thinking."""

    def score(self, completions: Sequence[Completion]) -> Scores:
        return super().score([replace(c, text=f"<think>t {c.text}</think><answer>A</answer>") for c in completions])


def judge(url: str, cache: Path | None = None, **settings: Any) -> JudgeReward:
    server = ServerConfig([url], model="m", sampling={"max_tokens": 8}, max_attempts=1, backoff_seconds=0.01)
    return ThinkingAloud(server, cache=None if cache is None else str(cache), timeout_seconds=60.0, **settings)


def moody(body: dict[str, Any], text: str, times: int) -> Reply:
    """A judge that never says the same twice."""
    return Reply(f"Score: {random.random() * 4:.6f}")


def test_a_resumed_run_is_exact_although_the_judge_is_not(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    """The cache has the replies; the server has moved."""
    data = {"batch_size": 2}
    with ScriptedServer(moody) as server:
        whole = grpo_module(student_folder)
        run = fit(whole, grpo_data(shards, **data), judge(server.url, tmp_path / "cache"), max_steps=4)
        part = fit(
            grpo_module(student_folder),
            grpo_data(shards, **data),
            judge(server.url, tmp_path / "cache"),
            StopAfter(2, tmp_path / "two.ckpt"),
            max_steps=4,
        )
    assert part.losses == run.losses[: len(part.losses)]
    with ScriptedServer(moody) as server:
        resumed = grpo_module(student_folder)
        rest = fit(
            resumed,
            grpo_data(shards, **data),
            judge(server.url, tmp_path / "cache"),
            ckpt_path=tmp_path / "two.ckpt",
            max_steps=4,
        )
        assert not server.bodies
    assert rest.after(0) == run.after(len(part.losses))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))
    for logged in run.logged:
        assert 0 < logged["rewards/consistency/mean"] < 1
        assert logged["rewards/consistency/failed"] == 0
        assert logged["rewards/consistency/called"] > 0
    assert [step["rewards/consistency/called"] for step in rest.logged] == [0.0, 0.0]
    assert [step["rewards/consistency/cached"] for step in rest.logged] == [1.0, 1.0]
    with pytest.raises(ValueError, match="reward 'consistency': media"):
        fit(
            grpo_module(student_folder),
            grpo_data(shards, **data),
            judge(server.url, media="frames"),
            ckpt_path=tmp_path / "two.ckpt",
        )


def test_completions_without_a_score_are_left_out(student_folder: Path, shards: Path) -> None:
    """Every third call fails: the other completions train, and the run stops where more may not fail."""
    asked = 0

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        nonlocal asked
        asked += 1
        return Reply("broken", status=500) if asked % 3 == 0 else moody(body, text, times)

    with ScriptedServer(respond) as server:
        run = fit(
            grpo_module(student_folder), grpo_data(shards, batch_size=2), VowelReward(), judge(server.url), max_steps=2
        )
        for logged in run.logged:
            assert 0.2 < logged["rewards/consistency/failed"] < 0.5
            assert math.isfinite(logged["reward"])
            assert logged["grad_norm"] > 0
        with pytest.raises(
            RewardError, match=f"m at {server.url}, more than max_failed_share allows .0.1.: .*HTTP 500"
        ):
            fit(
                grpo_module(student_folder),
                grpo_data(shards, batch_size=2),
                judge(server.url, max_failed_share=0.1),
            )
