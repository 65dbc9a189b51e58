"""Handing a worker's items to the training process in one piece.

Between processes torch opens, sends and maps the memory of every tensor on its own. A micro-batch has a hundred small
ones, and for a small student that took a quarter of a training step. Here all tensors of a micro-batch lie in one.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes to a multiple of which every tensor begins, as those of torch's allocator do."""

Place = tuple[int, torch.dtype, torch.Size]
"""Where a tensor's bytes begin, their type and its shape."""


@dataclass(frozen=True)
class Parcel:
    """Any object whose tensors lie one after another in `memory`, uint8; `rest` is everything else of it, pickled."""

    memory: Tensor
    rest: bytes


def pack(content: Any) -> Parcel:
    """Copy all tensors in `content` into one."""
    buffer = io.BytesIO()
    packer = _Packer(buffer)
    packer.dump(content)
    memory = torch.empty(packer.size, dtype=torch.uint8)
    for tensor, (start, _, _) in zip(packer.tensors, packer.places, strict=True):
        flat = tensor.reshape(-1).view(torch.uint8)
        memory[start : start + len(flat)] = flat
    return Parcel(memory, buffer.getvalue())


def unpack(parcel: Parcel) -> Any:
    """The object again; its tensors are views of the parcel's memory."""
    return _Unpacker(parcel).load()


class _Packer(pickle.Pickler):
    """Writes a tensor's place instead of the tensor."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self.places: list[Place] = []
        self.size = 0

    def persistent_id(self, value: Any) -> Place | None:
        if not isinstance(value, Tensor):
            return None
        place = (self.size, value.dtype, value.shape)
        self.tensors.append(value)
        self.places.append(place)
        self.size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        return place


class _Unpacker(pickle.Unpickler):
    """Reads what this process's own worker has written, and nothing from outside."""

    def __init__(self, parcel: Parcel) -> None:
        super().__init__(io.BytesIO(parcel.rest))
        self.memory = parcel.memory

    def persistent_load(self, place: Place) -> Tensor:
        start, dtype, shape = place
        return self.memory[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
