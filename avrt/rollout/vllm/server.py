"""A rollout server: vLLM behind two addresses, one to sample and one to take over weights.

``POST /generate`` samples responses to one prompt, ``POST /weights`` loads weights from a folder that training and
server share, ``GET /info`` says what is served. See `avrt.rollout.vllm.wire` for the form.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

from aiohttp import web
from rich.console import Console

from avrt.rollout.engine import SamplingConfig
from avrt.rollout.transfer_check import MEDIA
from avrt.rollout.vllm.arguments import check_family, sampling_parameters, set_environment, shared_arguments
from avrt.rollout.vllm.inputs import response, with_media
from avrt.rollout.vllm.transfers import STREAM, read_header, receive_files
from avrt.rollout.vllm.wire import GenerateRequest, Reply

LARGEST_REQUEST = 1 << 30
"""Bytes: a prompt with its frames and audio."""

INITIAL = ""
"""Version of the weights that the server started with."""

OTHER_WEIGHTS = 409
"""Status of a reply to a request for weights that the server does not have."""


_NAME = re.compile(r"[\w-]+")


def banned_digest(banned: list[int]) -> str:
    """Tells two lists of banned tokens apart."""
    return hashlib.sha256(",".join(map(str, banned)).encode()).hexdigest()[:16]


class RolloutServer:
    """Serves one engine.

    Args:
        engine: vLLM's `AsyncLLM`.
        model: what it loaded.
        dtype: of its weights.
        banned: tokens that it never samples.
        weights: the folder below which weights are taken over, and kept while they are loaded if they are sent.
    """

    def __init__(self, engine: Any, model: str, dtype: str, banned: list[int], weights: Path) -> None:
        self.engine = engine
        self.model = model
        self.dtype = dtype
        self.banned = banned
        self.weights = weights.resolve()
        self.version = INITIAL
        self._numbers = itertools.count()
        self._loading = asyncio.Lock()
        self._broken = ""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.add_routes(
            [
                web.get("/info", self.info),
                web.post("/generate", self.generate),
                web.post("/weights", self.take_weights),
            ]
        )
        return app

    async def info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "model": self.model,
                "dtype": self.dtype,
                "banned": banned_digest(self.banned),
                "version": self.version,
                "weights": str(self.weights),
            }
        )

    async def generate(self, request: web.Request) -> web.Response:
        """Sample; a client that hangs up ends its request."""
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        try:
            asked = GenerateRequest.from_bytes(await request.read())
            if asked.version != self.version:
                return self._other_weights(asked.version)
            parameters = sampling_parameters(
                asked.n,
                SamplingConfig(asked.max_tokens, asked.temperature),
                asked.seed,
                asked.stop_token_ids,
                output_kind=RequestOutputKind.FINAL_ONLY,  # others have some of the n responses each
            )
            prompt = with_media(asked.prompt)
            last = None
            async for output in self.engine.generate(prompt, parameters, f"rollout-{next(self._numbers)}"):
                last = output
            assert last is not None
            responses = [response(completion, "of this request") for completion in last.outputs]
        except (ValueError, VLLMClientError) as error:
            return _refused(error)
        except Exception as error:  # noqa: BLE001 (of vLLM's own process; the client asks another server)
            return _refused(error, 500)
        if asked.version != self.version:  # taken over while this request was sampled
            return self._other_weights(asked.version)
        return web.json_response(Reply(list(last.prompt_token_ids), responses, self.version).to_json())

    def _other_weights(self, asked: str) -> web.Response:
        held = f"holds the weights {self.version!r}" if self.version else "has not been given weights"
        return _refused(
            ValueError(f"the server {held}, not {asked!r}; a server can serve one run at a time"), OTHER_WEIGHTS
        )

    async def take_weights(self, request: web.Request) -> web.Response:
        """Load the language model's weights, from a folder or from the request; answer with their sums by name."""
        sent = request.content_type == STREAM
        received: Path | None = None
        try:
            header = await read_header(request.content) if sent else await request.json()
            version = header["version"]
            # A name and not a path: training may see the folder under another one.
            if not isinstance(version, str) or not _NAME.fullmatch(version):
                raise ValueError(f"{version!r} is not the name of a folder of weights")
            folder = self.weights / version
            if sent:
                received = folder = self.weights / f"{version}-{uuid.uuid4().hex[:8]}"
                await receive_files(request.content, header, folder)
            elif not folder.is_dir():
                raise ValueError(
                    f"there is no folder {folder}; --weights must be the run's model.rollout.weights_folder"
                )
            return await self._take(version, folder)
        except (ValueError, KeyError, TypeError, EOFError) as error:
            return _refused(error)
        finally:
            if received is not None:
                await asyncio.to_thread(shutil.rmtree, received, ignore_errors=True)

    async def _take(self, version: str, folder: Path) -> web.Response:
        async with self._loading:
            if self._broken:
                return _refused(ValueError(self._broken), 500)
            self.version = INITIAL  # what a failure leaves behind must not be sampled from
            try:
                totals = await self._load(folder)
            except Exception as error:  # noqa: BLE001 (of vLLM's own process)
                self._broken = f"could not load {folder} ({type(error).__name__}: {error}); start the server again"
                return _refused(ValueError(self._broken), 500)
            self.version = version
        return web.json_response({"version": version, "totals": totals})

    async def _load(self, folder: Path) -> Any:
        await self.engine.collective_rpc("avrt_read_weights", kwargs={"folder": str(folder)})
        await self.engine.reset_encoder_cache()
        if not await self.engine.reset_prefix_cache():
            raise ValueError("keys and values of earlier weights could not be dropped")
        return await self.engine.collective_rpc("avrt_arrived_totals")


def _refused(error: Exception, status: int = 400) -> web.Response:
    return web.json_response({"error": f"{error}" or type(error).__name__}, status=status)


def serve(
    model: str,
    weights: Path,
    host: str,
    port: int,
    dtype: str,
    max_model_len: int | None,
    gpu_memory_utilization: float,
    media_per_prompt: int,
    enforce_eager: bool,
) -> None:
    """Start vLLM and serve until interrupted.

    Args:
        model: the folder or hub id that the run's student has.
        weights: the folder below which weights are taken over; made if it is absent.

    Raises:
        ValueError: vLLM is not installed, or computes another function than the student.
    """
    set_environment()
    try:
        from vllm import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ValueError(f"vLLM cannot be imported ({error}); docs/rollout.md says how to install it") from error
    from transformers import AutoConfig, AutoTokenizer

    from avrt.model.banned_tokens import find_banned_tokens
    from avrt.model.loading import student_family

    family = student_family(model)
    check_family(family)
    weights.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    vocabulary = config.thinker_config.text_config.vocab_size
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    banned = find_banned_tokens(family, tokenizer, vocabulary).nonzero().flatten().tolist()
    arguments = AsyncEngineArgs(
        model=model,
        dtype=dtype,
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
        worker_extension_cls="avrt.rollout.vllm.worker.WorkerExtension",
        **shared_arguments(banned, max(MEDIA, media_per_prompt), enforce_eager, on_cpu=current_platform.is_cpu()),
    )

    async def build() -> web.Application:
        engine = AsyncLLM.from_engine_args(arguments)
        app = RolloutServer(engine, model, dtype, banned, weights).app()

        async def shut_down(_: web.Application) -> None:
            engine.shutdown()

        app.on_cleanup.append(shut_down)
        line = f"rollout server for {model} on http://{host}:{port}, weights from {weights.resolve()}"
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
        return app

    web.run_app(build(), host=host, port=port, print=lambda *_: None, handler_cancellation=True)
