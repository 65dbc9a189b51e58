"""Rollout on servers: vLLM on other GPUs or machines, any number of them (``avrt rollout-server``).

Prompts wait in one queue, and each server takes the next one when it has room, so a faster server gets more. A server
that dies, hangs or answers nonsense is left out until weights go over the next time, and its prompts go to the others.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import torch
from safetensors.torch import save_file

from avrt.config.numbers import PositiveFloat, PositiveInt
from avrt.model.student import DTYPES, Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.engine import EngineConfig, Response, SamplingConfig
from avrt.rollout.policy_weights import PolicyWeight, check_accounted, policy_weights, published_shapes
from avrt.rollout.transfer_check import LIMITS, TransferCheck
from avrt.rollout.vllm.inputs import check_prompt, vllm_prompt
from avrt.rollout.vllm.server import banned_digest
from avrt.rollout.vllm.weights import Totals
from avrt.rollout.vllm.wire import GenerateRequest, Reply

log = logging.getLogger(__name__)

FILE_BYTES = 2_000_000_000
"""Weights that are in host memory at once while they are written."""


class ServerError(Exception):
    """A server did not answer as it should; another one may."""


class NoServerLeftError(ValueError):
    """All servers failed, and prompts are without responses."""


@dataclass
class VLLMServers(EngineConfig):
    """Rollout servers, see docs/rollout.md.

    Attributes:
        urls: their addresses.
        weights_folder: a folder that training and servers share; each set of weights is there until all have read it.
        requests_per_server: prompts that a server works on at once.
        timeout: seconds after which an answer is no longer waited for, whether of a prompt or of a set of weights.
        max_logp_difference: as in `avrt.rollout.vllm.VLLM`.
    """

    urls: list[str] = field(default_factory=list)
    weights_folder: str = ""
    requests_per_server: PositiveInt = 32
    timeout: PositiveFloat = 1800.0
    max_logp_difference: PositiveFloat | None = None

    def check(self) -> None:
        for key, given in (("urls", self.urls), ("weights_folder", self.weights_folder)):
            if not given:
                raise ValueError(f"model.rollout.{key}: is empty; docs/rollout.md says what belongs there")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"model.rollout.urls: {url!r} is no address, such as http://127.0.0.1:8200")

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
        self.config = config
        self.student = student
        self.sampling = sampling
        self.urls = [url.rstrip("/") for url in config.urls]
        self.active: list[str] = []
        """Servers that have the policy's weights."""
        self.version = 0
        ids = student.thinker.config
        self._media_tokens = frozenset((ids.image_token_id, ids.video_token_id, ids.audio_token_id))
        self._shapes = published_shapes(student.config)
        found = asyncio.run(self._each(self.urls, lambda session, url: self._get_info(session, url)))
        infos = {url: info for url, info in found.items() if not isinstance(info, ServerError)}
        if not infos:
            raise ValueError(f"model.rollout.urls: no server answers; {_reasons(found)}")
        for url, info in infos.items():
            self._check_info(url, info)
        self.dtype = DTYPES[next(iter(infos.values()))["dtype"]]
        self._check = TransferCheck(student, sampling, config.max_logp_difference or LIMITS[self.dtype])

    def _check_info(self, url: str, info: dict[str, Any]) -> None:
        banned: list[int] = self.student.banned_tokens.nonzero().flatten().tolist()
        if info.get("dtype") not in DTYPES or DTYPES[info["dtype"]] not in LIMITS:
            raise ValueError(
                f"model.rollout.urls: {url} computes in {info.get('dtype')!r}; start it with --dtype bfloat16"
            )
        if info.get("banned") != banned_digest(banned):
            raise ValueError(
                f"model.rollout.urls: {url} serves {info.get('model')!r}, whose tokens are not those of "
                f"{self.student.config.path!r}; start it with --model {self.student.config.path}"
            )

    # ---- weights ----------------------------------------------------------------------------------------------------

    def update_weights(self) -> float:
        self.version += 1
        difference, error = math.nan, ""
        if _rank() == 0:
            try:
                difference = self._send()
            except (ValueError, OSError) as problem:  # the other processes wait for the outcome
                error = f"{problem}"
        self.active, difference, error = _from_first_rank((self.active, difference, error))
        if error:
            raise ValueError(error)
        return difference

    def _send(self) -> float:
        """Write the weights, have every server read them, and check each."""
        weights, totals = policy_weights(self.student), Totals(self.dtype)
        check_accounted(weights, self._shapes)
        folder = Path(self.config.weights_folder).resolve() / f"weights-{self.version}"
        try:
            _write(weights, totals, folder)
            found = asyncio.run(self._each(self.urls, lambda session, url: self._hand_over(session, url, folder)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.active, differences = [], []
        for url, answer in found.items():
            try:
                if isinstance(answer, ServerError):
                    raise answer
                for arrived in answer:
                    totals.check(arrived)
                differences.append(self._check.run(functools.partial(self._respond, url)))
            except (ServerError, NoServerLeftError) as error:
                log.warning("rollout server %s is left out: %s", url, error)
                found[url] = error
            else:
                self.active.append(url)
        if not self.active:
            raise ValueError(f"model.rollout.urls: no server took over the weights; {_reasons(found)}")
        return max(differences)

    def _respond(self, url: str, prompt: EmbeddedPrompt, sampling: SamplingConfig) -> Response:
        return self._sample([prompt], 1, [0], sampling, [url])[0][0]

    async def _hand_over(self, session: aiohttp.ClientSession, url: str, folder: Path) -> list[dict[str, int | None]]:
        answer = await self._post(session, f"{url}/weights", json={"folder": str(folder), "version": self.version})
        totals = answer.get("totals")
        if answer.get("version") != self.version or not isinstance(totals, list):
            raise ServerError(f"{url}: an unknown answer to new weights")
        return totals

    # ---- responses --------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        return self._sample(prompts, num_generations, seeds, self.sampling, self.active)

    def _sample(
        self,
        prompts: Sequence[EmbeddedPrompt],
        num_generations: int,
        seeds: Sequence[int],
        sampling: SamplingConfig,
        urls: Sequence[str],
    ) -> list[list[Response]]:
        requests = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            if prompt.source is None:
                raise ValueError("vLLM samples from prompts with their media; this one has embedded features only")
            requests.append(
                GenerateRequest(
                    vllm_prompt(prompt.source, self._media_tokens),
                    num_generations,
                    sampling.temperature,
                    seed,
                    sampling.max_completion_length,
                    self.student.eos_token_ids,
                    self.version,
                )
            )
        replies = asyncio.run(self._spread(requests, urls))
        for prompt, reply in zip(prompts, replies, strict=True):
            assert prompt.source is not None
            check_prompt(prompt.source, reply.prompt_token_ids)
        return [reply.responses for reply in replies]

    async def _spread(self, requests: Sequence[GenerateRequest], urls: Sequence[str]) -> list[Reply]:
        """Every request answered by some server.

        Raises:
            NoServerLeftError: all have failed.
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
                try:
                    reply: Reply | None = await self._ask(session, url, requests[number])
                except ServerError as error:
                    reply = None
                    if url not in failures:
                        log.warning("rollout server %s is left out until weights go over again: %s", url, error)
                    failures[url] = error
                async with changed:
                    if reply is None:
                        waiting.append(number)
                    else:
                        replies[number] = reply
                    changed.notify_all()

        async with self._session() as session:
            per_server = range(min(self.config.requests_per_server, len(requests)))
            await asyncio.gather(*(work(session, url) for url in urls for _ in per_server))
        self.active = [url for url in self.active if url not in failures]
        if len(replies) < len(requests):
            raise NoServerLeftError(
                f"no rollout server is left, {len(requests) - len(replies)} of {len(requests)} prompts have no "
                f"responses; {_reasons(failures)}. Start servers again and repeat the command with --ckpt_path last"
            )
        return [replies[number] for number in range(len(requests))]

    async def _ask(self, session: aiohttp.ClientSession, url: str, request: GenerateRequest) -> Reply:
        answer = await self._post(session, f"{url}/generate", data=request.to_bytes())
        try:
            reply = Reply.from_json(answer, request.n)
            if reply.version != self.version:
                raise ValueError(f"sampled with weights of version {reply.version}, not {self.version}")
        except ValueError as error:
            raise ServerError(f"{url}: {error}") from error
        return reply

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.config.timeout), connector=aiohttp.TCPConnector(limit=0)
        )

    async def _each(
        self, urls: Sequence[str], call: Callable[[aiohttp.ClientSession, str], Awaitable[Any]]
    ) -> dict[str, Any]:
        """The answer of each server, or its `ServerError`."""
        async with self._session() as session:

            async def one(url: str) -> Any:
                try:
                    return await call(session, url)
                except ServerError as error:
                    return error

            return dict(zip(urls, await asyncio.gather(*map(one, urls)), strict=True))

    async def _get_info(self, session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
        return await self._request(session, "GET", f"{url}/info")

    async def _post(self, session: aiohttp.ClientSession, address: str, **content: Any) -> dict[str, Any]:
        return await self._request(session, "POST", address, **content)

    async def _request(
        self, session: aiohttp.ClientSession, method: str, address: str, **content: Any
    ) -> dict[str, Any]:
        """A server's answer.

        Raises:
            ServerError: there is none, it is not JSON, or the server refuses.
        """
        try:
            async with session.request(method, address, **content) as answer:
                body = await answer.json(content_type=None)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServerError(f"{address}: {type(error).__name__} {error}".rstrip()) from error
        if not isinstance(body, dict) or status >= 500:
            raise ServerError(f"{address}: status {status} without an answer")
        if status != 200:
            raise ServerError(f"{address}: {body.get('error', f'status {status}')}")
        return body

    def rest(self) -> None:
        """Servers have devices of their own."""

    def close(self) -> None:
        """Servers go on."""


def _write(weights: Sequence[PolicyWeight], totals: Totals, folder: Path) -> None:
    """Weights in files of at most `FILE_BYTES`, in the engine's type."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    part: dict[str, torch.Tensor] = {}
    size = number = 0
    for name, weight in totals.noted((w.name, w.tensor()) for w in weights):
        if part and size + weight.nbytes > FILE_BYTES:
            save_file(part, folder / f"model-{number:05d}.safetensors")
            part, size, number = {}, 0, number + 1
        part[name] = weight.detach().cpu().contiguous()
        size += weight.nbytes
    save_file(part, folder / f"model-{number:05d}.safetensors")


def _reasons(found: dict[str, Any]) -> str:
    errors = [f"{error}" for error in found.values() if isinstance(error, Exception)]
    return "; ".join(errors[:3]) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _from_first_rank(value: Any) -> Any:
    """What the first process has, in all of them."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
