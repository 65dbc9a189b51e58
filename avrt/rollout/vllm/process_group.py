"""Weights between two processes through a process group of their own, apart from that of training.

Both are told where they meet: a key-value store of the trainer. ``gloo`` sends through host memory and the network on
any machine; ``nccl`` from GPU to GPU (never run).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store, TCPStore

Backend = Literal["gloo", "nccl"]

Group = Any
"""`ProcessGroupGloo` or `ProcessGroupNCCL`, which torch gives no common type."""

CONNECT_SECONDS = 10.0
"""After which a name counts as none of this machine's."""

TRAINER, SERVER = 0, 1
"""Ranks in the group."""


@dataclass(frozen=True)
class Meeting:
    """Where and how trainer and server meet for one transfer.

    Attributes:
        host, port: of the trainer's store.
        name: of this transfer to this server.
        backend: of the group.
        seconds: that the trainer waits for the server, and for it to take a tensor.
    """

    host: str
    port: int
    name: str
    backend: Backend
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> Meeting:
        """Read `to_json`'s.

        Raises:
            ValueError: it is something else.
        """
        try:
            found = cls(**content)
        except TypeError as error:
            raise ValueError(f"not a meeting of trainer and server: {error}") from error
        if not isinstance(found.host, str) or type(found.port) is not int or found.backend not in ("gloo", "nccl"):
            raise ValueError(f"not a meeting of trainer and server: {content!r}")
        return found


def open_store(host: str) -> TCPStore:
    """The trainer's store, on a free port of all its addresses.

    Args:
        host: the name by which servers find this machine.

    Raises:
        RuntimeError: this machine cannot be reached by it.
    """
    limit = timedelta(seconds=CONNECT_SECONDS)
    return TCPStore(host, 0, is_master=True, timeout=limit, wait_for_workers=False)


def join(meeting: Meeting, rank: int, store: Store | None = None) -> Group:
    """Meet the other process.

    Args:
        rank: `TRAINER` or `SERVER`.
        store: the trainer's own; None to connect to it.

    Raises:
        RuntimeError: the other one did not come in time.
    """
    # A server may have to wait while the trainer waits for another one.
    limit = timedelta(seconds=meeting.seconds * (1 if rank == TRAINER else 3))
    if store is None:
        store = TCPStore(meeting.host, meeting.port, is_master=False, timeout=limit, wait_for_workers=False)
    here = PrefixStore(meeting.name, store)
    if meeting.backend == "gloo":
        return ProcessGroupGloo(here, rank, 2, limit)
    from torch.distributed import ProcessGroupNCCL

    options = ProcessGroupNCCL.Options()
    options._timeout = limit
    return ProcessGroupNCCL(here, rank, 2, options)


def send_to_all(groups: Mapping[str, Group], weights: Iterable[Tensor]) -> dict[str, RuntimeError]:
    """Send tensors to several servers, one after another.

    Returns:
        The errors of those that did not take all of them; the others do not wait for them.
    """
    failed: dict[str, RuntimeError] = {}
    for weight in weights:
        under_way = {}
        for name, group in groups.items():
            if name not in failed:
                tensor = weight.detach().contiguous()
                try:
                    under_way[name] = group.send([tensor.cpu() if _is_gloo(group) else tensor], SERVER, 0)
                except RuntimeError as error:
                    failed[name] = error
        for name, work in under_way.items():
            try:
                work.wait()
            except RuntimeError as error:
                failed[name] = error
    return failed


def receive(group: Group, shapes: Sequence[tuple[str, Sequence[int]]], like: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that `send_to_all` sends, with their names.

    Args:
        shapes: names and shapes, in the order of sending.
        like: has the type, and with ``nccl`` the device, that they get.
    """
    device = torch.device("cpu") if _is_gloo(group) else like.device
    for name, shape in shapes:
        weight = torch.empty(tuple(shape), dtype=like.dtype, device=device)
        group.recv([weight], TRAINER, 0).wait()
        yield name, weight


def _is_gloo(group: Group) -> bool:
    return isinstance(group, ProcessGroupGloo)
