"""Decoding steps as CUDA graphs: one launch a token instead of one per kernel.

Not run on a GPU yet.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch


class CudaGraphs:
    """Runs the first step at a shape as it is, captures the second one, and replays it from then on.

    A graph lives as long as its shape, within one call of the engine. So it never meets other weights, even of an
    optimizer that replaces them instead of changing them in place. The memory of graphs is given back at the end of the
    call: training needs it.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: GraphMemory | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._ran = False

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The side stream on which everything must run that a graph reads or writes; graphs end with it."""
        side = side_stream(self._device)
        outer = torch.cuda.current_stream(self._device)
        side.wait_stream(outer)
        try:
            with torch.cuda.stream(side):
                self._memory = GraphMemory(self._device)
                yield
        finally:
            outer.wait_stream(side)
            self.shapes_change()
            self._memory = None
            torch.cuda.empty_cache()  # memory of a stream or a pool is of no use to others until it is given back

    def run(self, step: Callable[[], None], times: int) -> None:
        for _ in range(times):
            if self._graph is None and self._ran:
                assert self._memory is not None
                self._graph = captured(step, self._memory.pool)
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


def captured(step: Callable[[], None], pool: torch.cuda._POOL_HANDLE) -> torch.cuda.CUDAGraph:
    """A step as a graph, see `capture`.

    Raises:
        ValueError: it cannot be captured. The run has to end: torch's allocator stays in a state in which training
            would run out of memory.
    """
    try:
        return capture(step, pool)
    except RuntimeError as error:
        raise ValueError(
            f"model.sampling.decoding (model.decoding in SFT and evaluation): a decoding step cannot be captured as a "
            f"CUDA graph here ({error}); set it to static or plain"
        ) from error


def capture(step: Callable[[], None], pool: torch.cuda._POOL_HANDLE) -> torch.cuda.CUDAGraph:
    """Record a step on the current stream, which must not be the default one. The step itself does not happen.

    `torch.cuda.graph` would also give back all memory that torch keeps, and wait for the device.

    Raises:
        RuntimeError: the step does something that cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    collects = gc.isenabled()
    gc.disable()  # what it frees could call CUDA, which a capture does not allow
    try:
        # Other threads may use the GPU meanwhile, such as NCCL's and those that pin memory.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            step()
        except BaseException:
            with suppress(RuntimeError):  # of the invalid capture; the step's own error says more
                graph.capture_end()
            raise
        graph.capture_end()
    finally:
        if collects:
            gc.enable()
    return graph


class GraphMemory:
    """Memory that the graphs of one call share, one after another.

    Attributes:
        pool: torch's handle.
    """

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self._number = torch.zeros(1, device=device)
        self._number.add_(1)
        # A pool may be used again only while one of its graphs is alive.
        self._anchor = capture(self._count, self.pool)

    def _count(self) -> None:
        self._number.add_(1)


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device's graphs, for the life of the process: libraries keep a work space per stream."""
    return torch.cuda.Stream(device)
