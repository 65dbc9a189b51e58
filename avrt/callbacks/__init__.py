"""Lightning callbacks that a run lists under ``trainer.callbacks``."""

from avrt.callbacks.samples import SampleTable
from avrt.callbacks.throughput import Throughput

__all__ = ["SampleTable", "Throughput"]
