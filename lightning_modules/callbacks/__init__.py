"""Lightning callbacks that a run lists under ``trainer.callbacks``."""

from lightning_modules.callbacks.checkpoint import RunCheckpoint
from lightning_modules.callbacks.overview import Overview
from lightning_modules.callbacks.preemption import PreemptionCallback
from lightning_modules.callbacks.samples import SampleTable
from lightning_modules.callbacks.throughput import Throughput

__all__ = ["Overview", "PreemptionCallback", "RunCheckpoint", "SampleTable", "Throughput"]
