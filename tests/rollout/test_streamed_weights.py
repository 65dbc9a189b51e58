"""Weights to rollout servers through the network; a server that does not take them stops no other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avrt.model.student import Student
from avrt.rollout.policy_weights import PolicyWeight
from avrt.rollout.vllm import VLLMServers, servers, transfers
from avrt.rollout.vllm.transfers import WeightFiles, bytes_of, read_header, receive_files
from tests.rollout.rollout_servers import ScriptedServer
from tests.rollout.test_servers import Setup, change, folder, student

__all__ = ["folder", "student"]

STREAM: dict[str, Any] = {"transfer": "stream", "weights_folder": ""}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_servers_sample_with_the_policys_weights(
    stack: ExitStack, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "FILE_BYTES", 30_000)  # several files
    setup = Setup(stack, student, tmp_path, None, None, **STREAM)
    for _ in range(3):
        setup.start()
        assert setup.engine.active == [server.url for server in setup.servers]
        setup.check_window()
        change(student)
    assert list(tmp_path.iterdir()) == []


async def refuses(*_: Any) -> None:
    raise RuntimeError("no room")


async def breaks_off(content: Any, *_: Any) -> None:
    await content.read(10)
    raise ConnectionResetError


async def hangs(*_: Any) -> None:
    await asyncio.sleep(60)


async def changes_one(content: Any, header: dict[str, Any], folder: Path) -> None:
    await receive_files(content, header, folder)
    [file] = folder.iterdir()
    weights = load_file(file)
    weights["thinker.lm_head.weight"][0, 0] += 1e-3
    files = WeightFiles(folder)
    for name, weight in weights.items():
        files.add(name, weight)
    files.finish()


@pytest.mark.parametrize("fault", [refuses, breaks_off, hangs, changes_one], ids=lambda fault: fault.__name__)
def test_a_server_that_does_not_take_them_is_left_out(
    fault: Any, stack: ExitStack, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon: the others do not wait for it longer than `STALL_SECONDS`."""
    monkeypatch.setattr(transfers, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(transfers, "CHUNK_BYTES", 1 << 14)
    setup = Setup(stack, student, tmp_path, None, None, **STREAM)
    setup.start()
    bad, good = setup.servers
    change(student)
    monkeypatch.setattr(bad, "receive", fault)
    began = time.monotonic()
    setup.start()
    assert time.monotonic() - began < 25
    assert setup.engine.active == [good.url]
    setup.check_window()
    monkeypatch.setattr(bad, "receive", lambda *content: ScriptedServer.receive(bad, *content))
    change(student)
    setup.start()
    assert setup.engine.active == [bad.url, good.url], "it gets another chance"
    setup.check_window()


def test_many_transfers(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    """None fails by chance."""
    setup = Setup(stack, student, tmp_path, None, None, None, **STREAM)
    for _ in range(30):
        setup.start()
        assert len(setup.engine.active) == 3


def test_without_any_server_the_step_is_not_taken(
    stack: ExitStack, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(stack, student, tmp_path, None, **STREAM)
    monkeypatch.setattr(setup.servers[0], "receive", refuses)
    with pytest.raises(ValueError, match=r"model\.rollout\.urls: no server took over the weights; http://"):
        setup.start()


def test_an_error_while_weights_are_read(
    stack: ExitStack, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a device without memory for a merged matrix: the requests end with it."""
    setup = Setup(stack, student, tmp_path, None, None, **STREAM)
    whole = servers.policy_weights

    def last_fails(*arguments: Any) -> list[PolicyWeight]:
        *weights, last = whole(*arguments)
        return [*weights, replace(last, tensor=no_memory)]

    monkeypatch.setattr(servers, "policy_weights", last_fails)
    with pytest.raises(ValueError, match="RuntimeError: out of memory"):
        setup.start()
    monkeypatch.setattr(servers, "policy_weights", whole)
    setup.start()
    assert len(setup.engine.active) == 2


def no_memory() -> torch.Tensor:
    raise RuntimeError("out of memory")


def test_settings() -> None:
    VLLMServers(["http://a"], transfer="stream").check()
    VLLMServers(["http://a"], weights_folder="w").check()
    with pytest.raises(ValueError, match=r"model\.rollout\.weights_folder: is empty"):
        VLLMServers(["http://a"]).check()


def reader(data: bytes) -> Any:
    content = asyncio.StreamReader()  # has what is used of aiohttp's
    content.feed_data(data)
    content.feed_eof()
    return content


def stream_of(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "big") + text + data


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"12", "0 bytes|bytes read"),
        ((1 << 40).to_bytes(8, "big"), "the weights have no header"),
        (stream_of([]), "is not one"),
        (stream_of({"dtype": "int8", "tensors": []}), "is not one"),
        (stream_of({"dtype": "float32", "tensors": [["a", [-1]]]}), "is not one"),
        (stream_of({"dtype": "float32", "tensors": [["a", [10**6, 10**6]]]}), "more than any student has"),
        (stream_of({"dtype": "float32", "tensors": [["a", [2]]]}, b"1234567"), "the weights end within a"),
        (stream_of({"dtype": "float32", "tensors": [["a", [2]]]}, b"123456789"), "more bytes came"),
    ],
    ids=["cut", "no header", "no object", "another type", "a shape", "too many", "ends early", "ends late"],
)
def test_what_is_no_stream_of_weights(data: bytes, line: str, tmp_path: Path) -> None:
    async def receive() -> None:
        content = reader(data)
        await receive_files(content, await read_header(content), tmp_path / "weights")

    with pytest.raises((ValueError, EOFError), match=line):
        asyncio.run(receive())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_sent_is_what_arrives(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {"a": torch.rand(3, 5).to(dtype), "b": torch.rand(()).to(dtype), "c": torch.rand(0, 4).to(dtype)}
    shapes = [[name, list(weight.shape)] for name, weight in weights.items()]
    data = stream_of({"dtype": f"{dtype}"[6:], "tensors": shapes}, b"".join(bytes_of(w) for w in weights.values()))

    async def receive() -> None:
        content = reader(data)
        await receive_files(content, await read_header(content), tmp_path / "weights")

    asyncio.run(receive())
    [file] = (tmp_path / "weights").iterdir()
    found = load_file(file)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
