"""What all training modules share: the student, its optimizer, validation by greedy answers, and step metrics."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.optim import AdamW
from torchmetrics import MeanMetric

from avrt.config.run_length import run_length
from avrt.files.atomic import write_atomic
from avrt.model.checkpoints import newest
from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.lora import LoRAConfig, add_lora
from avrt.model.student import Student, StudentConfig
from avrt.model.trained_weights import check_saved_weights, frozen_fingerprint, weights_are_finite, without_frozen
from avrt.rollout.builtin import Response, RolloutEngine, SamplingConfig, TransformersRollout
from avrt.sample import Completion, Sample
from avrt.text.answers import is_formatted, parse
from datamodules.streaming import Item, MicroBatch
from lightning_modules.checkpoint_io import SafeCheckpointIO
from lightning_modules.optimization import OptimizerConfig, build_schedule, parameter_groups, rate_factor
from lightning_modules.resuming import changed_rewards, changed_settings, check_unchanged, flat_settings
from lightning_modules.strategy import AVRTDeepSpeedStrategy, StepReport, check_strategy

PREDICTIONS_NAME = "predictions.jsonl"
"""Where `predict` leaves its answers, in the logger's folder."""


MAX_SKIPPED_STEPS = 20
"""Skipped in a row, they mean that the run no longer learns."""


