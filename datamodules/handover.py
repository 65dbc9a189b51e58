"""Handing a worker's items to the training process in one piece.

Between processes torch opens, sends and maps the memory of every tensor on its own. A micro-batch has a hundred small
ones, and for a small student that took a quarter of a training step. Here all tensors of a micro-batch lie in one.

That one is allocated in shared memory right here, in the worker's own call, and not when a thread of torch's queue
sends it: an error there would be printed and the batch lost, and the run would wait for it forever.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the mount point itself; nothing is written here by name
"""File system of Linux's shared memory."""

ALIGNMENT = 64
"""Bytes to a multiple of which every tensor begins, as those of torch's allocator do."""

Place = tuple[int, torch.dtype, torch.Size]
"""Where a tensor's bytes begin, their type and its shape."""


@dataclass(frozen=True)
class Parcel:
    """Any object whose tensors lie one after another in `memory`, uint8; `rest` is everything else of it, pickled."""

    memory: Tensor
    rest: bytes


@dataclass(frozen=True)
class NoSharedMemory:
    """A parcel that could not be made: it needs `needed` bytes, `total` and `free` are those of `SHARED_MEMORY`."""

    needed: int
    total: int
    free: int


def pack(content: Any) -> Parcel | NoSharedMemory:
    """Copy all tensors in `content` into one, in shared memory; one that occurs twice is copied once."""
    buffer = io.BytesIO()
    packer = _Packer(buffer)
    packer.dump(content)
    memory = torch.empty(packer.size, dtype=torch.uint8)
    try:
        memory.share_memory_()
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        usage = shutil.disk_usage(SHARED_MEMORY)
        return NoSharedMemory(packer.size, usage.total, usage.free)
    for tensor, (start, _, _) in zip(packer.tensors, packer.places, strict=True):
        flat = tensor.reshape(-1).view(torch.uint8)
        memory[start : start + len(flat)] = flat
    return Parcel(memory, buffer.getvalue())


def unpack(parcel: Parcel) -> Any:
    """The object again, in memory of this process alone: the parcel's shared memory is free once the parcel is."""
    return _Unpacker(parcel.rest, parcel.memory.clone()).load()


class _Packer(pickle.Pickler):
    """Writes a tensor's place instead of the tensor; keeps the tensors, so that an id means one of them."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self.places: list[Place] = []
        self.size = 0
        self._known: dict[int, Place] = {}

    def persistent_id(self, value: Any) -> Place | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) in self._known:
            return self._known[id(value)]
        place = (self.size, value.dtype, value.shape)
        self._known[id(value)] = place
        self.tensors.append(value)
        self.places.append(place)
        self.size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        return place


class _Unpacker(pickle.Unpickler):
    """Reads what this process's own worker has written, and nothing from outside."""

    def __init__(self, rest: bytes, memory: Tensor) -> None:
        super().__init__(io.BytesIO(rest))
        self.memory = memory

    def persistent_load(self, place: Place) -> Tensor:
        start, dtype, shape = place
        return self.memory[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
