"""Sampling on servers while the caller does something else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from avrt.model.student import Student
from avrt.rollout.engine import AheadEngine
from avrt.rollout.vllm.background import Background
from avrt.rollout.vllm.inputs import source_of
from tests.rollout.test_servers import GROUP, Setup, change, expected, folder, hangs, is_idle, student, tokens

__all__ = ["folder", "student"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_responses_are_those_of_the_weights_that_the_servers_have(
    stack: ExitStack, student: Student, tmp_path: Path
) -> None:
    """However the policy changes meanwhile."""
    setup = Setup(stack, student, tmp_path, None, None)
    assert isinstance(setup.engine, AheadEngine)
    setup.start()
    before = tokens(expected(student, setup.prompts))
    pending = setup.engine.begin([source_of(prompt) for prompt in setup.prompts], GROUP, range(12))
    change(student)
    assert tokens(pending.result()) == before
    assert tokens(pending.result()) == before, "as often as it is asked"
    assert tokens(expected(student, setup.prompts)) != before
    setup.start()
    setup.check_window()


def test_a_server_that_fails_meanwhile_loses_no_prompt(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    setup = Setup(stack, student, tmp_path, hangs, None, timeout=2.0)
    setup.start()
    pending = setup.engine.begin([source_of(prompt) for prompt in setup.prompts], GROUP, range(12))
    assert tokens(pending.result()) == tokens(expected(student, setup.prompts))
    assert setup.engine.active == [setup.servers[1].url]


def test_without_a_server_the_result_is_the_error(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    setup = Setup(stack, student, tmp_path, hangs, timeout=1.0)
    setup.start()
    pending = setup.engine.begin([source_of(prompt) for prompt in setup.prompts], GROUP, range(12))
    for _ in range(2):
        with pytest.raises(ValueError, match="no rollout server is left"):
            pending.result()


def test_cancelling_leaves_no_request_and_no_thread(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    setup = Setup(stack, student, tmp_path, hangs, timeout=60.0)
    setup.start()
    pending = setup.engine.begin([source_of(prompt) for prompt in setup.prompts], GROUP, range(12))
    end = time.monotonic() + 10
    while not setup.servers[0].open and time.monotonic() < end:
        time.sleep(0.01)
    assert setup.servers[0].open
    pending.cancel()
    assert is_idle(setup.servers[0])
    assert "sampling ahead" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(CancelledError):
        pending.result()
    pending.cancel()  # again: nothing is left to do


def test_a_result_that_nobody_asks_for() -> None:
    async def fails() -> Any:
        await asyncio.sleep(0)
        raise RuntimeError("lost")

    background: Background[Any] = Background(fails(), "background")
    background.cancel()
    with pytest.raises((RuntimeError, CancelledError)):
        background.result()
