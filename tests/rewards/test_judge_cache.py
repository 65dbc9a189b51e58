"""Cached replies, what a resumed run compares, and the server's key, which is nowhere but in the request."""

from __future__ import annotations

import json
import logging
import math
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.rewards import RewardError, describe_rewards
from tests.rewards.judging import CLIP, SAMPLE, completion, count_words, reward
from tests.servers.scripted_server import Reply, ScriptedServer

KEY = "sk-secret-0123456789"


def cached_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def test_replies_are_found_again_without_the_server(tmp_path: Path) -> None:
    done = [completion("a b"), completion("a")]
    with ScriptedServer(count_words) as server:
        first = reward(server.url, cache=str(tmp_path)).score(done)
        url = server.url
    again = reward(url, cache=str(tmp_path)).score([*done[::-1], completion(" ")])
    assert (first.values, again.values) == ([0.5, 0.25], [0.25, 0.5, 0.0])
    assert again.curves == {"failed": [0.0] * 3, "called": [0.0] * 3, "cached": [1.0, 1.0, 0.0]}
    assert not list(tmp_path.rglob("*.partial"))


def test_the_key_is_the_content(tmp_path: Path) -> None:
    """Another model, revision, parameter, rubric, stream, clip or completion is another call."""
    other_frames = replace(SAMPLE, clip=replace(CLIP, frames=CLIP.frames + 1))  # type: ignore[operator]
    other_audio = replace(SAMPLE, clip=replace(CLIP, waveform=CLIP.waveform / 2))  # type: ignore[operator]
    same_clip = replace(SAMPLE, id="other", clip=replace(CLIP, frames=CLIP.frames.clone()))  # type: ignore[union-attr]
    sampling = {"max_tokens": 8, "temperature": 0.0}
    variants: list[tuple[dict[str, Any], Any]] = [
        ({}, completion("a")),
        ({}, completion("b")),
        ({}, completion("a", sample=other_frames)),
        ({}, completion("a", sample=other_audio)),
        ({"media": "frames"}, completion("a")),
        ({"media": "none"}, completion("a")),
        ({"rubric": "consistency", "media": "both"}, completion("a")),
        ({"server": {"model": "n"}}, completion("a")),
        ({"server": {"revision": "r"}}, completion("a")),
        ({"server": {"sampling": {**sampling, "seed": 1}}}, completion("a")),
    ]
    with ScriptedServer(count_words, models=("m", "n")) as server:

        def called(settings: dict[str, Any], done: Any) -> bool:
            judge = reward(server.url, **{"rubric": "grounding", "cache": str(tmp_path), **settings})
            return judge.score([done]).curves["called"] == [1.0]

        assert all(called(*variant) for variant in variants)
        assert len(cached_files(tmp_path)) == len(variants)
        assert not any(called(*variant) for variant in variants)
        assert not called({}, completion("a", sample=same_clip)), "an id or an address is not content"
        assert not called({"server": {"max_concurrency": 1, "request_timeout_seconds": 9.0}}, completion("a"))


def test_a_reply_without_a_score_is_the_same_when_it_is_found_again(tmp_path: Path) -> None:
    with ScriptedServer(lambda *_: Reply("I like it.")) as server:
        judge = reward(server.url, cache=str(tmp_path))
        for _ in range(2):
            result = judge.score([completion("a")])
            assert math.isnan(result.values[0])
            assert result.curves["failed"] == [1.0]
        assert len(server.bodies) == 1


