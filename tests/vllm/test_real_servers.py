"""Rollout servers with vLLM in processes of their own: the policy's numbers, and what becomes of a server that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from avrt.model.student import Student
from avrt.rollout.engine import SamplingConfig
from avrt.rollout.vllm import VLLMServers
from avrt.rollout.vllm.servers import VLLMServersEngine
from tests.distributed.runs import free_port
from tests.tiny_student import load_student, make_sample
from tests.vllm.test_in_process import change, prompts, scored

pytestmark = pytest.mark.vllm

SAMPLING = SamplingConfig(max_completion_length=12, temperature=0.7)


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    url: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def two(float32_folder: Path, shared: Path) -> Iterator[list[Server]]:
    """Two servers that have started."""
    servers = []
    for number in range(2):
        port = free_port()
        words = ["--model", str(float32_folder), "--weights", str(shared), "--port", str(port), "--dtype", "float32"]
        log = (shared.parent / f"server-{number}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "avrt", "rollout-server", *words, "--max-model-len", "1024"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        servers.append(Server(process, f"http://127.0.0.1:{port}"))
    try:
        for server in servers:
            wait_for(server)
        yield servers
    finally:
        for server in servers:
            stop(server, signal.SIGKILL)


def wait_for(server: Server, seconds: float = 400, path: str = "/info") -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.process.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(f"{server.url}{path}", timeout=2) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"{server.url} did not start")


def stop(server: Server, number: int) -> None:
    """Send a signal to a server and the processes that it has started."""
    if server.process.poll() is None:
        os.killpg(server.process.pid, number)


@pytest.fixture(scope="module")
def engine(two: list[Server], shared: Path, float32_folder: Path) -> VLLMServersEngine:
    config = VLLMServers([server.url for server in two], weights_folder=str(shared), requests_per_server=4, timeout=60)
    config.check()
    return config.start(load_student(float32_folder), SAMPLING)


def largest_difference(engine: VLLMServersEngine, student: Student) -> float:
    embedded = student.embed(prompts(student))
    groups = engine.generate(embedded, 3, range(len(embedded)))
    differences = [
        (response.logprobs - logprobs).abs().max()
        for prompt, group in zip(embedded, groups, strict=True)
        for response, logprobs in zip(group, scored(student, prompt, group), strict=True)
    ]
    assert len(differences) == 3 * len(embedded)
    return float(torch.stack(differences).max())


def test_log_probabilities_are_the_policys_before_and_after_updates(
    engine: VLLMServersEngine, two: list[Server]
) -> None:
    for _ in range(3):
        assert engine.update_weights() < 1e-5
        assert engine.active == [server.url for server in two]
        assert largest_difference(engine, engine.student) < 1e-5
        change(engine.student)
    embedded = engine.student.embed(prompts(engine.student)[:1])
    engine.version += "0"  # as if weights had gone over to nobody
    with pytest.raises(ValueError, match=r"holds the weights '[0-9a-f]+-3', not '[0-9a-f]+-30'"):
        engine.generate(embedded, 1, [0])


def test_weights_through_the_network(two: list[Server], shared: Path, float32_folder: Path) -> None:
    urls = [server.url for server in two]
    config = VLLMServers(urls, transfer="stream", requests_per_server=4, timeout=60)
    config.check()
    engine = config.start(load_student(float32_folder), SAMPLING)
    for _ in range(3):
        assert engine.update_weights() < 1e-5
        assert engine.active == urls
        assert largest_difference(engine, engine.student) < 1e-5
        change(engine.student)
    assert list(shared.iterdir()) == [], "what was received has been loaded and removed"


def test_a_stream_that_breaks_off_leaves_the_server_as_it_is(two: list[Server], engine: VLLMServersEngine) -> None:
    header = json.dumps({"version": "broken", "dtype": "float32", "tensors": [["thinker.lm_head.weight", [9, 9]]]})
    body = len(header).to_bytes(8, "big") + header.encode() + b"1234"
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{two[0].url}/weights", data=body, method="POST", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code == 400
    assert b"the weights end within thinker.lm_head.weight" in refused.value.read()
    engine.update_weights()
    assert engine.active == [server.url for server in two]


def test_sampled_while_the_policy_changes(engine: VLLMServersEngine) -> None:
    """With the weights of before; and the next transfer has the new ones."""
    student = engine.student
    engine.update_weights()
    seeds = range(6)
    before = engine.generate(student.embed(prompts(student)), 3, seeds)
    pending = engine.begin(prompts(student), 3, seeds)
    change(student)
    for group, others in zip(pending.result(), before, strict=True):
        for one, other in zip(group, others, strict=True):
            assert torch.equal(one.token_ids, other.token_ids)
            assert torch.allclose(one.logprobs, other.logprobs, atol=1e-5)
    engine.update_weights()
    assert largest_difference(engine, student) < 1e-5


@pytest.mark.parametrize("version", ["../somewhere", "/etc", "", "nothing-1"])
def test_weights_come_from_the_shared_folder_only(version: str, engine: VLLMServersEngine, two: list[Server]) -> None:
    content = json.dumps({"version": version}).encode()
    request = urllib.request.Request(f"{two[0].url}/weights", data=content, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code == 400
    assert b"folder" in refused.value.read()


def test_a_prompt_that_is_too_long_is_named(engine: VLLMServersEngine) -> None:
    student = engine.student
    engine.update_weights()
    sample = replace(make_sample(), question="red " * 1200)
    embedded = student.embed([student.encoder.encode(sample)])
    with pytest.raises(ValueError, match=r"sample 'audio_video-0': http://\S+/generate: "):
        engine.generate(embedded, 1, [0])
    assert len(engine.active) == 2


def test_a_server_that_is_killed_loses_no_prompt(engine: VLLMServersEngine, two: list[Server]) -> None:
    engine.update_weights()
    stop(two[0], signal.SIGKILL)
    two[0].process.wait(30)
    assert largest_difference(engine, engine.student) < 1e-5
    assert engine.active == [two[1].url]
    change(engine.student)
    engine.update_weights()
    assert largest_difference(engine, engine.student) < 1e-5


def test_a_server_that_hangs_ends_the_run_in_time(engine: VLLMServersEngine, two: list[Server]) -> None:
    """It is the last one by now."""
    engine.update_weights()
    stop(two[1], signal.SIGSTOP)
    engine.config.timeout = 3
    try:
        with pytest.raises(ValueError, match="no rollout server is left, 6 of 6 prompts have no responses"):
            largest_difference(engine, engine.student)
    finally:
        stop(two[1], signal.SIGCONT)
