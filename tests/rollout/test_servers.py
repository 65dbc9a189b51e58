"""Rollout on servers: every prompt is answered with the current weights, whatever becomes of a server, or the run ends.

The servers are `tests.rollout.rollout_servers`; tests/vllm runs real ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web

from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, SamplingConfig
from avrt.rollout.policy_weights import PolicyWeight
from avrt.rollout.vllm import VLLMServers, servers
from avrt.rollout.vllm.servers import VLLMServersEngine
from avrt.rollout.vllm.weights import Totals
from avrt.rollout.vllm.wire import GenerateRequest, Reply
from tests.rollout.rollout_servers import Fault, ScriptedServer
from tests.tiny_student import KINDS, load_student, make_sample

SAMPLING = SamplingConfig(max_completion_length=6)
GROUP = 2


@pytest.fixture(scope="module")
def folder(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student with published names."""
    folder = tmp_path_factory.mktemp("published") / "student"
    load_student(student_folder).save(folder)
    return folder


@pytest.fixture
def student(folder: Path) -> Student:
    return load_student(folder)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Setup:
    """Servers with one fault each, an engine that uses them, and prompts."""

    def __init__(
        self, stack: ExitStack, student: Student, shared: Path, *faults: Fault | None, **settings: Any
    ) -> None:
        self.student = student
        self.servers = [stack.enter_context(ScriptedServer(student, fault).serving()) for fault in faults]
        urls = [server.url for server in self.servers]
        self.config = VLLMServers(
            urls, **{"weights_folder": str(shared), "requests_per_server": 2, "timeout": 20.0} | settings
        )
        self.config.check()
        self.engine: VLLMServersEngine = self.config.start(student, SAMPLING)
        self.prompts = student.embed(
            [student.encoder.encode(make_sample(KINDS[i % 4], i, audio_seconds=0.5)) for i in range(12)]
        )
        for server in self.servers:
            server.knows([*self.prompts, self.engine._check.prompt])
            server.folder = shared
        self.shared = shared

    def start(self) -> None:
        self.engine.update_weights()
        for server in self.servers:
            server.answered = 0  # the check's own

    def check_window(self) -> None:
        """All prompts have the responses that the built-in engine gives with the current weights."""
        found = self.engine.generate(self.prompts, GROUP, range(12))
        assert tokens(found) == tokens(expected(self.student, self.prompts))


def expected(student: Student, prompts: list[EmbeddedPrompt]) -> list[list[Response]]:
    engine = TransformersRollout(student.language_model, SAMPLING, student.eos_token_ids, student.banned_tokens)
    return [engine.generate([prompt], GROUP, [seed])[0] for seed, prompt in enumerate(prompts)]


def tokens(groups: list[list[Response]]) -> list[list[list[int]]]:
    return [[response.token_ids.tolist() for response in group] for group in groups]


def is_idle(server: ScriptedServer, seconds: float = 10) -> bool:
    """Whether no request stays open: the server notices in a moment of its own that a client has hung up."""
    end = time.monotonic() + seconds
    while server.open and time.monotonic() < end:
        time.sleep(0.01)
    return server.open == 0


def change(student: Student) -> None:
    generator = torch.Generator().manual_seed(3)
    for weight in [*student.language_model.text_model.parameters(), student.language_model.head.weight]:
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)


