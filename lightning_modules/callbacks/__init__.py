"""Lightning callbacks that a run lists under ``trainer.callbacks``."""

from lightning_modules.callbacks.checkpoint import RunCheckpoint
from lightning_modules.callbacks.evaluation_progress import EvaluationProgress
from lightning_modules.callbacks.export import ExportStudent
from lightning_modules.callbacks.overview import Overview
from lightning_modules.callbacks.preemption import PreemptionCallback
from lightning_modules.callbacks.samples import SampleTable
from lightning_modules.callbacks.spikes import SpikeReport
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.callbacks.training_progress import TrainingProgress
from lightning_modules.callbacks.watchdog import Watchdog

__all__ = [
    "EvaluationProgress",
    "ExportStudent",
    "Overview",
    "PreemptionCallback",
    "RunCheckpoint",
    "SampleTable",
    "SpikeReport",
    "Throughput",
    "TrainingProgress",
    "Watchdog",
]
