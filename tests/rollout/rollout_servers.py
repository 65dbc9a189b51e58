"""Rollout servers without vLLM: the protocol of `avrt.rollout.vllm.wire` over the built-in engine, with faults."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from safetensors.torch import load_file
from torch import Tensor

from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig
from avrt.rollout.vllm.inputs import vllm_prompt
from avrt.rollout.vllm.server import banned_digest
from avrt.rollout.vllm.transfers import STREAM, read_header, receive_files
from avrt.rollout.vllm.weights import Totals
from avrt.rollout.vllm.wire import GenerateRequest, Reply

Fault = Callable[[int, dict[str, Any]], Any]
"""Called with the number of a reply from 0 on, and the reply; returns what is sent instead, or raises."""


class ScriptedServer:
    """Samples from a copy of a student.

    Args:
        student: its weights are the server's until others come.
        fault: changes replies to prompts of a window.
        dtype: that the server says it computes in.
    """

    def __init__(self, student: Student, fault: Fault | None = None, dtype: str = "float32") -> None:
        self.student = student
        self.model = student.copy_language_model()
        self.known: list[EmbeddedPrompt] = []
        self.fault = fault
        self.dtype = dtype
        self.version = ""
        self.folder = Path()
        self.answered = 0
        self.open = 0
        self.most_open = 0
        self.url = ""

    def knows(self, prompts: Sequence[EmbeddedPrompt]) -> None:
        """Prompts that will be asked for: the server recognizes them by their tokens."""
        self.known += prompts

    async def info(self, request: web.Request) -> web.Response:
        banned: list[int] = self.student.banned_tokens.nonzero().flatten().tolist()
        return web.json_response({"model": "scripted", "dtype": self.dtype, "banned": banned_digest(banned)})

    async def weights(self, request: web.Request) -> web.Response:
        sent = request.content_type == STREAM
        asked = await read_header(request.content) if sent else await request.json()
        totals = Totals(torch.float32)
        found: dict[str, Tensor] = {}
        with tempfile.TemporaryDirectory() as own:
            folder = Path(own) / "weights" if sent else self.folder / asked["version"]
            if sent:
                await self.receive(request.content, asked, folder)
            for file in sorted(folder.glob("*.safetensors")):
                found |= dict(totals.noted(load_file(file).items()))
        for name, weight in self.model.text_model.named_parameters():
            weight.data.copy_(found[f"thinker.model.{name}"])
        self.model.head.weight.data.copy_(found["thinker.lm_head.weight"])
        self.version = asked["version"]
        return web.json_response({"version": self.version, "totals": [totals.expected]})

    async def receive(self, content: Any, header: dict[str, Any], folder: Path) -> None:
        """The weights that the trainer sends."""
        await receive_files(content, header, folder)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        asked = GenerateRequest.from_bytes(await request.read())
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0.01)
            number, self.answered = self.answered, self.answered + 1
            content = self._reply(asked).to_json()
            if self.fault is not None:
                content = await _awaited(self.fault(number, content))
            return content if isinstance(content, web.StreamResponse) else web.json_response(content)
        finally:
            self.open -= 1

    def _reply(self, asked: GenerateRequest) -> Reply:
        student = self.student
        config = student.thinker.config
        media = {config.image_token_id, config.video_token_id, config.audio_token_id}
        for prompt in self.known:
            assert prompt.source is not None
            if vllm_prompt(prompt.source, media)["prompt_token_ids"] == asked.prompt["prompt_token_ids"]:
                sampling = SamplingConfig(asked.max_tokens, asked.temperature)
                engine = TransformersRollout(self.model, sampling, asked.stop_token_ids, student.banned_tokens)
                [responses] = engine.generate([prompt], asked.n, [asked.seed])
                return Reply(prompt.input_ids.tolist(), responses, self.version)
        raise AssertionError("an unknown prompt")

    @contextmanager
    def serving(self) -> Iterator[ScriptedServer]:
        """The server, in a thread of its own."""
        loop, ready = asyncio.new_event_loop(), threading.Event()

        async def start() -> web.AppRunner:
            app = web.Application(client_max_size=1 << 30)
            app.add_routes(
                [
                    web.get("/info", self.info),
                    web.post("/weights", self.weights),
                    web.post("/generate", self.generate),
                ]
            )
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return runner

        def serve() -> None:
            asyncio.set_event_loop(loop)
            runner = loop.run_until_complete(start())
            ready.set()
            loop.run_forever()
            loop.run_until_complete(runner.cleanup())
            loop.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)


async def _awaited(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value
