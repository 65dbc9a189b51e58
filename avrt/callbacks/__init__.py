"""Lightning callbacks that a run lists under ``trainer.callbacks``."""

from avrt.callbacks.checkpoint import RunCheckpoint
from avrt.callbacks.overview import Overview
from avrt.callbacks.preemption import PreemptionCallback
from avrt.callbacks.samples import SampleTable
from avrt.callbacks.throughput import Throughput

__all__ = ["Overview", "PreemptionCallback", "RunCheckpoint", "SampleTable", "Throughput"]