@pytest.mark.parametrize("reply", [Reply("no", status=400), Reply("Score: 4", finish="length"), Reply(fault="html")])
def test_a_failed_call_is_made_again(reply: Reply, tmp_path: Path) -> None:
    with ScriptedServer(lambda *_: reply) as server:
        reward(server.url, cache=str(tmp_path)).score([completion("a")])
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"reply": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_reported_and_replaced(
    damaged: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(count_words) as server:
        judge = reward(server.url, cache=str(tmp_path))
        judge.score([completion("a")])
        (path,) = cached_files(tmp_path)
        path.write_bytes(damaged)
        assert judge.score([completion("a")]).values == [0.25]
        assert [str(path) in record.getMessage() for record in caplog.records] == [True]
        assert json.loads(path.read_bytes())["reply"].endswith("Score: 1")


def test_a_cache_that_cannot_be_used_stops_the_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with ScriptedServer(count_words) as server:
        judge = reward(server.url, cache=str(file))
        with pytest.raises(OSError, match=str(file)):
            judge.setup(None, None, "fit")  # type: ignore[arg-type]
        with pytest.raises(RewardError, match=r"'consistency': the cache cannot be read: .*Not a directory"):
            judge.score([completion("a")])
        judge = reward(server.url, cache=str(tmp_path))
        judge.score([completion("a")])
        for folder in tmp_path.glob("??"):
            shutil.rmtree(folder)
            folder.write_text("")  # the key's first digits name a file where a folder must be made
        with pytest.raises(RewardError, match=r"'consistency': (the cache|a reply) cannot be"):
            judge.score([completion("a")])


# ---- resuming -------------------------------------------------------------------------------------------------------


def test_a_resumed_run_may_move_the_server_but_not_change_the_judge(tmp_path: Path) -> None:
    def described(url: str = "http://a/v1", **settings: Any) -> Any:
        return describe_rewards([reward(url, name="judge", **settings)])

    saved = described()
    moved = {"max_concurrency": 1, "request_timeout_seconds": 9.0, "api_key_env": "K", "max_attempts": 1}
    assert described("http://b/v1", server=moved, cache=str(tmp_path), timeout_seconds=1.0) == saved
    assert described(server={"model": "n"}) != saved
    assert described(server={"revision": "r"}) != saved
    assert described(server={"sampling": {"max_tokens": 9}}) != saved
    assert described(media="audio") != saved
    rubric = tmp_path / "mine.yaml"
    rubric.write_text("prompt: '{thinking}'\nscale: [0, 1]\n")
    mine = described(rubric=str(rubric))
    assert mine != saved
    rubric.write_text("prompt: '{thinking}!'\nscale: [0, 1]\n")
    assert described(rubric=str(rubric)) != mine, "the same file with another text"
    torch.save(saved, tmp_path / "checkpoint")
    assert torch.load(tmp_path / "checkpoint", weights_only=True) == saved


# ---- the key --------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        """A server that repeats the key that it was sent."""
        if "bad" in text:
            return Reply(f"wrong key {KEY}", status=500)
        return Reply(f"I was asked with {KEY}.\nno score {KEY}" if "odd" in text else f"{KEY}\nScore: 4")

    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with ScriptedServer(respond) as server:
        judge = reward(server.url, cache=str(tmp_path), server={"api_key_env": "JUDGE_KEY"})
        judge.setup(None, None, "fit")  # type: ignore[arg-type]
        result = judge.score([completion("a"), completion("odd"), completion("bad")])
        judge.max_failed_share = 0.0
        with pytest.raises(RewardError) as caught:
            judge.score([completion("odd"), completion("bad")])
    assert [math.isnan(value) for value in result.values] == [False, True, True]
    assert all(KEY in head for head in server.headers)
    assert len(cached_files(tmp_path)) == 2
    written = [str(caught.value), caplog.text, str(describe_rewards([judge])), str(vars(judge))]
    written += [path.read_text() for path in cached_files(tmp_path)]
    assert not [text for text in written if KEY in text]
    assert KEY.encode() not in pickle.dumps(judge)


def test_a_key_that_is_refused_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with (
        ScriptedServer(lambda *_: Reply(f"Incorrect API key provided: {KEY}", status=401)) as server,
        pytest.raises(RewardError, match="check the key in JUDGE_KEY") as caught,
    ):
        reward(server.url, server={"api_key_env": "JUDGE_KEY"}).score([completion("a")])
    assert KEY not in str(caught.value)


def test_a_missing_key_is_noticed_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge = reward("http://h/v1", server={"api_key_env": "JUDGE_KEY"})
    judge.setup(None, None, "validate")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^trainer.callbacks.JudgeReward.server.api_key_env: .* JUDGE_KEY is not set"):
        judge.setup(None, None, "fit")  # type: ignore[arg-type]
