"""DeepSpeed under Lightning, for GPUs and, with gloo, for CPUs: one code path.

Lightning's own strategy refuses CPUs, divides an accumulated loss twice, cannot leave frozen weights out of a
checkpoint that it resumes from, unpickles checkpoints, and writes them so that a killed save looks like a whole one.
This subclass fixes these and adds nothing else.

ZeRO-2 keeps a copy of the weights on every device and splits gradients and optimizer state over the devices; with
offload these two are in host memory. ZeRO-3 splits the trained weights too.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy, StrategyRegistry
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.cpp_extension import get_default_build_root

from avrt.config.host_memory import available_memory
from avrt.config.numbers import PositiveFloat, PositiveInt
from avrt.config.strategies import STRATEGIES
from avrt.model.checkpoints import (
    DEEPSPEED_TAG,
    DEEPSPEED_WEIGHTS,
    check_no_instantiator,
    finish_folder,
    load_without_code,
    save_tensors,
    start_folder,
)
from avrt.model.offloaded_memory import SHARE_OF_HOST
from avrt.model.student import Student
from lightning_modules.checkpoint_io import checked
from lightning_modules.offloading import drop_skipped_gradients, host_bytes
from lightning_modules.step_metrics import StepReport


class StudentPrecision(DeepSpeedPrecision):
    """Leaves batches unchanged: they hold samples, and the student converts what it embeds."""

    def convert_input(self, data: Any) -> Any:
        return data


class TrainedModule(Protocol):
    """The part of a module that the strategy uses; `lightning_modules.answering.AnsweringModule` has it."""

    student: Student

    @property
    def trainer(self) -> Trainer: ...

    def check_saved_weights(self, saved: Iterable[str]) -> None: ...


class AVRTDeepSpeedStrategy(DeepSpeedStrategy):
    """ZeRO with frozen encoders.

    Gradient clipping is `trainer.gradient_clip_val`, accumulation `trainer.accumulate_grad_batches`. A step whose
    gradient is not finite on any device is skipped on all. Trained weights get float32 masters whatever
    `trainer.precision` is.

    Args:
        stage: 1 splits the optimizer state over devices, 2 the gradients too, 3 the trained weights too.
        offload_optimizer: keep float32 masters, optimizer state and gradients in host memory, and step there.
        pin_memory: pin what is transferred of that memory, which makes the transfers several times as fast and cannot
            be swapped out. ``auto`` pins it if a GPU is there and the host has enough free memory for all processes.
        grad_accum_dtype: how gradients of bfloat16 weights are summed over the micro-batches of an optimizer step.
            ``fp32``: in float32 on the device (4 bytes per trained weight, divided over the devices, from the first
            backward pass to the step); offloaded ones go to host memory once. ``bf16``: rounded to bfloat16 after
            every micro-batch; offloaded ones go to host memory and back in each. With one micro-batch per step there is
            nothing to sum, and offloaded gradients always go as ``bf16`` does. Under stage 1 they are always summed as
            ``bf16`` does; under stage 3 the sums are in host memory, so that ``fp32`` doubles what crosses. Weights of
            float32 have sums of float32.
        overlap_comm: reduce gradients during the backward pass; costs one more bucket.
        allgather_bucket_size: elements of weights gathered at a time.
        reduce_bucket_size: elements of gradients reduced at a time.
        timeout_minutes: a device that does not answer a collective for so long ends the run. It must be longer than
            the longest time that one device works alone (the slowest rollout against the fastest).
    """

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload_optimizer: bool = True,
        pin_memory: Literal["auto"] | bool = "auto",
        grad_accum_dtype: Literal["fp32", "bf16"] = "fp32",
        overlap_comm: bool = True,
        allgather_bucket_size: PositiveInt = 200_000_000,
        reduce_bucket_size: PositiveInt = 200_000_000,
        timeout_minutes: PositiveFloat = 30.0,
    ) -> None:
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would warn that it had to find that out
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            overlap_comm=overlap_comm,
            allgather_bucket_size=allgather_bucket_size,
            reduce_bucket_size=reduce_bucket_size,
            timeout=timedelta(minutes=timeout_minutes),
            exclude_frozen_parameters=True,
            logging_level=logging.ERROR,
        )
        self.stage = stage
        self.offload_optimizer = offload_optimizer
        self.pin_memory = pin_memory
        self.grad_accum_dtype = grad_accum_dtype
        self.last_step: StepReport | None = None
        """The outcome of the last optimizer step; the engine knows the norm only after its step."""

    @property
    def precision_plugin(self) -> Precision:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, precision_plugin: Precision | None) -> None:
        if isinstance(precision_plugin, DeepSpeedPrecision):
            precision_plugin = StudentPrecision(precision_plugin.precision)  # type: ignore[arg-type]
        self._precision_plugin = precision_plugin

    # ---- processes and devices --------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        # Lightning's version refuses everything but CUDA; what it then does is this.
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        if self._on_cpu:
            import deepspeed

            # Shared-memory collectives would be compiled first, and are for many-core hosts; gloo is always there.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            reset_seed()
            self.set_world_ranks()
            self._init_deepspeed_distributed()
        else:
            super().setup_distributed()

    @property
    def root_device(self) -> torch.device:
        # DeepSpeed reads a device's index, which a plain CPU device does not have.
        return torch.device("cpu", self.local_rank) if self._on_cpu else super().root_device

    @property
    def _on_cpu(self) -> bool:
        assert self.parallel_devices is not None
        return self.parallel_devices[0].type == "cpu"

    @property
    def _module(self) -> TrainedModule:
        assert self.lightning_module is not None
        return cast("TrainedModule", self.lightning_module)

    # ---- engine -----------------------------------------------------------------------------------------------------

    def init_deepspeed(self) -> None:
        module = self._module
        assert isinstance(self.model, LightningModule)
        if module.trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE:
            raise ValueError("trainer.gradient_clip_algorithm: DeepSpeed clips by norm only; remove the key")
        if self.stage == 3:
            keep_whole(module.student.thinker.model, ("visual", "audio_tower"), self.root_device)
        if module.trainer.training:
            self._configure_gradients(module.student)
            self._initialize_deepspeed_train(self.model)
            self._share_head()
        else:
            self._initialize_deepspeed_inference(self.model)
        self.deepspeed_engine.checkpoint_engine = safe_checkpoint_engine()

    def _configure_gradients(self, student: Student) -> None:
        """Complete DeepSpeed's settings with those that depend on the weights."""
        assert isinstance(self.config, dict)
        bfloat16 = self.config.get("bf16", {}).get("enabled", False)
        if bfloat16 and self.stage > 1:  # stage 1 has another optimizer for it, which takes steps that are not finite
            once = self.offload_optimizer and self._module.trainer.accumulate_grad_batches == 1
            self.config["data_types"] = {"grad_accum_dtype": "bf16" if once else self.grad_accum_dtype}
        if self.offload_optimizer:
            pinned = self.pin_memory if isinstance(self.pin_memory, bool) else self._can_pin(student)
            self.config["zero_optimization"]["offload_optimizer"]["pin_memory"] = pinned

    def _can_pin(self, student: Student) -> bool:
        """Whether every machine has the memory; all processes agree."""
        if self._on_cpu:
            return False
        assert self.parallel_devices is not None
        accumulates = self._module.trainer.accumulate_grad_batches > 1
        fp32 = self.grad_accum_dtype == "fp32"
        processes = len(self.parallel_devices)  # of this machine
        needed = processes * host_bytes(student, self.world_size, self.stage, fp32, accumulates)
        free = available_memory()
        if free is not None:  # the weights go to the devices before anything is pinned
            leaving = (w.numel() * w.element_size() for w in student.parameters() if w.device.type == "cpu")
            free += processes * sum(leaving)
        enough = free is not None and needed <= free * SHARE_OF_HOST
        enough = self.reduce_boolean_decision(enough, all=True)
        if not enough:
            rank_zero_warn(
                f"the optimizer's memory is not pinned, which makes transfers slower: {needed / 1e9:.0f} GB on this "
                f"machine, of which {'unknown' if free is None else f'{free / 1e9:.0f} GB'} are free; "
                "trainer.strategy.init_args.pin_memory: true pins it all the same, false silences this warning"
            )
        return enough

    def _share_head(self) -> None:
        """Under ZeRO-3: the head's weight is used without calling the head, so its owner is the whole module."""
        if self.stage == 3:
            import deepspeed

            weight = self._module.student.thinker.lm_head.weight
            deepspeed.zero.register_external_parameter(self.lightning_module, weight)

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        # The student is loaded whole, also under ZeRO-3: transformers fills its weights from files, and DeepSpeed
        # splits them when the engine starts.
        yield

    def build_optimizer(self, groups: list[dict[str, Any]], settings: dict[str, Any]) -> Optimizer:
        """AdamW where its state lives: DeepSpeed's vectorized one in host memory, torch's fused one on the device.

        DeepSpeedCPUAdam is compiled on first use (minutes) and then cached in ``TORCH_EXTENSIONS_DIR``.
        """
        if not self.offload_optimizer:
            return AdamW(groups, fused=True, **settings)
        for lock in compile_locks("cpu_adam") if self.is_global_zero else ():
            rank_zero_warn(
                "waiting for another process that compiles DeepSpeed's optimizer; if no other run is starting, an "
                f"earlier one was killed while it compiled: delete {lock} and start again"
            )
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, adamw_mode=True, **settings)

    def _auto_select_batch_size(self) -> int:
        # Only DeepSpeed's own throughput log reads it. Lightning would look for a torch DataLoader's sampler.
        return 1

    # ---- a step -----------------------------------------------------------------------------------------------------

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        # Lightning has divided the loss by the accumulated micro-batches; the engine would do it once more.
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(self, optimizer: Optimizer, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        """Called for every micro-batch; the engine steps at the last of a window."""
        engine = self.deepspeed_engine
        steps = engine.global_steps
        learning_rate = optimizer.param_groups[0]["lr"]
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        if engine.global_steps > steps:
            drop_skipped_gradients(engine.optimizer)
            norm = engine.get_global_grad_norm()
            self.last_step = StepReport(float("nan") if norm is None else float(norm), float(learning_rate))
        return output

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a folder that appears under its name only when every device's part is on disk."""
        if storage_options is not None:
            raise ValueError("storage_options: DeepSpeed writes checkpoints itself; leave it out")
        path = Path(self.broadcast(os.fspath(filepath)))
        client_state = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        partial = self.broadcast(str(start_folder(path)) if self.is_global_zero else "")
        try:
            self.deepspeed_engine.save_checkpoint(
                partial, client_state=client_state, tag=DEEPSPEED_TAG, exclude_frozen_parameters=True
            )
        except OSError:  # a full disk: leave nothing that takes space
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.barrier()
        if self.is_global_zero:
            finish_folder(path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of this strategy.

        Raises:
            ValueError: it is incomplete, holds code, was written by another number of devices, or lacks weights.
        """
        path = checked(Path(checkpoint_path))
        if not path.is_dir():
            raise ValueError(
                f"{path}: is a single file, not a checkpoint of DeepSpeed; resume it with the strategy that wrote it, "
                "or export it and set model.student.path"
            )
        module = self._module
        saved = load_without_code(path / DEEPSPEED_TAG / DEEPSPEED_WEIGHTS, mmap=True)
        check_no_instantiator(saved, path)
        if module.trainer.training and saved["dp_world_size"] != self.world_size:
            raise ValueError(
                f"{path}: was written by {saved['dp_world_size']} devices, this run has {self.world_size}: DeepSpeed's "
                "optimizer state is split over them. Resume with as many devices, or export the checkpoint and start "
                "a new run from its weights"
            )
        if self.stage != 3:
            module.check_saved_weights(saved["module"])
        del saved
        return super().load_checkpoint(path, weights_only)


def keep_whole(owner: nn.Module, names: Iterable[str], device: torch.device) -> None:
    """Hide frozen encoders from the engine, so that ZeRO-3 neither splits nor gathers them.

    A device whose batch has no audio never calls the audio encoder. If the encoder's weights were split, the other
    devices would wait for this device's part forever. They stay reachable under their names, whole on every device.
    """
    for name in names:
        encoder = owner._modules.pop(name)
        assert encoder is not None
        object.__setattr__(owner, name, encoder.to(device))


def safe_checkpoint_engine() -> Any:
    """DeepSpeed's reader and writer of files, without unpickling code, and with clear errors."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    class SafeCheckpointEngine(TorchCheckpointEngine):
        def save(self, state_dict: Any, path: str) -> None:
            save_tensors(state_dict, Path(path), Path(path))

        def load(self, path: str, map_location: Any = None) -> Any:
            return load_without_code(Path(path), map_location)

    return SafeCheckpointEngine()


def compile_locks(operator: str) -> list[Path]:
    """Files by which torch lets one process at a time compile an operator.

    A process that is killed leaves its file behind, and later ones wait for it silently and forever.
    """
    folder = os.environ.get("TORCH_EXTENSIONS_DIR")
    root, below = (Path(folder), "") if folder else (Path(get_default_build_root()), "*/")
    return sorted(root.glob(f"{below}{operator}/lock"))


for _name, _arguments in STRATEGIES.items():
    StrategyRegistry.register(_name, AVRTDeepSpeedStrategy, description=f"DeepSpeed with {_arguments}", **_arguments)
