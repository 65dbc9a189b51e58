"""Whole GRPO steps under Lightning: DeepSpeed ZeRO-2, with the optimizer's state on the device or in host memory, and
without DeepSpeed (float32 weights under bfloat16 autocast).
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import Optimizer

from avrt.grpo.loss import LossConfig
from avrt.model.encoding import Prompt
from avrt.model.student import Dtype, Student
from benchmarks.gpu.clock import GIB
from benchmarks.gpu.models import (
    audio_visual_prompts,
    random_student,
    random_student_config,
    sampling,
    student_config,
)
from benchmarks.gpu.plans import grpo_settings, too_large
from benchmarks.gpu.shapes import Row, Shape, Skipped
from benchmarks.students import Prompts, StepTimer, TokenSum
from datamodules.order import SampleOrder
from datamodules.windows import WindowLoader
from lightning_modules.grpo import GRPOModule
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.step_metrics import FinishedStep

STEPS = 2
"""The first one loads kernels and creates the optimizer's state."""


def run(shape: Shape, device: torch.device, size: str, strategy: str) -> Iterator[Row]:
    """A row per optimizer step."""
    stage, offload, dtype, precision = {
        "zero2": (2, False, "bfloat16", "bf16-true"),
        "offload": (2, True, "bfloat16", "bf16-true"),
        "plain": (0, False, "float32", "bf16-mixed"),
    }[strategy]
    settings = grpo_settings(
        shape,
        size,
        shape.prompt_tokens,
        shape.groups[0],
        shape.step_response,
        stage=stage,
        offload=offload,
        weight_bytes=2 if dtype == "bfloat16" else 4,
        accumulate=shape.step_prompts,
    )
    reason = too_large(student_config(shape, size), settings, device)
    if reason:
        raise Skipped(reason)
    lightning_strategy: Any = "auto"
    if stage:
        lightning_strategy = _zero2(offload, device)

    def build() -> Student:
        return random_student(shape, size, device, dtype)  # type: ignore[arg-type]

    module = StepModule(build, dtype, shape.groups[0], shape.step_response)  # type: ignore[arg-type]
    observer = Observer(device)
    prompts = audio_visual_prompts(shape, shape.step_prompts)
    fit(
        module,
        prompts,
        device,
        micro_batch_size=1,
        steps=STEPS,
        callbacks=[observer],
        strategy=lightning_strategy,
        precision=precision,
    )
    what = f"{size}, {strategy}, {len(prompts)} prompts of {len(prompts[0].input_ids)}"
    for number, row in enumerate(observer.rows):
        yield {"what": what, "group": shape.groups[0], "response": shape.step_response, "step": number, **row}


def _zero2(offload: bool, device: torch.device) -> Any:
    """ZeRO-2 with the defaults of a run. On the CPU, torch's optimizer: DeepSpeed's would be compiled first."""
    import deepspeed  # noqa: F401 -- without it the part is skipped

    from lightning_modules.strategy import AVRTDeepSpeedStrategy

    if device.type == "cuda":
        return AVRTDeepSpeedStrategy(stage=2, offload_optimizer=offload)

    class WithTorchOptimizer(AVRTDeepSpeedStrategy):
        def build_optimizer(self, groups: list[dict[str, Any]], settings: dict[str, Any]) -> Optimizer:
            return torch.optim.AdamW(groups, **settings)

    strategy = WithTorchOptimizer(stage=2, offload_optimizer=offload)
    assert isinstance(strategy.config, dict)
    strategy.config["zero_force_ds_cpu_optimizer"] = False
    return strategy


class StepModule(GRPOModule):
    """GRPO with a student that `build` creates on the device, and responses of one length."""

    def __init__(
        self, build: Callable[[], Student], dtype: Dtype, group: int, response: int, bfloat16_optimizer: bool = False
    ) -> None:
        checks = {"self_check": False} if "self_check" in inspect.signature(GRPOModule).parameters else {}
        super().__init__(
            random_student_config(dtype, True),
            OptimizerConfig(learning_rate=1e-6, warmup_steps=0, schedule="constant"),
            LossConfig(beta=0.01),
            sampling(response),
            num_generations=group,
            **checks,  # type: ignore[arg-type]
        )
        self.build = build
        self.bfloat16_optimizer = bfloat16_optimizer

    def configure_model(self) -> None:
        if self.student is None:
            self.student = self.build()
            self.student_loaded()

    def configure_optimizers(self) -> Any:
        if not self.bfloat16_optimizer:
            return super().configure_optimizers()
        trained = [p for p in self.student.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-6)


class Observer(Callback):
    """The seconds of every optimizer step by phase, and its peak memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows: list[Row] = []
        self.timer: StepTimer | None = None

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        module.step_metrics.synchronize = True
        (self.timer,) = (c for c in trainer.callbacks if isinstance(c, StepTimer))  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        if batch.first and self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def on_optimizer_step_end(self, module: Any, step: FinishedStep) -> None:
        assert self.timer is not None
        prefix = "seconds/"
        phases = {
            f"{name.removeprefix(prefix)}_seconds": seconds
            for name, seconds in step.values.items()
            if name.startswith(prefix)
        }
        row: Row = {"seconds": self.timer.seconds, **phases}
        row["optimizer_and_other_seconds"] = self.timer.seconds - sum(phases.values())
        row["grad_norm"] = step.values.get("grad_norm")
        row["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else None
        self.rows.append(row)


def fit(
    module: StepModule,
    prompts: list[Prompt],
    device: torch.device,
    micro_batch_size: int,
    steps: int,
    callbacks: Sequence[Callback] = (),
    strategy: Any = "auto",
    precision: Any = "32-true",
) -> float:
    """Train for a few optimizer steps on all prompts each; seconds of the last."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    micro_batches = len(prompts) // micro_batch_size
    loader = WindowLoader(
        Prompts(prompts),
        SampleOrder([[len(prompts)]], shuffle=False),
        micro_batch_size=micro_batch_size,
        micro_batches=micro_batches,
    )
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        strategy=strategy,
        precision=precision,
        max_steps=steps,
        accumulate_grad_batches=micro_batches,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[timer := StepTimer(), *callbacks, TokenSum()],
    )
    trainer.fit(module, loader)
    return timer.seconds