class StudentModule(LightningModule):
    """A student under Lightning's automatic optimization.

    Subclasses implement `training_step`, which returns the micro-batch's share of the optimizer step's loss through
    `share_of_step`.

    Args:
        student: which student to train.
        optimizer: AdamW and its schedule.
        val_max_completion_length: token limit of a validation answer.
        kv_cache_tokens: bound on the tokens whose keys and values a rollout holds at one time.
        lora: train low-rank adapters of the language model instead of its weights.
        resume_with_changes: go on from a checkpoint although settings or data have changed since; it is refused
            otherwise. The position in the data then counts in the new data's order.
        chunk_rows: response tokens whose logits are held at one time; 0 for all.
        max_skipped_steps: optimizer steps in a row that may be skipped because their loss or gradient is not finite;
            with so many the run ends with an error.
    """

    num_iterations = 1
    """Optimizer steps on each window of prompts."""

    def __init__(
        self,
        student: StudentConfig,
        optimizer: OptimizerConfig,
        val_max_completion_length: int = 512,
        kv_cache_tokens: int = 262_144,
        lora: LoRAConfig | None = None,
        resume_with_changes: bool = False,
        chunk_rows: int = DEFAULT_CHUNK_ROWS,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
    ) -> None:
        super().__init__()
        if max_skipped_steps < 1:
            raise ValueError(f"model.init_args.max_skipped_steps must be positive, is {max_skipped_steps}")
        self.max_skipped_steps = max_skipped_steps
        if chunk_rows < 0:
            raise ValueError(f"model.init_args.chunk_rows must be 0 (all at once) or positive, is {chunk_rows}")
        self.chunk_rows = chunk_rows
        # Frozen weights are not in checkpoints; `check_saved_weights` is strict about all others.
        self.strict_loading = False
        self.student_config = student
        self.optimizer_config = optimizer
        self.lora_config = lora
        self.resume_with_changes = resume_with_changes
        self.val_sampling = SamplingConfig(val_max_completion_length, temperature=0.0, kv_cache_tokens=kv_cache_tokens)
        self.student: Student = None  # type: ignore[assignment]
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._seconds: dict[str, float] = {}
        self._tokens_seen = 0
        self.skipped_steps = 0
        self._skipped_in_a_row = 0
        self._counted_step: StepReport | None = None
        self._frozen = ""
        self._plain_step: StepReport | None = None
        self._losses: list[tuple[Tensor, list[str]]] = []
        self._predictions: list[str] = []
        self.val_accuracy = MeanMetric()
        self.val_format = MeanMetric()

    def setup(self, stage: str) -> None:
        if stage == "fit":
            for name in ("accumulate_grad_batches", "max_steps"):  # Lightning takes 0 for both
                if getattr(self.trainer, name) == 0:
                    raise ValueError(f"trainer.{name} is 0; it must be positive")
        check_strategy(self.trainer.strategy)
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = SafeCheckpointIO()
        # Batches hold samples and the student converts what it embeds. Plugins for other precisions than 32 bits would
        # walk through them to convert every tensor, and fail at the first frozen record.
        self.trainer.precision_plugin.convert_input = _as_it_is  # type: ignore[assignment]

    def configure_model(self) -> None:
        """Load the student; Lightning calls this once the device and the precision are known."""
        if self.student is None:
            self.student = Student.load(self.student_config)
            if self.lora_config is not None:
                add_lora(self.student, self.lora_config)
            self._frozen = frozen_fingerprint(self.student)
            self.student_loaded()

    def student_loaded(self) -> None:
        """Called once, with the weights that the run starts from and before any checkpoint is read."""

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
            self._check_master_weights(groups)
            optimizer = AdamW(groups, **settings)
        schedule = build_schedule(optimizer, c, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _check_master_weights(self, groups: list[dict[str, Any]]) -> None:
        """Only DeepSpeed adds float32 masters to weights of half the width."""
        if any(p.dtype in (torch.bfloat16, torch.float16) for group in groups for p in group["params"]):
            raise ValueError(
                "the trained weights are bfloat16, and an update at a small learning rate rounds to nothing in them; "
                "set trainer.strategy.class_path to lightning_modules.strategy.AVRTDeepSpeedStrategy, or "
                "model.init_args.student.dtype to float32 and trainer.precision to bf16-mixed"
            )

    def total_steps(self) -> int:
        """Optimizer steps of the whole run, from the config and never from the loader's position."""
        if self.optimizer_config.total_steps is not None:
            return self.optimizer_config.total_steps
        trainer = self.trainer
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            if trainer.max_steps < 0:
                raise ValueError(
                    "the learning-rate schedule has no end: set trainer.max_steps, trainer.max_epochs or "
                    "model.init_args.optimizer.total_steps"
                )
            return trainer.max_steps
        # Not trainer.estimated_stepping_batches: it would have Lightning set the loader up now, before a checkpoint's
        # position reaches it.
        loader = trainer.datamodule.window_loader  # type: ignore[attr-defined]
        limit, accumulate = trainer.limit_train_batches, trainer.accumulate_grad_batches
        return run_length(len(loader), accumulate, trainer.max_epochs, trainer.max_steps, limit)

    def share_of_step(self, loss: Tensor) -> Tensor:
        """Undo Lightning's division by the number of accumulated micro-batches.

        Our losses are already divided by the totals of the whole optimizer step, so micro-batches simply add up.
        """
        return loss * self.trainer.accumulate_grad_batches

    def on_before_backward(self, loss: Tensor) -> None:
        self._backward_start = self._now()

    def on_after_backward(self) -> None:
        self._add_seconds("training", self._now() - self._backward_start)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Measure the gradient norm before clipping; drop a gradient that is not finite.

        Without gradients the optimizer changes nothing, so one bad batch costs one step and not the run. The norm is
        taken after gradients were averaged over devices, hence all devices agree. DeepSpeed's engine does all this
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
        if self.resume_with_changes:  # a checkpoint's optimizer has brought its own
            c = self.optimizer_config
            rate = c.learning_rate * rate_factor(self.global_step, c, self.total_steps())
            for group in self.trainer.optimizers[0].param_groups:
                decay = c.weight_decay if group["decays"] else 0.0
                group.update(lr=rate, betas=c.betas, eps=c.eps, weight_decay=decay)
        micro_batches, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if batches % micro_batches:
            raise ValueError(
                f"an epoch has {batches} micro-batches, which {micro_batches} accumulated ones do not divide; set "
                "trainer.limit_train_batches (or the number of trainer.fast_dev_run) to a multiple of "
                "trainer.accumulate_grad_batches, or leave it out"
            )
        if self.student_config.attention_kernel == "flex" and self.device.type == "cpu":
            raise ValueError(
                "model.init_args.student.attention_kernel: flex has no gradient on the CPU; set it to sdpa, or "
                "trainer.accelerator to gpu"
            )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing moves here: the student moves what it embeds, and the rest stays on the host."""
        return batch

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_weights_are_finite()
        skipped, in_a_row = self._skips_with(self._step_report())
        checkpoint["state_dict"] = without_frozen(checkpoint["state_dict"], self)
        checkpoint["avrt"] = {
            "frozen": self._frozen,
            "tokens_seen": self._tokens_seen,
            "skipped_steps": skipped,
            "skipped_in_a_row": in_a_row,
            "settings": flat_settings(self.training_settings()),
            "rewards": self.reward_settings(),
            "metrics": {name: float(value) for name, value in self.trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "state_dict" in checkpoint:  # DeepSpeed's strategy has looked at its own files
            self.check_saved_weights(checkpoint["state_dict"])
        state = checkpoint.get("avrt")
        if state is None:
            raise ValueError("the checkpoint was not written by this project's training modules")
        if state["frozen"] != self._frozen:
            raise ValueError(
                "the checkpoint was trained over other frozen weights than model.init_args.student.path has now "
                f"({self.student_config.path!r}, or its dtype or revision); they are not part of a checkpoint: "
                "restore the settings"
            )
        if self.trainer.training:
            now = flat_settings(self.training_settings())
            changed = changed_settings(state.get("settings", now), now)
            changed += changed_rewards(state.get("rewards"), self.reward_settings())
            check_unchanged(changed, self.resume_with_changes)
            self._put_settings(checkpoint)
        self._tokens_seen, self.skipped_steps = state["tokens_seen"], state["skipped_steps"]
        self._skipped_in_a_row = state.get("skipped_in_a_row", 0)

    def _check_weights_are_finite(self) -> None:
        """Refuse to save weights that no run can continue from; a good checkpoint may have to go for them.

        Called on every device.
        """
        if not self.trainer.strategy.reduce_boolean_decision(weights_are_finite(self.student), all=True):
            folders = [getattr(callback, "dirpath", None) for callback in self.trainer.checkpoint_callbacks]
            last = newest(*(Path(folder) for folder in folders if folder))
            raise ValueError(
                f"step {self.global_step}: trained weights are not finite, so nothing is saved; "
                + (f"the last good checkpoint is {last.path}; " if last.path else "")
                + "lower model.init_args.optimizer.learning_rate, or look at the data"
            )

    def training_settings(self) -> dict[str, Any]:
        """The arguments that a training's course depends on, under their names."""
        return {"student": self.student_config, "optimizer": self.optimizer_config, "lora": self.lora_config}

    def reward_settings(self) -> dict[str, dict[str, Any]]:
        """What is learned from, by reward; nothing where there are none."""
        return {}

    def _put_settings(self, checkpoint: dict[str, Any]) -> None:
        """The schedule's peak is part of its saved state; the config's holds."""
        for schedule in checkpoint.get("lr_schedulers", []):
            schedule["base_lrs"] = [self.optimizer_config.learning_rate] * len(schedule["base_lrs"])

    def check_saved_weights(self, saved: Iterable[str]) -> None:
        """See `avrt.model.trained_weights.check_saved_weights`."""
        check_saved_weights(saved, self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Rotary frequencies stay float32 when the module becomes bfloat16: rounded, they would move every token."""
        kept = {name: b for name, b in self.named_buffers() if b.dtype == torch.float32 and "inv_freq" in name}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            owner, _, attribute = name.rpartition(".")
            now = getattr(self.get_submodule(owner), attribute)
            if now.dtype != torch.float32:
                setattr(self.get_submodule(owner), attribute, buffer.to(now.device))
        return self

    # ---- metrics of an optimizer step -------------------------------------------------------------------------------

    def add_to_step(self, name: str, total: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add to a metric of the current optimizer step; it is logged as sum of totals / sum of weights."""
        total = torch.as_tensor(total, dtype=torch.float64).detach()
        weight = torch.as_tensor(weight, dtype=torch.float64).detach()
        before = self._sums.get(name)
        self._sums[name] = (total, weight) if before is None else (before[0] + total, before[1] + weight)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``seconds/<name>`` of the current step."""
        start = self._now()
        yield
        self._add_seconds(name, self._now() - start)

    @contextmanager
    def precision_of_steps(self) -> Iterator[None]:
        """What `training_step` computes in. Lightning sets it up for steps, and not for hooks."""
        kind = self.device.type
        with self.trainer.precision_plugin.forward_context():
            if not torch.is_autocast_enabled(kind):
                yield
                return
            # Lightning's autocast keeps no converted weight: decoding would convert all of them for every token.
            with torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=True):
                yield

    def _now(self) -> float:
        """Seconds on a clock, once the GPU has done what it was told so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _add_seconds(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def on_train_batch_end(self, outputs: Any, batch: MicroBatch, batch_idx: int) -> None:
        self._losses.append((outputs["loss"].detach(), [item.prompt.sample.id for item in batch.items]))
        if batch.last:
            self._finish_step()
            self._log_step()

    def _step_report(self) -> StepReport | None:
        """What the last optimizer step did, on every device."""
        strategy = self.trainer.strategy
        return strategy.last_step if isinstance(strategy, AVRTDeepSpeedStrategy) else self._plain_step

    def _skips_with(self, report: StepReport | None) -> tuple[int, int]:
        """Steps skipped, in all and in a row up to now, with a step counted that `_finish_step` may not have seen yet:
        callbacks save before it."""
        if report is None or report is self._counted_step:
            return self.skipped_steps, self._skipped_in_a_row
        if math.isfinite(report.grad_norm):
            return self.skipped_steps, 0
        return self.skipped_steps + 1, self._skipped_in_a_row + 1

    def _finish_step(self) -> None:
        """Record what the optimizer step did; name the samples when it was skipped.

        Raises:
            ValueError: too many steps in a row were skipped. All devices agree, since the norm is over all of them.
        """
        report = self._step_report()
        losses, self._losses = self._losses, []
        if report is None:
            return
        self.skipped_steps, self._skipped_in_a_row = self._skips_with(report)
        self._counted_step = report
        self.add_to_step("grad_norm", report.grad_norm)
        self.add_to_step("learning_rate", report.learning_rate)
        if math.isfinite(report.grad_norm):
            return
        broken = self._of_all_devices(i for loss, ids in losses if not torch.isfinite(loss) for i in ids)
        what = "the loss is not finite on" if broken else "the gradient is not finite; the step worked on"
        samples = broken or self._of_all_devices(i for _, ids in losses for i in ids)
        self.print(f"step {self.global_step}: {what} {', '.join(samples)}; the step is skipped on every device")
        if self._skipped_in_a_row >= self.max_skipped_steps:
            raise ValueError(
                f"step {self.global_step}: {self._skipped_in_a_row} optimizer steps in a row were skipped as not "
                "finite, so the run learns nothing; lower model.init_args.optimizer.learning_rate, look at the samples "
                "named above, or set model.init_args.max_skipped_steps"
            )

    def on_train_end(self) -> None:
        """A run too short for `max_skipped_steps` fails as well when it has learned nothing."""
        if self.skipped_steps and self.skipped_steps >= self.global_step:
            raise ValueError(
                f"all {self.skipped_steps} optimizer steps of the run were skipped as not finite; lower "
                "model.init_args.optimizer.learning_rate, or look at the samples named above"
            )

    def _of_all_devices(self, values: Iterable[str]) -> list[str]:
        mine = list(values)
        if self.trainer.world_size == 1:
            return mine
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, mine)
        return [value for values in gathered for value in values]

    def _log_step(self) -> None:
        """Reduce the step's metrics over devices and hand them to the logger."""
        for name, seconds in self._seconds.items():
            self.add_to_step(f"seconds/{name}", seconds)
        names = sorted(self._sums)
        table = torch.tensor([[float(x) for x in self._sums[name]] for name in names], dtype=torch.float64)
        if self.trainer.world_size > 1:
            table = self.trainer.strategy.reduce(table.to(self.device), reduce_op="sum").cpu()
        values = {name: float(total / weight) for name, (total, weight) in zip(names, table, strict=True) if weight}
        values["num_tokens"] = float(self._tokens_seen)
        values["skipped_steps"] = float(self.skipped_steps)
        shown = set(self.progress_metrics())
        self.log_dict({k: v for k, v in values.items() if k not in shown}, batch_size=1)
        self.log_dict({k: v for k, v in values.items() if k in shown}, prog_bar=True, batch_size=1)
        self._sums, self._seconds = {}, {}

    def progress_metrics(self) -> tuple[str, ...]:
        """The few metrics that the progress bar shows."""
        return ("loss",)

    # ---- validation -------------------------------------------------------------------------------------------------

    def answer(self, items: list[Item]) -> list[Completion]:
        """Greedy answers to a batch of questions."""
        prompts = self.student.embed([item.prompt for item in items])
        groups = self.rollout_engine(self.val_sampling).generate(prompts, 1, seeds=[0] * len(prompts))
        return self.completions([item.prompt.sample for item in items], groups)

    def rollout_engine(self, sampling: SamplingConfig) -> RolloutEngine:
        """What writes responses with the student's current weights."""
        student = self.student
        return TransformersRollout(student.language_model, sampling, student.eos_token_ids, student.banned_tokens)

    def completions(self, samples: Sequence[Sample], groups: Sequence[Sequence[Response]]) -> list[Completion]:
        """The responses to each sample as rewards and evaluation read them, one after another."""
        return [
            Completion(
                sample=sample,
                text=self.student.decode(response.token_ids),
                token_ids=tuple(response.token_ids.tolist()),
                logprobs=tuple(response.logprobs.tolist()),
                finish_reason="stop" if response.finished else "length",
            )
            for sample, group in zip(samples, groups, strict=True)
            for response in group
        ]

    def validation_step(self, batch: list[Item], batch_idx: int) -> dict[str, list[Completion]]:
        """Score greedy answers; callbacks get the answers as the step's output."""
        completions = self.answer(batch)
        for completion in completions:
            parsed = parse(completion.text, completion.sample, finish_reason=completion.finish_reason)
            self.val_accuracy.update(float(completion.sample.is_right(parsed.letter)))
            self.val_format.update(float(is_formatted(completion.text)))
        return {"completions": completions}

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)
        self.log("val/format", self.val_format)

    # ---- prediction -------------------------------------------------------------------------------------------------

    def predict_step(self, batch: list[Item], batch_idx: int) -> list[dict[str, Any]]:
        """Plain records: Lightning walks through what is returned here, and fails at frozen completions."""
        records = [prediction(completion) for completion in self.answer(batch)]
        self._predictions += [json.dumps(record, ensure_ascii=False) for record in records]
        return records

    def on_predict_epoch_end(self) -> None:
        """Write the answers of all devices, one JSON object per line."""
        lines = self._of_all_devices(self._predictions)
        path = Path(self.trainer.log_dir or self.trainer.default_root_dir) / PREDICTIONS_NAME
        if self.trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
        self.print(f"wrote {len(lines)} answers to {path}")
        self._predictions = []


def prediction(completion: Completion) -> dict[str, Any]:
    """What a student answered and how it was read, as JSON values."""
    sample = completion.sample
    parsed = parse(completion.text, sample, finish_reason=completion.finish_reason)
    return {
        "id": sample.id,
        "answer": parsed.letter,
        "gold": sample.gold,
        "right": sample.is_right(parsed.letter),
        "reason": parsed.reason.value,
        "finish_reason": completion.finish_reason,
        "text": completion.text,
    }


def _as_it_is(batch: Any) -> Any:
    return batch
