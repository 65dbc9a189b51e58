"""Supervised fine-tuning on merged traces (paper Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.lora import LoRAConfig
from avrt.model.student import StudentConfig
from avrt.model.token_logprobs import token_logprobs
from datamodules.streaming import MicroBatch, Window
from lightning_modules.base import MAX_SKIPPED_STEPS, StudentModule
from lightning_modules.optimization import OptimizerConfig


class SFTModule(StudentModule):
    """Cross-entropy on the trace tokens only: ``L = -Σ_t log p(r_t | clip, question, r_<t)``.

    Prompt and media tokens are never predicted. The sum is divided by the number of trace tokens of the whole optimizer
    step over all devices.

    Args:
        student: which student to train.
        optimizer: AdamW and its schedule.
        val_max_completion_length: token limit of a validation answer.
        chunk_rows: trace tokens whose logits are held at one time; 0 for all.
        lora: train low-rank adapters of the language model instead of its weights.
        resume_with_changes: go on from a checkpoint although settings or data have changed since.
        max_skipped_steps: optimizer steps in a row that may be skipped as not finite before the run ends with an error.
    """

    def __init__(
        self,
        student: StudentConfig,
        optimizer: OptimizerConfig,
        val_max_completion_length: int = 512,
        chunk_rows: int = DEFAULT_CHUNK_ROWS,
        lora: LoRAConfig | None = None,
        resume_with_changes: bool = False,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
    ) -> None:
        if val_max_completion_length < 1:
            raise ValueError(
                f"model.init_args.val_max_completion_length must be positive, is {val_max_completion_length}"
            )
        super().__init__(
            student,
            optimizer,
            val_max_completion_length,
            lora=lora,
            resume_with_changes=resume_with_changes,
            chunk_rows=chunk_rows,
            max_skipped_steps=max_skipped_steps,
        )
        self._step_tokens = 1.0

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        if batch.first:
            targets, prompts = self._tokens_per_device(batch.window)
            self._step_tokens = targets
            self._tokens_seen += round((targets + prompts) * self.trainer.world_size)

    def _tokens_per_device(self, window: Window) -> tuple[float, float]:
        """Trace and prompt tokens of the optimizer step over all devices, divided by the number of devices."""
        targets = sum(len(item.target) for item in window.items if item.target is not None)
        prompts = sum(len(item.prompt.input_ids) for item in window.items)
        tokens = torch.tensor([float(targets), float(prompts)], dtype=torch.float64)
        if self.trainer.world_size > 1:
            tokens = self.trainer.strategy.reduce(tokens.to(self.device), reduce_op="mean")
        return float(tokens[0]), float(tokens[1])

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        with self.timed("training"):
            prompts = self.student.embed([item.prompt for item in batch.items])
            targets = [[item.target] for item in batch.items if item.target is not None]
            scores = token_logprobs(self.student.language_model, prompts, targets, chunk_rows=self.chunk_rows)
            total = -(scores.logprobs * scores.mask).sum()
        tokens = scores.mask.sum()
        self.add_to_step("loss", total, tokens)
        self.add_to_step("entropy", (scores.entropies * scores.mask).sum(), tokens)
        self.add_to_step("completions/mean_length", tokens, len(targets))
        return self.share_of_step(total / self._step_tokens)
