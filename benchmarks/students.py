"""Students and prompts for the benchmarks of whole steps: saved once in a temporary folder, loaded by both sides."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.grpo.loss import LossConfig
from avrt.media.geometry import TOKEN_PIXELS
from avrt.model.encoding import Prompt
from avrt.model.student import Student, StudentConfig
from avrt.model.tiny import TinyShape, build_tiny_thinker, tiny_config, tiny_processor
from avrt.rewards import RewardCallback
from avrt.rollout.engine import SamplingConfig
from avrt.sample import Completion, Sample
from benchmarks.measure import wait_for_device
from benchmarks.models import Shape, text_only_model
from datamodules.order import Place, SampleOrder
from datamodules.streaming import ItemReader
from datamodules.windows import MicroBatch, WindowLoader
from lightning_modules.grpo import GRPOModule
from lightning_modules.optimization import OptimizerConfig

WORD = " red"
"""One token of the benchmark's tokenizer."""


def tokenizer():  # type: ignore[no-untyped-def]
    """A small tokenizer in which `WORD` is one token."""
    return build_tiny_tokenizer([WORD * 8 + " green blue"] * 20, 512)


def save_student(folder: Path, shape: Shape, vision_layers: int = 1, audio_layers: int = 1, width: int = 64) -> None:
    """A tiny student whose language model has `shape` and the weights of `text_only_model(shape)`."""
    tokens = tokenizer()
    tiny = TinyShape(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        vision_width=width,
        vision_layers=vision_layers,
        audio_width=width,
        audio_layers=audio_layers,
    )
    thinker = build_tiny_thinker(tiny_config(tiny, tokens, shape.vocab_size))
    peer = text_only_model(shape)
    thinker.model.language_model.load_state_dict(peer.model.state_dict())
    thinker.lm_head.load_state_dict(peer.lm_head.state_dict())
    thinker.save_pretrained(folder)
    tiny_processor(tokens).save_pretrained(folder)


class EndlessStudent(Student):
    """A student that never ends its turn, so that all responses have the full length."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return ()


class BenchmarkModule(GRPOModule):
    """GRPO with responses of one length."""

    def configure_model(self) -> None:
        if self.student is None:
            self.student = EndlessStudent.load(self.student_config)
            self.student_loaded()


class TokenSum(RewardCallback):
    """A reward that differs between responses and costs no time; the other library gets the same."""

    name = "token_sum"

    def score(self, completions: list[Completion]) -> list[float]:  # type: ignore[override]
        return [float(sum(c.token_ids) % 7) for c in completions]


class Prompts(ItemReader[Prompt]):
    """Encoded prompts held in memory."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, place: Place) -> Prompt:
        return self.prompts[place.sample]


def text_prompt(ids: torch.Tensor) -> Prompt:
    """A prompt of text alone."""
    return Prompt(Sample("text", "?", ("a", "b"), 0), ids)


class StepTimer(Callback):
    """Time from a window's first micro-batch to the end of its optimizer step.

    `seconds` is the last step's. Must come before all callbacks that work at the start of a batch.
    """

    seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: MicroBatch, index: int) -> None:
        if batch.first:
            wait_for_device()
            self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: object, batch: MicroBatch, index: int
    ) -> None:
        if batch.last:
            wait_for_device()
            self.seconds = time.perf_counter() - self._start


class OurStep:
    """One optimizer step of the project's GRPO under Lightning, once per call.

    Args:
        folder: a student saved by `save_student`.
        prompts: the prompts of every step.
        group, response: responses per prompt and their tokens.
    """

    def __init__(self, folder: Path, prompts: list[Prompt], group: int, response: int) -> None:
        torch.manual_seed(0)
        self.module = BenchmarkModule(
            StudentConfig(path=str(folder), dtype="float32", min_pixels=TOKEN_PIXELS, max_pixels=10**7),
            OptimizerConfig(learning_rate=1e-6, warmup_steps=0, schedule="constant"),
            LossConfig(beta=0.01),
            SamplingConfig(max_completion_length=response),
            num_generations=group,
            self_check=False,  # once per run, and every call here is a run
        )
        self.prompts = prompts

    def __call__(self) -> float:
        """Seconds of the step: rollout, rewards, reference, loss, backward, optimizer."""
        loader = WindowLoader(
            Prompts(self.prompts), SampleOrder([[len(self.prompts)]], shuffle=False), micro_batch_size=len(self.prompts)
        )
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=1,
            gradient_clip_val=1.0,  # as in the other libraries
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[timer := StepTimer(), TokenSum()],
        )
        trainer.fit(self.module, loader)
        return timer.seconds
