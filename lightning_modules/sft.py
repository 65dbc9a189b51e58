"""Supervised fine-tuning on merged traces (paper Eq. 1)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from avrt.config.numbers import NonNegativeInt, PositiveInt
from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.lora import LoRAConfig
from avrt.model.student import StudentConfig
from avrt.model.token_logprobs import token_logprobs
from avrt.rollout.engine import Decoding
from datamodules.windows import MicroBatch, Window
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.training import MAX_SKIPPED_STEPS, TrainingModule


class SFTModule(TrainingModule):
    """Cross-entropy on the trace tokens only: ``L = -Σ_t log p(r_t | clip, question, r_<t)``.

    Prompt and media tokens are never predicted. The sum is divided by the number of trace tokens of the whole optimizer
    step over all devices.

    Args:
        student: the student to train.
        optimizer: AdamW and its schedule.
        val_max_completion_length: token limit of a validation answer.
        kv_cache_tokens: bound on the tokens whose keys and values validation holds at once.
        chunk_rows: trace tokens whose logits are held at once; 0 for all.
        lora: train low-rank adapters of the language model instead of its weights.
        resume_with_changes: resume from a checkpoint although settings or data have changed since.
        max_skipped_steps: optimizer steps in a row that may be skipped as not finite before the run ends with an error.
        decoding: how validation answers are computed, see `avrt.rollout.engine.SamplingConfig`.
    """

    def __init__(
        self,
        student: StudentConfig,
        optimizer: OptimizerConfig,
        val_max_completion_length: PositiveInt = 512,
        kv_cache_tokens: PositiveInt = 262_144,
        chunk_rows: NonNegativeInt = DEFAULT_CHUNK_ROWS,
        lora: LoRAConfig | None = None,
        resume_with_changes: bool = False,
        max_skipped_steps: PositiveInt = MAX_SKIPPED_STEPS,
        decoding: Decoding = "auto",
    ) -> None:
        super().__init__(
            student,
            optimizer,
            val_max_completion_length,
            kv_cache_tokens,
            lora,
            resume_with_changes,
            chunk_rows,
            max_skipped_steps,
        )
        self.answer_sampling = replace(self.answer_sampling, decoding=decoding)
        self._step_tokens = 1.0

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        if batch.first:
            targets, prompts = self._tokens_per_device(batch.window)
            self._step_tokens = targets
            self.step_metrics.tokens_seen += round((targets + prompts) * self.trainer.world_size)

    def _tokens_per_device(self, window: Window) -> tuple[float, float]:
        """Trace and prompt tokens of the optimizer step over all devices, divided by the number of devices."""
        targets = sum(len(prompt.target) for prompt in window.prompts if prompt.target is not None)
        prompts = sum(len(prompt.input_ids) for prompt in window.prompts)
        tokens = torch.tensor([float(targets), float(prompts)], dtype=torch.float64)
        if self.trainer.world_size > 1:
            tokens = self.trainer.strategy.reduce(tokens.to(self.device), reduce_op="mean")
        return float(tokens[0]), float(tokens[1])

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        with self.step_metrics.timed("training"):
            prompts = self.student.embed(batch.prompts)
            targets = [[prompt.target] for prompt in batch.prompts if prompt.target is not None]
            scores = token_logprobs(self.student.language_model, prompts, targets, chunk_rows=self.chunk_rows)
            total = -(scores.logprobs * scores.mask).sum()
        tokens = scores.mask.sum()
        self.step_metrics.add("loss", total, tokens)
        self.step_metrics.add("entropy", (scores.entropies * scores.mask).sum(), tokens)
        self.step_metrics.add("completions/mean_length", tokens, len(targets))
        own = {"loss": total / tokens, "completions/mean_length": tokens / len(targets)}
        self.step_metrics.note_samples([prompt.sample.id for prompt in batch.prompts], own)
        return self.share_of_step(total / self._step_tokens)
