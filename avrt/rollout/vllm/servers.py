"""Rollout on servers: vLLM on other GPUs or machines, any number of them (``avrt rollout-server``).

Prompts wait in one queue, and each server takes the next one when it has room, so a faster server gets more. A server
that dies, hangs or answers nonsense is left out until weights go over again, and its prompts go to the others.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import torch

from avrt.config.numbers import PositiveFloat, PositiveInt
from avrt.families.family import StudentFamily
from avrt.model.encoding import Prompt
from avrt.model.student import DTYPES, Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.engine import EngineConfig, Response, SamplingConfig
from avrt.rollout.policy_weights import check_accounted, policy_weights, published_shapes
from avrt.rollout.transfer_check import LIMITS, TransferCheck
from avrt.rollout.vllm.arguments import check_family
from avrt.rollout.vllm.background import Background
from avrt.rollout.vllm.calls import (
    NoServerLeftError,
    RefusedPromptError,
    ServerError,
    each,
    get_info,
    open_session,
    post,
    reasons,
)
from avrt.rollout.vllm.inputs import check_prompt, media_tokens_of, source_of, vllm_prompt
from avrt.rollout.vllm.server import banned_digest
from avrt.rollout.vllm.transfers import STREAM, stream_weights, write_files
from avrt.rollout.vllm.weights import Totals
from avrt.rollout.vllm.wire import GenerateRequest, Reply

log = logging.getLogger(__name__)

LONGEST_PAUSE = 32
"""Transfers of weights that a server which fails again and again is left out of, at most."""


@dataclass
class VLLMServers(EngineConfig):
    """Rollout servers, see docs/rollout.md.

    Attributes:
        urls: their addresses.
        transfer: how weights go over: ``file``, through a folder that all see, or ``stream``, through the network.
        weights_folder: with ``file``, the folder; each set of weights is there until all have read it.
        requests_per_server: prompts that a server works on at once.
        timeout: seconds after which an answer is no longer waited for, whether of a prompt or of a set of weights.
        max_logp_difference: as in `avrt.rollout.vllm.VLLM`.
    """

    urls: list[str] = field(default_factory=list)
    transfer: Literal["file", "stream"] = "file"
    weights_folder: str = ""
    requests_per_server: PositiveInt = 32
    timeout: PositiveFloat = 600.0
    max_logp_difference: PositiveFloat | None = None

    def check(self) -> None:
        needed = {"urls": self.urls} | ({"weights_folder": self.weights_folder} if self.transfer == "file" else {})
        for key, given in needed.items():
            if not given:
                raise ValueError(f"model.rollout.{key}: is empty; docs/rollout.md says what belongs there")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"model.rollout.urls: {url!r} is no address, such as http://127.0.0.1:8200")

    def check_family(self, family: StudentFamily) -> None:
        check_family(family)

    def start(self, student: Student, sampling: SamplingConfig) -> VLLMServersEngine:
        return VLLMServersEngine(self, student, sampling)


class VLLMServersEngine:
    """Samples on servers.

    Args:
        config: their addresses.
        student: the policy.
        sampling: settings of sampling.

    Raises:
        ValueError: no server answers, or one serves something else.
    """

    def __init__(self, config: VLLMServers, student: Student, sampling: SamplingConfig) -> None:
        check_family(student.family)
        self.config = config
        self.student = student
        self.sampling = sampling
        self.urls = [url.rstrip("/") for url in config.urls]
        self.active: list[str] = []
        """Servers that have the policy's weights."""
        self.version = ""
        """Names the policy's weights: of this process's run and no other, which may use the same servers or folder."""
        self._run, self._transfers = uuid.uuid4().hex[:12], 0
        self._failures: dict[str, int] = {}
        self._paused_until: dict[str, int] = {}
        self._media_tokens = media_tokens_of(student)
        self._shapes = published_shapes(student.config)
        found = asyncio.run(each(self.urls, get_info, config.timeout))
        infos = {url: info for url, info in found.items() if not isinstance(info, ServerError)}
        if not infos:
            raise ValueError(f"model.rollout.urls: no server answers; {reasons(found)}")
        self._check_infos(infos)
        self.dtype = DTYPES[next(iter(infos.values()))["dtype"]]
        self._check = TransferCheck(student, sampling, self.dtype, config.max_logp_difference)

    def _check_infos(self, infos: dict[str, dict[str, Any]]) -> None:
        banned: list[int] = self.student.banned_tokens.nonzero().flatten().tolist()
        first, *_ = infos
        for url, info in infos.items():
            dtype = info.get("dtype")
            if dtype not in DTYPES or DTYPES[dtype] not in LIMITS or dtype != infos[first].get("dtype"):
                raise ValueError(
                    f"model.rollout.urls: {url} computes in {dtype!r}, {first} in {infos[first].get('dtype')!r}; start "
                    "all with the same --dtype"
                )
            if info.get("banned") != banned_digest(banned):
                raise ValueError(
                    f"model.rollout.urls: {url} serves {info.get('model')!r}, whose tokens are not those of "
                    f"{self.student.config.path!r}; start it with --model {self.student.config.path}"
                )

    # ---- weights ----------------------------------------------------------------------------------------------------

    def update_weights(self) -> float:
        difference, error = math.nan, ""
        if _rank() == 0:
            self._transfers += 1
            self.version = f"{self._run}-{self._transfers}"
            try:
                difference = self._send()
            except Exception as problem:  # noqa: BLE001 (the other processes wait for the outcome, whatever it is)
                error = f"{problem}" if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
        self.version, self.active, difference, error = _from_first_rank((self.version, self.active, difference, error))
        if error:
            raise ValueError(error)
        return difference

    def _send(self) -> float:
        """Hand the weights over to every server, and check each."""
        weights, totals = policy_weights(self.student, self._shapes), Totals(self.dtype)
        check_accounted(weights, self._shapes)
        asked = [url for url in self.urls if self._paused_until.get(url, 0) <= self._transfers] or self.urls
        if self.config.transfer == "file":
            folder = Path(self.config.weights_folder) / self.version
            try:
                write_files(weights, totals, folder)
                found = asyncio.run(each(asked, self._have_read, self.config.timeout))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            found = asyncio.run(
                stream_weights(asked, self._hand_over, weights, totals, self.version, self.config.timeout)
            )
        differences = []
        self.active = []
        for url, answer in found.items():
            try:
                if isinstance(answer, ServerError):
                    raise answer
                arrived, response = answer
                for of_worker in arrived:
                    totals.check(of_worker)
                differences.append(self._check.judge(response))
            except (ServerError, ValueError) as error:
                found[url] = ServerError(f"{url}: {error}" if url not in str(error) else f"{error}")
                self._leave_out(url, found[url])
            else:
                self.active.append(url)
                self._failures.pop(url, None)
        if not self.active:
            raise ValueError(f"model.rollout.urls: no server took over the weights; {reasons(found)}")
        return max(differences)

    def _leave_out(self, url: str, error: ServerError) -> None:
        """Note a failure: the next transfer asks the server again, then every second, fourth and so on."""
        self._failures[url] = self._failures.get(url, 0) + 1
        pause = min(2 ** (self._failures[url] - 1), LONGEST_PAUSE)
        self._paused_until[url] = self._transfers + pause
        log.warning("rollout server %s is left out until weights have gone over %d times more: %s", url, pause, error)

    async def _have_read(
        self, session: aiohttp.ClientSession, url: str
    ) -> tuple[list[dict[str, int | None]], Response]:
        """As `_hand_over`, of weights in the shared folder."""
        return await self._hand_over(session, url, None)

    async def _hand_over(
        self, session: aiohttp.ClientSession, url: str, body: AsyncIterator[bytes | memoryview] | None
    ) -> tuple[list[dict[str, int | None]], Response]:
        """Have a server load the weights; returns what has arrived, and its response to the fixed prompt."""
        content: dict[str, Any] = {"json": {"version": self.version}}
        if body is not None:
            content = {"data": body, "headers": {"Content-Type": STREAM}}
        answer = await post(session, f"{url}/weights", **content)
        totals = answer.get("totals")
        if not isinstance(totals, list) or not all(isinstance(of_worker, dict) for of_worker in totals):
            totals = None
        if answer.get("version") != self.version or totals is None:
            raise ServerError(f"{url}: an unknown answer to new weights")
        prompt = source_of(self._check.prompt)
        try:
            reply = await self._ask(session, url, self._request(prompt, 1, 0, self._check.sampling), prompt)
        except RefusedPromptError as error:
            raise ServerError(f"{error}") from error
        return totals, reply.responses[0]

    # ---- responses --------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        return asyncio.run(self._responses([source_of(prompt) for prompt in prompts], num_generations, seeds))

    def begin(
        self, prompts: Sequence[Prompt], num_generations: int, seeds: Sequence[int]
    ) -> Background[list[list[Response]]]:
        return Background(self._responses(prompts, num_generations, seeds), "sampling ahead")

    async def _responses(
        self, prompts: Sequence[Prompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        requests = [
            self._request(prompt, num_generations, seed, self.sampling)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [reply.responses for reply in await self._spread(requests, prompts)]

    def _request(self, prompt: Prompt, num_generations: int, seed: int, sampling: SamplingConfig) -> GenerateRequest:
        return GenerateRequest(
            vllm_prompt(prompt, self._media_tokens),
            num_generations,
            sampling.temperature,
            seed,
            sampling.max_completion_length,
            self.student.eos_token_ids,
            self.version,
        )

    async def _spread(self, requests: Sequence[GenerateRequest], prompts: Sequence[Prompt]) -> list[Reply]:
        """Every request answered by some server.

        Raises:
            NoServerLeftError: all have failed.
            RefusedPromptError: a prompt cannot be sampled from.
        """
        waiting = deque(range(len(requests)))
        replies: dict[int, Reply] = {}
        failures: dict[str, Any] = {}
        changed = asyncio.Condition()

        async def work(session: aiohttp.ClientSession, url: str) -> None:
            while True:
                async with changed:
                    # A request that another server has may come back.
                    await changed.wait_for(lambda: waiting or url in failures or len(replies) == len(requests))
                    if url in failures or len(replies) == len(requests):
                        return
                    number = waiting.popleft()
                reply = None
                try:
                    reply = await self._ask(session, url, requests[number], prompts[number])
                except ServerError as error:
                    if url not in failures:
                        self._leave_out(url, error)
                    failures[url] = error
                async with changed:
                    if reply is None:
                        waiting.append(number)
                    else:
                        replies[number] = reply
                    changed.notify_all()

        async with open_session(self.config.timeout) as session:
            per_server = range(min(self.config.requests_per_server, len(requests)))
            tasks = [asyncio.create_task(work(session, url)) for url in self.active for _ in per_server]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self.active = [url for url in self.active if url not in failures]
        if len(replies) < len(requests):
            raise NoServerLeftError(
                f"no rollout server is left, {len(requests) - len(replies)} of {len(requests)} prompts have no "
                f"responses; {reasons(failures)}"
            )
        return [replies[number] for number in range(len(requests))]

    async def _ask(self, session: aiohttp.ClientSession, url: str, request: GenerateRequest, prompt: Prompt) -> Reply:
        """A server's responses to a prompt.

        Raises:
            ServerError: it failed, or answered nonsense.
            RefusedPromptError: it cannot take the prompt.
        """
        try:
            answer = await post(session, f"{url}/generate", data=request.to_bytes())
        except RefusedPromptError as error:
            raise RefusedPromptError(f"sample {prompt.sample.id!r}: {error}") from error
        try:
            reply = Reply.from_json(answer, request.n, request.max_tokens, len(self.student.banned_tokens))
            if reply.version != self.version:
                raise ValueError(f"sampled with the weights {reply.version!r}, not {self.version!r}")
            check_prompt(prompt, reply.prompt_token_ids)
        except ValueError as error:
            raise ServerError(f"{url}: {error}") from error
        return reply

    def rest(self) -> None:
        """Servers have devices of their own."""

    def close(self) -> None:
        """Servers go on."""


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _from_first_rank(value: Any) -> Any:
    """What the first process has, in all of them."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
