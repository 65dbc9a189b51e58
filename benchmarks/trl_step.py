"""The peer of `benchmarks.grpo_step`: one step of TRL's GRPOTrainer with its transformers rollout.

Its settings are the fastest for a CPU unless others are given: no gradient checkpointing, float32, no logging to
services.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.measure import wait_for_device


def token_sum(completion_ids: list[list[int]], **_: object) -> list[float]:
    """The same reward as in `benchmarks.students.TokenSum`."""
    return [float(sum(ids) % 7) for ids in completion_ids]


class TRLStep:
    """One optimizer step of TRL per call; see `benchmarks.students.OurStep` for the arguments.

    Args:
        folder: a saved model. TRL uses the name of a model in memory as a hub id.
        dtype: of the weights.
        settings: of `GRPOConfig`, instead of those for a CPU.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        prompts: list[str],
        group: int,
        response: int,
        dtype: str = "float32",
        **settings: Any,
    ) -> None:
        self.timer = _StepTimer()
        self.trainer = GRPOTrainer(
            model=str(folder),
            reward_funcs=token_sum,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            callbacks=[self.timer],
            args=GRPOConfig(
                output_dir=str(folder / "run"),
                max_steps=1,
                per_device_train_batch_size=len(prompts) * group,
                num_generations=group,
                max_completion_length=response,
                generation_kwargs={"min_new_tokens": response},
                beta=0.01,
                loss_type="grpo",
                learning_rate=1e-6,
                temperature=1.0,
                bf16=False,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                model_init_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
                **{"gradient_checkpointing": False, "use_cpu": True, **settings},
            ),
        )

    def __call__(self) -> float:
        """Seconds of the step."""
        self.trainer.train()
        return self.timer.seconds


class _StepTimer(TrainerCallback):
    seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        wait_for_device()
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wait_for_device()
        self.seconds = time.perf_counter() - self._start
