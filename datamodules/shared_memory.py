"""Passing a worker's items to the training process in one block of shared memory.

Between processes torch opens, sends and maps the memory of every tensor separately, and it stays mapped as long as the
tensor lives. Here all tensors of a part share one block, which is free again when the part has arrived:

* Open files: torch's way holds one for every tensor. 100 prompts of 6 tensors hold 600; many systems allow 1,024.
* Shared memory: bounded by the parts that wait, not by the prompts of a whole optimizer step.
* Time: for prompts of a tiny student a batch takes a quarter of torch's time. For 8 frames of 560 x 1008 there is no
  gain: in alternation on two cores torch's time was 0.8 of this one's (0.5 to 1.3), since it does not copy on arrival.

The block is allocated in the worker's own call, not by the thread of torch's queue that sends it: an error in that
thread would be printed and the batch lost, and the run would wait for it forever.
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
"""Every tensor begins at a multiple of so many bytes, as in torch's allocator."""

Place = tuple[int, torch.dtype, torch.Size]
"""A tensor's first byte in the block, its type and its shape."""


@dataclass(frozen=True)
class Packed:
    """An object whose tensors are one after another in `memory`, uint8; `rest` is everything else, pickled."""

    memory: Tensor
    rest: bytes


@dataclass(frozen=True)
class NoSharedMemory:
    """An object that did not fit: it needs `needed` bytes, `total` and `free` are those of `SHARED_MEMORY`."""

    needed: int
    total: int
    free: int


def pack(content: Any) -> Packed | NoSharedMemory:
    """Copy all tensors in `content` into one block of shared memory; a tensor that occurs twice is copied once."""
    buffer = io.BytesIO()
    packer = _Packer(buffer)
    packer.dump(content)
    try:
        # Allocated there at once: `Tensor.share_memory_` would copy the memory that is to be overwritten.
        storage = torch.UntypedStorage._new_shared(packer.size)
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        usage = shutil.disk_usage(SHARED_MEMORY)
        return NoSharedMemory(packer.size, usage.total, usage.free)
    memory = torch.empty(0, dtype=torch.uint8).set_(storage)
    for tensor, (start, _, _) in zip(packer.tensors, packer.places, strict=True):
        flat = tensor.reshape(-1).view(torch.uint8)
        memory[start : start + len(flat)] = flat
    return Packed(memory, buffer.getvalue())


def unpack(packed: Packed) -> Any:
    """The object again, in this process's own memory; the shared memory is freed together with `packed`."""
    return _Unpacker(packed.rest, packed.memory.clone()).load()


class _Packer(pickle.Pickler):
    """Writes a tensor's place instead of the tensor. It keeps the tensors, so that no two of them share an id."""

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
    """Reads what a worker of this process has written, never anything from outside."""

    def __init__(self, rest: bytes, memory: Tensor) -> None:
        super().__init__(io.BytesIO(rest))
        self.memory = memory

    def persistent_load(self, place: Place) -> Tensor:
        start, dtype, shape = place
        return self.memory[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
