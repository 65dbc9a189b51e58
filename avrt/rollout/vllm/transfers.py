"""The two ways of weights to rollout servers: files in a folder that all see, or process groups."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from avrt.rollout.policy_weights import PolicyWeight
from avrt.rollout.vllm.process_group import TRAINER, Backend, Group, Meeting, join, open_store, send_to_all
from avrt.rollout.vllm.weights import Totals

FILE_BYTES = 2_000_000_000
"""Weights that are in host memory at once while they are written."""

MEETING_SECONDS = 60.0
"""After which a server that does not come, or takes no tensor, is left out."""


class Transfer(Protocol):
    """One set of weights on its way: `prepare`, then servers are asked to take them, `send`; in any case `finish`."""

    def prepare(self, weights: Sequence[PolicyWeight], totals: Totals, version: str) -> None:
        """What comes before servers are asked."""
        ...

    def request(self, url: str) -> dict[str, Any]:
        """What a server is asked with, beside the version."""
        ...

    def send(self, urls: Sequence[str]) -> dict[str, str]:
        """What is done while servers work on the request; returns the errors of single servers."""
        ...

    def finish(self) -> None:
        """Remove what is left of it."""
        ...


class FileTransfer:
    """Through a folder that trainer and servers see.

    Args:
        folder: gets a folder for each set, which is removed once all have read it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._current: Path | None = None

    def prepare(self, weights: Sequence[PolicyWeight], totals: Totals, version: str) -> None:
        self._current = self.folder / version
        write_files(weights, totals, self._current)

    def request(self, url: str) -> dict[str, Any]:
        return {}

    def send(self, urls: Sequence[str]) -> dict[str, str]:
        return {}

    def finish(self) -> None:
        if self._current is not None:
            shutil.rmtree(self._current, ignore_errors=True)


class GroupTransfer:
    """Through a process group with each server. Every tensor is converted once, and sent to all.

    Args:
        backend: of the groups.
        host: the name by which servers find this machine.
        timeout: as in `avrt.rollout.vllm.VLLMServers`.
    """

    def __init__(self, backend: Backend, host: str, timeout: float) -> None:
        self.backend = backend
        self.host = host
        self.seconds = min(timeout, MEETING_SECONDS)
        self._store = open_store(host)

    def prepare(self, weights: Sequence[PolicyWeight], totals: Totals, version: str) -> None:
        self._weights, self._totals, self._version = weights, totals, version

    def request(self, url: str) -> dict[str, Any]:
        shapes = [[weight.name, list(weight.shape)] for weight in self._weights]
        return {"meeting": self._meeting(url).to_json(), "tensors": shapes}

    def _meeting(self, url: str) -> Meeting:
        return Meeting(self.host, self._store.port, f"{self._version}/{url}", self.backend, self.seconds)

    def send(self, urls: Sequence[str]) -> dict[str, str]:
        groups: dict[str, Group] = {}
        failed: dict[str, str] = {}
        with ThreadPoolExecutor(len(urls)) as pool:  # one that does not come keeps no other waiting
            joining = {url: pool.submit(join, self._meeting(url), TRAINER, self._store) for url in urls}
            for url, joined in joining.items():
                try:
                    groups[url] = joined.result()
                except RuntimeError as error:
                    failed[url] = _line(error)
        tensors = (tensor for _, tensor in self._totals.noted((w.name, w.tensor()) for w in self._weights))
        return failed | {url: _line(error) for url, error in send_to_all(groups, tensors).items()}

    def finish(self) -> None:
        self._weights = []


def write_files(weights: Sequence[PolicyWeight], totals: Totals, folder: Path) -> None:
    """Weights in files of at most `FILE_BYTES`, in the engine's type."""
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


def _line(error: RuntimeError) -> str:
    return f"{error}".strip().partition("\n")[0].partition(" This is typically")[0]
