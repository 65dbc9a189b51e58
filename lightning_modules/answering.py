"""A student that answers questions under Lightning: loading, greedy answers, validation and prediction."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torchmetrics import MeanMetric

from avrt.families.family import StudentFamily
from avrt.files.atomic import write_atomic
from avrt.model.encoding import Prompt
from avrt.model.loading import student_family
from avrt.model.lora import LoRAConfig, add_lora
from avrt.model.student import Student, StudentConfig
from avrt.model.trained_weights import check_saved_weights, frozen_fingerprint, has_frozen_weights
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Decoding, RolloutEngine, SamplingConfig, completions
from avrt.rollout.static_decoding import decoding_path
from avrt.sample import Completion
from avrt.text.answers import is_formatted, parse
from datamodules.base import ShardDataModule
from lightning_modules.plugins import adapt_plugins
from lightning_modules.strategy_checks import check_strategy

PREDICTIONS_NAME = "predictions.jsonl"
"""File of `predict`'s answers, in the logger's folder."""


class AnsweringModule(LightningModule):
    """A student that answers questions greedily, in `validate` and `predict`; the base of all modules.

    Args:
        student: the student, and how it reads its prompts.
        max_completion_length: token limit of an answer.
        kv_cache_tokens: bound on the tokens whose keys and values are held at once.
        lora: adapters of the language model; None for none.
        decoding: how answers are computed, see `avrt.rollout.engine.SamplingConfig`.
    """

    def __init__(
        self,
        student: StudentConfig,
        max_completion_length: int,
        kv_cache_tokens: int,
        lora: LoRAConfig | None = None,
        decoding: Decoding = "auto",
    ) -> None:
        super().__init__()
        # Frozen weights are not in checkpoints; `check_saved_weights` is strict about all others.
        self.strict_loading = False
        self.student_config = student
        self.lora_config = lora
        self.answer_sampling = SamplingConfig(max_completion_length, 0.0, kv_cache_tokens, decoding=decoding)
        self.student: Student = None  # type: ignore[assignment]
        self.val_accuracy = MeanMetric()
        self.val_format = MeanMetric()
        self._frozen = ""
        self._predictions: list[str] = []

    def setup(self, stage: str) -> None:
        check_strategy(self.trainer.strategy)
        decoding_path(self.answer_sampling.decoding, self.trainer.strategy.root_device)
        adapt_plugins(self.trainer)

    def configure_model(self) -> None:
        """Load the student once, then connect the data module. Lightning has set up device and precision by now."""
        if self.student is None:
            if self.lora_config is not None:
                self.student_family().lora_targets(self.lora_config.target_modules)
            try:
                self.student = Student.load(self.student_config)
            except ValueError as error:
                raise ValueError(f"model.{error}") from error  # it names student.path
            if self.lora_config is not None:
                add_lora(self.student, self.lora_config)
            self._frozen = frozen_fingerprint(self.student)
            self.student_loaded()
        data: LightningDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is not None:
            self.connect_data(data)

    def student_family(self) -> StudentFamily:
        """The student's family, before it is loaded.

        Raises:
            ValueError: the setting that names the student is wrong.
        """
        try:
            return student_family(self.student_config.path, self.student_config.revision)
        except ValueError as error:
            raise ValueError(f"model.{error}") from error

    def student_loaded(self) -> None:
        """Called once, with the weights that the run starts from and before any checkpoint is read."""

    def connect_data(self, data: LightningDataModule) -> None:
        """Give the data module what it needs of this module; called in every run, before loaders are built.

        Raises:
            ValueError: `data` is a data module of another kind.
        """
        self.shards_of(data).connect(self.student.encoder)

    def shards_of(self, data: LightningDataModule) -> ShardDataModule:
        """`data` as the kind of data module that this module reads."""
        if not isinstance(data, ShardDataModule):
            raise ValueError(
                f"data.class_path: {type(self).__name__} reads samples from shards, which {type(data).__name__} does "
                "not provide; set it to datamodules.grpo.GRPODataModule or datamodules.sft.SFTDataModule"
            )
        return data

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing moves here: the student moves what it embeds, and the rest stays on the host."""
        return batch

    @contextmanager
    def precision_of_steps(self) -> Iterator[None]:
        """The precision in which `training_step` computes, for hooks: Lightning sets it up for steps only."""
        kind = self.device.type
        with self.trainer.precision_plugin.forward_context():
            if not torch.is_autocast_enabled(kind):
                yield
                return
            # Lightning's autocast keeps no converted weight: decoding would convert all of them for every token.
            with torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=True):
                yield

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Keep rotary frequencies in float32 when the module becomes bfloat16: rounded, they would move every token."""
        kept = {name: b for name, b in self.named_buffers() if b.dtype == torch.float32 and "inv_freq" in name}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            owner, _, attribute = name.rpartition(".")
            now = getattr(self.get_submodule(owner), attribute)
            if now.dtype != torch.float32:
                setattr(self.get_submodule(owner), attribute, buffer.to(now.device))
        return self

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def check_saved_weights(self, saved: Iterable[str]) -> None:
        """See `avrt.model.trained_weights.check_saved_weights`."""
        check_saved_weights(saved, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that do not fit the student."""
        if "state_dict" in checkpoint:  # DeepSpeed's strategy has checked its own files
            self.check_saved_weights(checkpoint["state_dict"])
        state = checkpoint.get("avrt")
        if state is None or "rewards" not in state:
            raise ValueError("the checkpoint was not written by this version of the project's training modules")
        if state["frozen"] != self._frozen and not has_frozen_weights(state["frozen"], self.student):
            raise ValueError(
                "the checkpoint was trained with other frozen weights than model.student.path has now "
                f"({self.student_config.path!r}, or its dtype or revision); they are not part of a checkpoint: "
                "restore the settings"
            )

    # ---- answers ----------------------------------------------------------------------------------------------------

    def answer(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Greedy answers to a batch of questions."""
        embedded = self.student.embed(prompts)
        groups = self.rollout_engine(self.answer_sampling).generate(embedded, 1, seeds=[0] * len(embedded))
        return completions([prompt.sample for prompt in prompts], groups, self.student.response_text)

    def rollout_engine(self, sampling: SamplingConfig, only: Collection[int] | None = None) -> RolloutEngine:
        """The engine that samples responses with the student's current weights.

        Args:
            only: the only tokens that are sampled; None for all that the student may write.
        """
        student = self.student
        banned = student.banned_tokens
        if only is not None:
            banned = torch.ones_like(banned)
            banned[list(only)] = False
        return TransformersRollout(student.language_model, sampling, student.eos_token_ids, banned)

    def validation_step(self, batch: list[Prompt], batch_idx: int) -> dict[str, list[Completion]]:
        """Grade greedy answers; callbacks get the answers as the step's output."""
        answers = self.answer(batch)
        for completion in answers:
            parsed = parse(completion.text, completion.sample, finish_reason=completion.finish_reason)
            self.val_accuracy.update(float(completion.sample.is_right(parsed.letter)))
            self.val_format.update(float(is_formatted(completion.text)))
        return {"completions": answers}

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)
        self.log("val/format", self.val_format)

    def predict_step(self, batch: list[Prompt], batch_idx: int) -> list[dict[str, Any]]:
        """Plain records: Lightning walks through what is returned here, and fails at frozen completions."""
        records = [prediction(completion) for completion in self.answer(batch)]
        self._predictions += [json.dumps(record, ensure_ascii=False) for record in records]
        return records

    def on_predict_epoch_end(self) -> None:
        """Write the answers of all devices, one JSON object per line."""
        lines = self.gather_texts(self._predictions)
        path = Path(self.trainer.log_dir or self.trainer.default_root_dir) / PREDICTIONS_NAME
        if self.trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
        self.print(f"wrote {len(lines)} answers to {path}")
        self._predictions = []

    def gather_texts(self, texts: Sequence[str]) -> list[str]:
        """The texts of all devices, by rank."""
        if self.trainer.world_size == 1:
            return list(texts)
        gathered: list[list[str]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(gathered, list(texts))
        return [text for part in gathered for text in part]


def prediction(completion: Completion) -> dict[str, Any]:
    """An answer and how it was parsed, as JSON values."""
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
