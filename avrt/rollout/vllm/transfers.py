"""The two ways of weights to rollout servers: files in a folder that all see, or a stream to each server."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import torch
from safetensors.torch import save_file
from torch import Tensor

from avrt.rollout.policy_weights import PolicyWeight
from avrt.rollout.vllm.calls import ServerError, each
from avrt.rollout.vllm.weights import Totals

FILE_BYTES = 2_000_000_000
"""Weights that are in host memory at once while they are written."""

CHUNK_BYTES = 1 << 22
"""Pieces in which a tensor is sent."""

STALL_SECONDS = 60.0
"""After which a server that takes no further tensor is given up, so that it does not hold up the others."""

LONGEST_HEADER = 1 << 22
"""Bytes: names and shapes of all weights."""

MOST_ELEMENTS = 100_000_000_000
"""Of all weights together; no student has as many."""

STREAM = "application/octet-stream"
"""Content type of weights; JSON names a folder."""


def write_files(weights: Sequence[PolicyWeight], totals: Totals, folder: Path) -> None:
    """Weights in files of at most `FILE_BYTES`, in the engine's type."""
    folder.mkdir(parents=True)
    files = WeightFiles(folder)
    for name, weight in totals.noted((w.name, w.tensor()) for w in weights):
        files.add(name, weight.detach().cpu().contiguous())
    files.finish()


class WeightFiles:
    """Writes weights into safetensors files of at most `FILE_BYTES`.

    Args:
        folder: gets the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._part: dict[str, Tensor] = {}
        self._size = self._number = 0

    def add(self, name: str, weight: Tensor) -> None:
        if self._part and self._size + weight.nbytes > FILE_BYTES:
            self.finish()
        self._part[name] = weight
        self._size += weight.nbytes

    def finish(self) -> None:
        """Write what is left."""
        save_file(self._part, self.folder / f"model-{self._number:05d}.safetensors")
        self._part, self._size, self._number = {}, 0, self._number + 1


class WeightStream:
    """The weights as the body of one request: JSON after its length (8 bytes), then the tensors' bytes.

    Args:
        header: the JSON.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        self.stalled = False
        text = json.dumps(header).encode()
        self._header = len(text).to_bytes(8, "big") + text
        self._next: asyncio.Queue[memoryview | None] = asyncio.Queue(maxsize=1)
        self._ended = asyncio.Event()
        self._call: asyncio.Task[Any] | None = None

    async def sent_by(self, call: Awaitable[Any]) -> Any:
        """The answer to the request that has this body."""
        self._call = asyncio.ensure_future(call)
        try:
            return await self._call
        finally:
            self._ended.set()

    async def body(self) -> AsyncIterator[bytes | memoryview]:
        yield self._header
        while (data := await self._next.get()) is not None:
            for begin in range(0, len(data), CHUNK_BYTES):
                yield data[begin : begin + CHUNK_BYTES]

    async def put(self, data: memoryview | None) -> None:
        """Send a tensor's bytes, or None as the end, unless the request has ended."""
        waiting = [asyncio.ensure_future(self._next.put(data)), asyncio.ensure_future(self._ended.wait())]
        done, pending = await asyncio.wait(waiting, timeout=STALL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if not done and self._call is not None:
            self.stalled = True
            self._call.cancel()
            self._ended.set()


async def stream_weights(
    urls: Sequence[str],
    call: Callable[[aiohttp.ClientSession, str, AsyncIterator[bytes | memoryview]], Awaitable[Any]],
    weights: Sequence[PolicyWeight],
    totals: Totals,
    version: str,
    timeout: float,
) -> dict[str, Any]:
    """Send weights to all servers at once; every tensor is converted once.

    Args:
        urls: of the servers.
        call: makes the request with this body, and whatever follows it.
        weights, totals, version: what is sent, and its name.
        timeout: seconds after which an answer is no longer waited for.

    Returns:
        The answer of each server, or its `ServerError`.
    """
    shapes = [[weight.name, list(weight.shape)] for weight in weights]
    header = {"version": version, "dtype": str(totals.dtype).removeprefix("torch."), "tensors": shapes}
    streams = {url: WeightStream(header) for url in urls}

    async def one(session: aiohttp.ClientSession, url: str) -> Any:
        stream = streams[url]
        try:
            return await stream.sent_by(call(session, url, stream.body()))
        except asyncio.CancelledError as error:
            if not stream.stalled:
                raise
            raise ServerError(f"{url}: took no weights for {STALL_SECONDS:g} s") from error

    calls = asyncio.ensure_future(each(urls, one, timeout))
    try:
        for _, weight in totals.noted((w.name, w.tensor()) for w in weights):
            data = bytes_of(weight.detach().cpu().contiguous())
            await asyncio.gather(*(stream.put(data) for stream in streams.values()))
        await asyncio.gather(*(stream.put(None) for stream in streams.values()))
        return await calls
    finally:
        calls.cancel()


async def receive_files(content: aiohttp.StreamReader, header: Mapping[str, Any], folder: Path) -> None:
    """Write the tensors of a `WeightStream` into a folder.

    Args:
        content: what follows the header.
        header: as `read_header` gives it.
        folder: is made.

    Raises:
        ValueError: the stream ends early, or has more than the header says.
    """
    folder.mkdir(parents=True)
    files = WeightFiles(folder)
    dtype = getattr(torch, header["dtype"])
    for name, shape in header["tensors"]:
        weight = torch.empty(tuple(shape), dtype=dtype)
        bytes_of_it = bytes_of(weight)
        filled = 0
        while filled < len(bytes_of_it):
            chunk = await content.read(len(bytes_of_it) - filled)
            if not chunk:
                raise ValueError(f"the weights end within {name}")
            bytes_of_it[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        await asyncio.to_thread(files.add, name, weight)
    if await content.read(1):
        raise ValueError("more bytes came than the header of the weights says")
    await asyncio.to_thread(files.finish)


async def read_header(content: aiohttp.StreamReader) -> dict[str, Any]:
    """The JSON that a `WeightStream` begins with.

    Raises:
        ValueError: it is something else.
    """
    length = await content.readexactly(8)
    size = int.from_bytes(length, "big")
    if size > LONGEST_HEADER:
        raise ValueError("the weights have no header")
    header = json.loads(await content.readexactly(size))
    tensors = header.get("tensors") if isinstance(header, dict) else None
    if (
        not isinstance(tensors, list)
        or header.get("dtype") not in ("float32", "bfloat16")
        or not all(map(_is_entry, tensors))
    ):
        raise ValueError("the header of the weights is not one")
    if sum(_elements(shape) for _, shape in tensors) > MOST_ELEMENTS:
        raise ValueError("the header of the weights announces more than any student has")
    return dict(header)


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    name, shape = entry
    return isinstance(name, str) and isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)


def _elements(shape: Sequence[int]) -> int:
    return math.prod(shape)
