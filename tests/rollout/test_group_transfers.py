"""Weights to rollout servers through process groups; a server that does not take them stops no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avrt.model.student import Student
from avrt.rollout.vllm import VLLMServers, transfers
from avrt.rollout.vllm.process_group import SERVER, Meeting, join, receive
from tests.rollout.rollout_servers import ScriptedServer
from tests.rollout.test_servers import Setup, change, folder, student

__all__ = ["folder", "student"]

GROUPS = {"transfer": "gloo", "weights_folder": "", "weights_host": "127.0.0.1"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_servers_sample_with_the_policys_weights(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    setup = Setup(stack, student, tmp_path, None, None, **GROUPS)
    for _ in range(3):
        setup.start()
        assert setup.engine.active == [server.url for server in setup.servers]
        setup.check_window()
        change(student)
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def stays_away(asked: dict[str, Any]) -> dict[str, Tensor]:
    raise RuntimeError("it does not come")


def leaves(asked: dict[str, Any]) -> dict[str, Tensor]:
    """After the first tensor."""
    group = join(Meeting.from_json(asked["meeting"]), SERVER)
    next(receive(group, asked["tensors"], torch.zeros(1)))
    raise RuntimeError("it dies")


def takes_another(asked: dict[str, Any]) -> dict[str, Tensor]:
    """One of the weights is changed on the way."""
    group = join(Meeting.from_json(asked["meeting"]), SERVER)
    found = dict(receive(group, asked["tensors"], torch.zeros(1)))
    found["thinker.lm_head.weight"][0, 0] += 1e-3
    return found


@pytest.mark.parametrize("fault", [stays_away, leaves, takes_another], ids=lambda fault: fault.__name__)
def test_a_server_that_does_not_take_them_is_left_out(
    fault: Any,
    stack: ExitStack,
    student: Student,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfers, "MEETING_SECONDS", 3.0)
    setup = Setup(stack, student, tmp_path, None, None, **GROUPS)
    setup.start()
    bad, good = setup.servers
    change(student)
    monkeypatch.setattr(bad, "receive", fault)
    setup.start()
    assert setup.engine.active == [good.url]
    setup.check_window()
    monkeypatch.setattr(bad, "receive", lambda asked: ScriptedServer.receive(bad, asked))
    change(student)
    setup.start()
    assert setup.engine.active == [bad.url, good.url], "it gets another chance"
    setup.check_window()


def test_without_any_server_the_step_is_not_taken(
    stack: ExitStack, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "MEETING_SECONDS", 2.0)
    setup = Setup(stack, student, tmp_path, None, **GROUPS)
    monkeypatch.setattr(setup.servers[0], "receive", stays_away)
    with pytest.raises(ValueError, match=r"model\.rollout\.urls: no server took over the weights; http://"):
        setup.start()


def test_a_host_that_is_not_this_one(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    setup = Setup(stack, student, tmp_path, None, **{**GROUPS, "weights_host": "no-such-host.invalid"})
    with pytest.raises(ValueError, match=r"model\.rollout\.weights_host: .*'no-such-host\.invalid'"):
        setup.start()


def test_settings() -> None:
    VLLMServers(["http://a"], transfer="gloo").check()
    VLLMServers(["http://a"], weights_folder="w").check()
    with pytest.raises(ValueError, match=r"model\.rollout\.weights_folder: is empty"):
        VLLMServers(["http://a"]).check()


@pytest.mark.parametrize(
    "content",
    [None, {}, {"host": "a"}, {"host": "a", "port": "1", "name": "n", "backend": "gloo", "seconds": 1.0}],
)
def test_what_is_no_meeting(content: Any) -> None:
    with pytest.raises(ValueError, match="not a meeting of trainer and server"):
        Meeting.from_json(content)
