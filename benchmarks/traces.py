"""Overhead of the trace pipeline: calls per second, with every call durable in the ledger.

    python -m benchmarks.traces

A local server in a separate process answers immediately, or after 200 ms. Each line is one stage, run as by
`python -m avrt traces`: keys, prompts, media from shards, HTTP, and a ledger record on disk before the next call.
``share`` is the measured rate over the possible one (calls allowed in flight / latency).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.sample import Clip, Sample
from avrt.traces.call_planner import CallPlanner
from avrt.traces.config import StageConfig, TeacherConfig, TracesConfig
from avrt.traces.stages import run_stage

REPLY = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 150 + "(A)"}}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 150, "total_tokens": 250},
    }
).encode()
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":0,"owned_by":"x"}]}'


class AnswerAtOnce(asyncio.Protocol):
    """A minimal HTTP server: reads a request by its content-length and answers it after `latency` seconds."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._buffer = bytearray()
        self._end = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._end < 0:
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return
            head = bytes(self._buffer[:head_end]).lower()
            _, found, rest = head.partition(b"content-length:")
            self._end = head_end + 4 + (int(rest.split(b"\r\n")[0]) if found else 0)
        if len(self._buffer) >= self._end:
            body = MODELS if self._buffer.startswith(b"GET") else REPLY
            del self._buffer[: self._end]
            self._end = -1
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._answer, body)
            else:
                self._answer(body)

    def _answer(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        if not self._transport.is_closing():
            self._transport.write(head + body)  # type: ignore[attr-defined]


def serve(latency: float, pipe: Connection) -> None:
    """Run the server and tell its port through `pipe`."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: AnswerAtOnce(latency), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def make_shards(folder: Path, samples: int) -> None:
    """Clips of 8 frames of 112 x 112 pixels and 2 s of audio."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (8, 3, 112, 112), generator=generator, dtype=torch.uint8)
    waveform = torch.rand(32_000, generator=generator) - 0.5
    clip = Clip(frames, tuple(i / 4 for i in range(8)), fps=4.0, waveform=waveform, duration=2.0, width=112, height=112)
    with ShardWriter(folder) as writer:
        for index in range(samples):
            writer.write(
                Sample(str(index), f"What is clip {index}?", ("a cat", "a dog"), 0, source=str(index), clip=clip)
            )


def measure(shards: Path, stage: str, calls: int, latency: float, concurrency: int, folder: Path) -> None:
    """Run one stage against a fresh server and print a line."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(latency, sender), daemon=True)
    server.start()
    try:
        address = f"http://127.0.0.1:{receiver.recv()}/v1"
        common: dict[str, Any] = {
            "base_urls": [address],
            "model": "bench",
            "sampling": {"max_tokens": 16},
            "max_concurrency": concurrency,
            "max_attempts": 1,
        }
        teachers = {
            "vision": TeacherConfig(**common, inputs="frames"),
            "audio": TeacherConfig(**common, inputs="audio"),
        }
        settings = TracesConfig(
            str(shards),
            str(folder / "ledger"),
            str(folder / "out"),
            teachers,
            StageConfig(**common),
            variant="unfiltered",
        )
        planner = CallPlanner(settings, ShardSet(shards))
        begin = time.monotonic()
        counts = run_stage(stage, planner).made
        seconds = time.monotonic() - begin
    finally:
        server.terminate()
        server.join()
    assert sum(counts.values()) == calls, counts
    rate = calls / seconds
    share = f"{rate * latency / concurrency:6.1%}" if latency else "     -"
    size = sum(path.stat().st_size for path in (folder / "ledger").glob("*.jsonl"))
    print(
        f"{stage:<7}{calls:>6} calls {latency * 1000:>5.0f} ms {concurrency:>4} in flight {rate:>8.0f}/s {share} ",
        end="",
    )
    print(f"ledger {size / 1e6:.1f} MB")


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_shards(root / "shards", args.samples)
        for latency, tag in ((0.0, "fast"), (0.2, "slow")):
            for stage in ("vision", "audio", "merge"):
                measure(root / "shards", stage, args.samples, latency, 64, root / tag)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
