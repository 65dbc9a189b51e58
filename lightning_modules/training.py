"""Training under Lightning's automatic optimization: optimizer, clipping, schedule, checkpoints and exact resume."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.optim import AdamW

from avrt.config.numbers import NonNegativeInt, PositiveInt
from avrt.config.optimizer_steps import run_length
from avrt.model.checkpoints import newest
from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.flex_attention import flex_unavailable
from avrt.model.lora import LoRAConfig
from avrt.model.student import StudentConfig
from avrt.model.trained_weights import weights_are_finite, without_frozen
from datamodules.base import ShardDataModule
from datamodules.windows import MicroBatch
from lightning_modules.answering import AnsweringModule
from lightning_modules.optimization import OptimizerConfig, build_schedule, parameter_groups, rate_factor
from lightning_modules.resuming import changed_rewards, changed_settings, check_unchanged, flat_settings
from lightning_modules.step_metrics import FinishedStep, SkippedSteps, StepMetrics, StepObserver, StepReport
from lightning_modules.strategy import AVRTDeepSpeedStrategy
from lightning_modules.strategy_checks import check_zero3

DAMAGED_SAMPLES = "data/damaged_samples"
"""The curve of damaged training samples, in whose place others were read."""

MAX_SKIPPED_STEPS = 20
"""Default of `max_skipped_steps`: with so many skipped in a row, a run no longer learns."""


class TrainingModule(AnsweringModule):
    """A student in training.

    Subclasses implement `training_step`, which returns the micro-batch's share of the optimizer step's loss through
    `share_of_step`, and may add to `step_metrics`.

    Args:
        student: the student to train.
        optimizer: AdamW and its schedule.
        val_max_completion_length: token limit of a validation answer.
        kv_cache_tokens: bound on the tokens whose keys and values are held at once.
        lora: train low-rank adapters of the language model instead of its weights.
        resume_with_changes: resume from a checkpoint although settings or data have changed since; it is refused
            otherwise. The position in the data then counts in the new data's order.
        chunk_rows: response tokens whose logits are held at once; 0 for all.
        max_skipped_steps: optimizer steps in a row that may be skipped because their loss or gradient is not finite;
            with so many the run ends with an error.
    """

    num_iterations = 1
    """Optimizer steps on each window of prompts."""

    max_num_gen_batches = 1
    """A window draws at most so many times its prompts."""

    samples_in_training = False
    """Whether a training step samples responses, whose number of tokens differs between devices."""

    progress_metrics: tuple[str, ...] = ("loss",)
    """The few metrics that the progress bar shows."""

    def __init__(
        self,
        student: StudentConfig,
        optimizer: OptimizerConfig,
        val_max_completion_length: PositiveInt,
        kv_cache_tokens: PositiveInt,
        lora: LoRAConfig | None = None,
        resume_with_changes: bool = False,
        chunk_rows: NonNegativeInt = DEFAULT_CHUNK_ROWS,
        max_skipped_steps: PositiveInt = MAX_SKIPPED_STEPS,
    ) -> None:
        super().__init__(student, val_max_completion_length, kv_cache_tokens, lora)
        self.optimizer_config = optimizer
        self.resume_with_changes = resume_with_changes
        self.chunk_rows = chunk_rows
        self.step_metrics = StepMetrics()
        self.skipped = SkippedSteps(max_skipped_steps)
        self._plain_step: StepReport | None = None
        self._logged: set[str] = set()
        self._data: ShardDataModule | None = None
        self._damaged_before = 0.0

    def setup(self, stage: str) -> None:
        if stage == "fit":
            for name in ("accumulate_grad_batches", "max_steps"):  # Lightning accepts 0 for both
                if getattr(self.trainer, name) == 0:
                    raise ValueError(f"trainer.{name} is 0; it must be positive")
        super().setup(stage)
        self._data = None  # of an earlier run
        self._damaged_before = 0.0
        strategy = self.trainer.strategy
        if isinstance(strategy, AVRTDeepSpeedStrategy) and strategy.stage == 3:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            check_zero3(self.samples_in_training, self.trainer, isinstance(data, ShardDataModule) and bool(data.val))

    def connect_data(self, data: LightningDataModule) -> None:
        self._data = self.shards_of(data)
        self._data.connect(
            self.student.encoder, self.num_iterations, self.resume_with_changes, self.max_num_gen_batches
        )

    # ---- optimization -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        c = self.optimizer_config
        groups = parameter_groups(self.student, c.weight_decay)
        settings: dict[str, Any] = {"lr": c.learning_rate, "betas": c.betas, "eps": c.eps}
        strategy = self.trainer.strategy
        optimizer: torch.optim.Optimizer
        if isinstance(strategy, AVRTDeepSpeedStrategy):
            optimizer = strategy.build_optimizer(groups, settings)
        else:
            _check_master_weights(groups)
            # On a GPU the fused one needs no temporary copy of every gradient.
            optimizer = AdamW(groups, fused=True if self.device.type == "cuda" else None, **settings)
        schedule = build_schedule(optimizer, c, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def total_steps(self) -> int:
        """Optimizer steps of the whole run, from the config and never from the loader's position."""
        if self.optimizer_config.total_steps is not None:
            return self.optimizer_config.total_steps
        trainer = self.trainer
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            if trainer.max_steps < 0:
                raise ValueError(
                    "the learning-rate schedule has no end: set trainer.max_steps, trainer.max_epochs or "
                    "model.optimizer.total_steps"
                )
            return trainer.max_steps
        if self._data is None:
            raise ValueError("trainer.max_epochs: without a data module set model.optimizer.total_steps as well")
        # Not trainer.estimated_stepping_batches: it would have Lightning set the loader up now, before a checkpoint's
        # position reaches it.
        batches, accumulate = len(self._data.window_loader), trainer.accumulate_grad_batches
        return run_length(batches, accumulate, trainer.max_epochs, trainer.max_steps, trainer.limit_train_batches)

    def share_of_step(self, loss: Tensor) -> Tensor:
        """Undo Lightning's division by the number of accumulated micro-batches.

        Our losses are already divided by the totals of the whole optimizer step, so micro-batches simply add up.
        """
        return loss * self.trainer.accumulate_grad_batches

    def on_before_backward(self, loss: Tensor) -> None:
        self.step_metrics.start("training")

    def on_after_backward(self) -> None:
        self.step_metrics.stop("training")

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Measure the gradient norm before clipping; drop a gradient that is not finite.

        Without gradients the optimizer changes nothing, so one bad batch costs one step and not the run. The norm is
        taken after gradients were averaged over devices, so all devices agree. DeepSpeed's engine does all this
        itself, in its step.
        """
        if isinstance(self.trainer.strategy, AVRTDeepSpeedStrategy):
            return
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._plain_step = StepReport(float(norm), optimizer.param_groups[0]["lr"])
        if not torch.isfinite(norm):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
            return
        self.clip_gradients(
            optimizer, gradient_clip_val=gradient_clip_val, gradient_clip_algorithm=gradient_clip_algorithm
        )

    def on_train_start(self) -> None:
        if self.resume_with_changes:  # a checkpoint's optimizer has brought its own settings
            c = self.optimizer_config
            rate = c.learning_rate * rate_factor(self.global_step, c, self.total_steps())
            for group in self.trainer.optimizers[0].param_groups:
                decay = c.weight_decay if group["decays"] else 0.0
                group.update(lr=rate, betas=c.betas, eps=c.eps, weight_decay=decay)
        micro_batches, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if batches % micro_batches:
            raise ValueError(
                f"an epoch has {batches} micro-batches, which is not a multiple of the {micro_batches} of one "
                "optimizer step; set trainer.limit_train_batches (or the number of trainer.fast_dev_run) to a multiple "
                "of it, or leave it out"
            )
        problem = flex_unavailable(self.device.type) if self.student_config.attention_kernel == "flex" else None
        if problem is not None:
            raise ValueError(
                f"model.student.attention_kernel: {problem}; set it to sdpa, or trainer.accelerator to gpu"
            )

    # ---- metrics of an optimizer step -------------------------------------------------------------------------------

    def on_train_batch_end(self, outputs: Any, batch: MicroBatch, batch_idx: int) -> None:
        self.skipped.note(outputs["loss"].detach(), [prompt.sample.id for prompt in batch.prompts])
        if batch.last:
            self._finish_step()

    def _finish_step(self) -> None:
        """Record the optimizer step's gradient norm and learning rate, report skipped samples, log its metrics."""
        report = self._step_report()
        skipped = self.skipped.finish(report, self.global_step, self.gather_texts)
        if report is not None:
            self.step_metrics.add("grad_norm", report.grad_norm)
            self.step_metrics.add("learning_rate", report.learning_rate)
        if skipped is not None:
            self.print(skipped)
            self.skipped.check(self.global_step)
        if self._data is not None:
            # Weights that sum to 1 over devices: the value is the sum.
            self.step_metrics.add(DAMAGED_SAMPLES, self._data.damaged.count, 1 / self.trainer.world_size)
        values = self.step_metrics.finish(self._sum_over_devices, self._largest_of_devices)
        values = self.derived_metrics(values) | {"skipped_steps": float(self.skipped.total)}
        if self._data is not None:
            values[DAMAGED_SAMPLES] += self._damaged_before
            self._data.check_damaged(values[DAMAGED_SAMPLES])
            counts = self._data.samples_by_source().items()
            values |= {f"data/samples/{name}": float(count) for name, count in counts}
        self._drop_earlier_values(values.keys())
        self.log_dict({k: v for k, v in values.items() if k not in self.progress_metrics}, batch_size=1)
        shown = {k: v for k, v in values.items() if k in self.progress_metrics}
        self.log_dict(shown, prog_bar=True, batch_size=1)
        self.check_step(values)
        step = FinishedStep(self.global_step, values, self.step_metrics.take_samples())
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StepObserver):
                callback.on_optimizer_step_end(self, step)

    def derived_metrics(self, values: dict[str, float]) -> dict[str, float]:
        """A step's metrics with those that are computed from others."""
        return values

    def check_step(self, values: dict[str, float]) -> None:
        """End the run if its metrics show that it does not train as it should; subclasses may. On all devices.

        Args:
            values: the step's metrics over all devices.
        """

    def _drop_earlier_values(self, names: Collection[str]) -> None:
        """Leave a gap in the curves that this step has no value for.

        Lightning logs every metric of an epoch's earlier steps again in each step, with its old value.
        """
        for item in self.trainer._results.values():  # type: ignore[union-attr]
            if item.meta.name in self._logged and item.meta.name not in names:
                item.reset()
        self._logged |= set(names)

    def _step_report(self) -> StepReport | None:
        """The outcome of the last optimizer step, on every device."""
        strategy = self.trainer.strategy
        return strategy.last_step if isinstance(strategy, AVRTDeepSpeedStrategy) else self._plain_step

    def _sum_over_devices(self, table: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return table
        return self.trainer.strategy.reduce(table.to(self.device), reduce_op="sum").cpu()

    def _largest_of_devices(self, values: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return values
        return self.trainer.strategy.reduce(values.to(self.device), reduce_op="max").cpu()

    def on_train_end(self) -> None:
        self.skipped.check_at_end(self.global_step)

    def prepare_to_leave(self) -> None:
        """Called on all devices before a checkpoint after which the run ends soon: drop what would take long to wait
        for; subclasses may."""

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def training_settings(self) -> dict[str, Any]:
        """The arguments that a training's course depends on, under their names."""
        return {"student": self.student_config, "optimizer": self.optimizer_config, "lora": self.lora_config}

    def reward_settings(self) -> dict[str, dict[str, Any]]:
        """The rewards' settings by name; empty where there are none."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_weights_are_finite()
        skipped, in_a_row = self.skipped.counted(self._step_report())
        checkpoint["state_dict"] = without_frozen(checkpoint["state_dict"], self)
        checkpoint["avrt"] = {
            "frozen": self._frozen,
            "tokens_seen": self.step_metrics.tokens_seen,
            "skipped_steps": skipped,
            "skipped_in_a_row": in_a_row,
            "damaged_samples": self._damaged_samples(),
            "settings": flat_settings(self.training_settings()),
            "rewards": self.reward_settings(),
            "metrics": {name: float(value) for name, value in self.trainer.callback_metrics.items()},
        }

    def _damaged_samples(self) -> float:
        """Over all devices, from the beginning of the run, for a checkpoint; called on every device."""
        if self._data is None:
            return self._damaged_before
        here = torch.tensor([float(self._data.damaged.committed)], dtype=torch.float64)
        return self._damaged_before + float(self._sum_over_devices(here))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["avrt"]
        self._damaged_before = state.get("damaged_samples", 0.0)  # not in checkpoints of earlier versions
        if self.trainer.training:
            now = flat_settings(self.training_settings())
            changed = changed_settings(state["settings"], now)
            changed += changed_rewards(state["rewards"], self.reward_settings())
            check_unchanged(changed, self.resume_with_changes)
            for schedule in checkpoint.get("lr_schedulers", []):  # the peak is saved with it; the config's counts
                schedule["base_lrs"] = [self.optimizer_config.learning_rate] * len(schedule["base_lrs"])
        self.step_metrics.tokens_seen = state["tokens_seen"]
        self.skipped.total, self.skipped.in_a_row = state["skipped_steps"], state["skipped_in_a_row"]

    def _check_weights_are_finite(self) -> None:
        """Refuse to save weights that no run can continue from; a good checkpoint may be deleted for them.

        Called on every device.
        """
        if not self.trainer.strategy.reduce_boolean_decision(weights_are_finite(self.student), all=True):
            folders = [getattr(callback, "dirpath", None) for callback in self.trainer.checkpoint_callbacks]
            last = newest(*(Path(folder) for folder in folders if folder))
            raise ValueError(
                f"step {self.global_step}: trained weights are not finite, so nothing is saved; "
                + (f"the last good checkpoint is {last.path}; " if last.path else "")
                + "lower model.optimizer.learning_rate, or look at the data"
            )


def _check_master_weights(groups: list[dict[str, Any]]) -> None:
    """Only DeepSpeed adds float32 masters to weights of half the width."""
    if any(p.dtype in (torch.bfloat16, torch.float16) for group in groups for p in group["params"]):
        raise ValueError(
            "the trained weights are bfloat16, and an update at a small learning rate rounds to nothing in them; set "
            "trainer.strategy.class_path to lightning_modules.strategy.AVRTDeepSpeedStrategy, or model.student.dtype "
            "to float32 and trainer.precision to bf16-mixed"
        )
