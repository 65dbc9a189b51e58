"""Decoding steps as CUDA graphs: one launch a token instead of one per kernel.

Not run on a GPU yet.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

logger = logging.getLogger(__name__)


class CudaGraphs:
    """Runs the first step at a shape as it is, captures the second one, and replays it from then on.

    A graph lives as long as its shape, within one call of the engine. So it never meets other weights, even of an
    optimizer that replaces them instead of changing them in place.

    Args:
        device: a CUDA device.
        required: raise if a step cannot be captured; False continues without graphs, with a warning.
    """

    def __init__(self, device: torch.device, required: bool) -> None:
        self._device = device
        self._required = required
        self._graph: torch.cuda.CUDAGraph | None = None
        self._ran = False

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The side stream on which everything must run that a graph reads or writes; graphs end with it."""
        side = graph_memory(self._device).stream
        outer = torch.cuda.current_stream(self._device)
        side.wait_stream(outer)
        try:
            with torch.cuda.stream(side):
                yield
        finally:
            outer.wait_stream(side)
            self.shapes_change()

    def run(self, step: Callable[[], None], times: int) -> None:
        for _ in range(times):
            if self._graph is None and self._ran and not graph_memory(self._device).refused:
                self._capture(step)
            if self._graph is not None:
                self._graph.replay()
            else:
                # Once as it is: kernels are loaded and libraries get their memory, which a capture must not do.
                step()
                self._ran = True

    def shapes_change(self) -> None:
        if self._graph is not None:
            torch.cuda.current_stream(self._device).synchronize()
        self._graph, self._ran = None, False

    def _capture(self, step: Callable[[], None]) -> None:
        memory = graph_memory(self._device)
        try:
            self._graph = capture(step, memory.pool)
        except RuntimeError as error:
            if self._required:
                raise
            memory.refused = True
            logger.warning("decoding continues without CUDA graphs, because a step could not be captured: %s", error)


def capture(step: Callable[[], None], pool: torch.cuda._POOL_HANDLE) -> torch.cuda.CUDAGraph:
    """Record a step on the current stream, which must not be the default one. The step itself does not happen.

    `torch.cuda.graph` would also give back all memory that torch keeps, and wait for the device.
    """
    graph = torch.cuda.CUDAGraph()
    collects = gc.isenabled()
    gc.disable()  # what it frees could call CUDA, which a capture does not allow
    try:
        # Other threads may use the GPU meanwhile, such as NCCL's and those that pin memory.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
    finally:
        if collects:
            gc.enable()
    return graph


class _GraphMemory:
    """A device's stream for graphs, and the memory that they share one after another.

    Stream and memory stay for the life of the process: libraries keep a work space per stream, and memory of a pool
    without graphs would be kept beside that of the next pool.

    Attributes:
        refused: a step could not be captured, so that no other is tried unless graphs are required.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self.stream):
            self._number = torch.zeros(1, device=device)
            self._number.add_(1)
            # A pool may be used again only while one of its graphs is alive.
            self._anchor = capture(self._count, self.pool)
        self.refused = False

    def _count(self) -> None:
        self._number.add_(1)


@cache
def graph_memory(device: torch.device) -> _GraphMemory:
    """The stream and the memory of a device's graphs."""
    return _GraphMemory(device)