def test_prompts_are_spread_and_come_back_in_order(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    setup = Setup(stack, student, tmp_path, None, None)
    for _ in range(2):
        setup.start()
        setup.check_window()
        assert sum(server.answered for server in setup.servers) == 12
        assert all(server.answered >= 3 for server in setup.servers)
        assert all(server.most_open == 2 for server in setup.servers)
        change(student)
    assert list(tmp_path.iterdir()) == [], "weights are removed once all have read them"


def test_a_slow_server_gets_less(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    async def slow(number: int, content: Any) -> Any:
        await asyncio.sleep(0.5)
        return content

    setup = Setup(stack, student, tmp_path, None, slow)
    setup.start()
    setup.check_window()
    assert setup.servers[0].answered >= 8


async def hangs(number: int, content: Any) -> Any:
    if number >= 1:
        await asyncio.sleep(60)
    return content


def garbage(number: int, content: Any) -> Any:
    return web.Response(body=b"\x00\xff{") if number >= 1 else content


def fails(number: int, content: Any) -> Any:
    return web.json_response({"error": "out of memory"}, status=500) if number >= 1 else content


def short(number: int, content: Any) -> Any:
    return content | {"responses": content["responses"][1:]} if number >= 1 else content


def not_finite(number: int, content: Any) -> Any:
    if number >= 1:
        content["responses"][0]["logprobs"][0] = float("nan")
    return content


def stale(number: int, content: Any) -> Any:
    return content | {"version": "another-1"} if number >= 1 else content


def breaks_off(number: int, content: Any) -> Any:
    if number >= 1:
        raise web.HTTPInternalServerError
    return content


def infinite(number: int, content: Any) -> Any:
    return content | {"prompt_token_ids": [float("inf")]} if number >= 1 else content


def no_token(number: int, content: Any) -> Any:
    if number >= 1:
        content["responses"][0]["token_ids"][0] = 10**9
    return content


def too_many(number: int, content: Any) -> Any:
    if number >= 1:
        first = content["responses"][0]
        first["token_ids"], first["logprobs"] = first["token_ids"][:1] * 7, first["logprobs"][:1] * 7
    return content


def no_logprob(number: int, content: Any) -> Any:
    if number >= 1:
        content["responses"][0]["logprobs"][0] = 10**400 if number % 2 else 5.0
    return content


FAULTS = [
    hangs,
    garbage,
    fails,
    short,
    not_finite,
    stale,
    breaks_off,
    infinite,
    no_token,
    too_many,
    no_logprob,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_server_loses_no_prompt(
    fault: Fault, stack: ExitStack, student: Student, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup(stack, student, tmp_path, fault, None, timeout=2.0)
    setup.start()
    setup.check_window()
    bad, good = setup.servers
    assert setup.engine.active == [good.url]
    assert len([line for line in caplog.messages if bad.url in line and "left out" in line]) == 1
    before = bad.answered
    setup.check_window()
    assert bad.answered == before, "it is not asked again in this window"
    change(student)
    setup.start()
    assert setup.engine.active == [good.url], "it does not answer the check after the transfer either"
    bad.fault = None
    change(student)
    setup.start()
    assert setup.engine.active == [good.url], "after two failures it is left out of a transfer"
    change(student)
    setup.start()
    assert setup.engine.active == [bad.url, good.url], "it gets another chance"
    setup.check_window()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_without_a_server_the_run_ends_and_says_so(
    fault: Fault, stack: ExitStack, student: Student, tmp_path: Path
) -> None:
    setup = Setup(stack, student, tmp_path, fault, timeout=2.0)
    setup.start()
    with pytest.raises(ValueError, match=r"no rollout server is left, \d+ of 12 prompts have no responses; http"):
        setup.engine.generate(setup.prompts, GROUP, range(12))
    assert is_idle(setup.servers[0])


def test_no_request_is_left_behind(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    setup = Setup(stack, student, tmp_path, hangs, None, timeout=2.0)
    setup.start()
    setup.check_window()
    assert is_idle(setup.servers[0]), "requests that are no longer waited for have been cancelled"


def test_weights_that_did_not_arrive(
    stack: ExitStack, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(stack, student, tmp_path, None)
    setup.start()
    change(student)

    def write_nothing(weights: list[PolicyWeight], totals: Totals, folder: Path) -> None:
        list(totals.noted((weight.name, weight.tensor()) for weight in weights))

    monkeypatch.setattr(servers, "write_files", write_nothing)
    with pytest.raises(ValueError, match="no server took over the weights"):
        setup.engine.update_weights()


def test_a_server_that_keeps_older_weights(
    stack: ExitStack, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(stack, student, tmp_path, None)
    setup.start()
    [server] = setup.servers
    old = {name: weight.clone() for name, weight in server.model.text_model.named_parameters()}
    reply = server._reply

    def with_older_weights(request: GenerateRequest) -> Reply:
        for name, weight in server.model.text_model.named_parameters():
            weight.data.copy_(old[name])
        return reply(request)

    monkeypatch.setattr(server, "_reply", with_older_weights)
    change(student)
    with pytest.raises(
        ValueError, match=r"no server took over the weights; .*log-probabilities of a fixed prompt differ by"
    ):
        setup.engine.update_weights()


def test_a_server_of_another_student_is_refused(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    server = stack.enter_context(ScriptedServer(student).serving())
    config = VLLMServers([server.url], weights_folder=str(tmp_path))
    banned = student.banned_tokens.clone()
    banned[3] = True
    student._banned_tokens = banned
    server.student = load_student(Path(student.config.path))
    with pytest.raises(ValueError, match=r"model\.rollout\.urls: http://\S+ serves 'scripted', whose tokens are not"):
        config.start(student, SAMPLING)


def test_a_prompt_that_no_server_can_take_is_named(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    """It would end one server after another otherwise."""

    def too_long(number: int, content: Any) -> Any:
        error = {"error": "the prompt has 900 tokens, more than max_model_len"}
        return web.json_response(error, status=400) if number == 3 else content

    setup = Setup(stack, student, tmp_path, too_long, None)
    setup.start()
    with pytest.raises(ValueError, match=r"sample '\S+': http://\S+/generate: the prompt has 900 tokens"):
        setup.check_window()
    assert all(is_idle(server) for server in setup.servers)


def test_servers_of_different_types_are_refused(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    urls = [stack.enter_context(ScriptedServer(student, dtype=d).serving()).url for d in ("float32", "bfloat16")]
    with pytest.raises(ValueError, match=r"computes in 'bfloat16', http://\S+ in 'float32'; start all with the same"):
        VLLMServers(urls, weights_folder=str(tmp_path)).start(student, SAMPLING)


def test_a_server_that_another_run_uses_too(stack: ExitStack, student: Student, tmp_path: Path) -> None:
    """Both runs have made one transfer; what counts is whose weights the server has."""
    setup = Setup(stack, student, tmp_path, None)
    setup.start()
    other = setup.config.start(student, SAMPLING)
    setup.servers[0].knows([other._check.prompt])
    change(student)
    other.update_weights()
    with pytest.raises(ValueError, match="no rollout server is left"):
        setup.check_window()


def test_no_server_at_all(student: Student, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.rollout\.urls: no server answers; http://127\.0\.0\.1:9/info: "):
        VLLMServers(["http://127.0.0.1:9"], weights_folder=str(tmp_path)).start(student, SAMPLING)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (VLLMServers(), r"model\.rollout\.urls: is empty"),
        (VLLMServers(["http://a"]), r"model\.rollout\.weights_folder: is empty"),
        (VLLMServers(["localhost:8200"], weights_folder="w"), r"model\.rollout\.urls: 'localhost:8200' is no address"),
    ],
)
def test_settings_that_are_missing(config: VLLMServers, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        config.check()


def test_a_student_without_published_names(student_folder: Path, stack: ExitStack, tmp_path: Path) -> None:
    student = load_student(student_folder)
    server = stack.enter_context(ScriptedServer(student).serving())
    with pytest.raises(ValueError, match=r"model\.student\.path: .* has no weights with published names"):
        VLLMServers([server.url], weights_folder=str(tmp_path)).start(student, SAMPLING)


def test_a_family_for_which_vllm_differs(experts_folder: Path, tmp_path: Path) -> None:
    """Refused at the start, not by a difference in the middle of a run."""
    student = load_student(experts_folder)
    with pytest.raises(ValueError, match=r"Qwen3-Omni, vLLM computes another function .* \(model\.rollout: builtin\)"):
        VLLMServers(["http://127.0.0.1:1"], weights_folder=str(tmp_path)).start(student, SAMPLING)
