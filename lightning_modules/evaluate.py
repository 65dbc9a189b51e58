"""Evaluation under Lightning's ``test``: a student answers benchmarks, and every answer is on disk at once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avrt.evaluation.benchmarks import new_record
from avrt.evaluation.question_sets import MediaConfig, QuestionSet, prompt_settings
from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.run_lifecycle import RunState, begin_run, finish_run, report_missing
from avrt.evaluation.running_scores import RunningScores
from avrt.evaluation.scoring import grade_record
from avrt.evaluation.terminal_tables import score_console
from avrt.model.lora import LoRAConfig
from avrt.model.student import StudentConfig
from avrt.sample import Sample
from avrt.text.answers import Profile
from avrt.text.prompts import build_messages
from datamodules.benchmark import QuestionBatch
from lightning_modules.base import StudentModule
from lightning_modules.optimization import OptimizerConfig


class EvaluateModule(StudentModule):
    """Answers benchmarks greedily and leaves a run folder, see `avrt.evaluation.records`.

    The student comes from `student.path` (an exported folder or a hub id), or from a checkpoint of this project over
    it (``--ckpt_path``). Devices share the questions batch by batch. A run that was killed goes on when it is started
    again, with any number of devices. When all is answered, the first device scores it.

    Logged per benchmark: ``test/<benchmark>/<name>`` for every name of `RunningScores`.

    Args:
        student: which student, and how it is asked (`answer_format`).
        run: the run's folder; None takes the logger's.
        name: the run's name in tables; None takes the folder's.
        max_completion_length: token limit of an answer.
        kv_cache_tokens: bound on the tokens whose keys and values are held at one time.
        lora: adapters, where the checkpoint was trained with them.
        profile: how answers are read, ``paper`` or ``robust``; None takes what goes with `student.answer_format`.
        harness: also write lm-evaluation-harness's files, into ``<run>/harness``.
    """

    def __init__(
        self,
        student: StudentConfig,
        run: str | None = None,
        name: str | None = None,
        max_completion_length: int = 1024,
        kv_cache_tokens: int = 262_144,
        lora: LoRAConfig | None = None,
        profile: Profile | None = None,
        harness: bool = True,
    ) -> None:
        super().__init__(student, OptimizerConfig(), max_completion_length, kv_cache_tokens, lora)
        self.run = run
        self.run_name = name
        self.profile = profile
        self.harness = harness
        self._folder = Path()
        self._sets: dict[str, QuestionSet] = {}
        self._infos: dict[str, RunInfo] = {}
        self._done: dict[str, set[str]] = {}
        self._writers: dict[str, RecordWriter] = {}
        self._scores: dict[str, RunningScores] = {}

    def begin_runs(self, question_sets: Sequence[QuestionSet], media: MediaConfig) -> dict[str, set[str]]:
        """Open the run's folders; returns the ids that need no answer any more, by benchmark, the same on all devices.

        Raises:
            ValueError: a folder holds another run, or another process is writing there.
        """
        log_dir = self.trainer.log_dir  # all devices must ask
        self._folder = Path(self.run or log_dir or ".")
        self._sets = {questions.name: questions for questions in question_sets}
        weights, prompt = weights_fingerprint(self), self._prompt()
        self._infos = {
            questions.name: questions.run_info(
                run=self.run_name or self._folder.resolve().name,
                model=str(self.trainer.ckpt_path or self.student_config.path),
                answer_format=self.student_config.answer_format,
                profile=self.profile,
                media=media,
                decoding=self._decoding(),
                prompt=prompt,
                weights=weights,
            )
            for questions in question_sets
        }
        states = self._begun_by_first_device()
        rank = self.trainer.global_rank
        self._done = {name: state.done for name, state in states.items()}
        for name in self._sets:
            self._writers[name] = RecordWriter(self._folder / name, rank)
        self._scores = {name: RunningScores().to(self.device) for name in self._sets}
        if rank == 0:
            for name, state in states.items():
                report_missing(self._sets[name], state, score_console())
                self._count(name, state.answered + state.missing)
        return self._done

    def _decoding(self) -> dict[str, Any]:
        student = self.student_config
        settings: dict[str, Any] = {
            "max_completion_length": self.val_sampling.max_completion_length,
            "temperature": self.val_sampling.temperature,
            "dtype": str(self.student.thinker.dtype).removeprefix("torch."),
            "min_pixels": student.min_pixels,
            "max_pixels": student.max_pixels,
        }
        return settings | ({"base": student.path} if self.trainer.ckpt_path else {})

    def _prompt(self) -> dict[str, Any]:
        """The wording, and a fingerprint of what chat template and tokenizer make of it."""
        config = self.student_config
        sample = Sample("example", "Which of these?", ("one", "two"), 0)
        messages = build_messages(
            sample, modalities=("video", "audio"), answer_format=config.answer_format, template=config.template
        )
        processor = self.student.processor
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = json.dumps(processor.tokenizer(text)["input_ids"])
        return {
            **prompt_settings(config.template, config.answer_format),
            "tokens_sha256": hashlib.sha256(tokens.encode()).hexdigest(),
        }

    def _begun_by_first_device(self) -> dict[str, RunState]:
        """What the folders hold, found by one device before any writes; its refusal ends all of them."""
        result: dict[str, RunState] | str = {}
        if self.trainer.is_global_zero:
            try:
                result = {name: begin_run(self._folder, self._sets[name], info) for name, info in self._infos.items()}
            except (ValueError, OSError) as error:
                result = str(error)
        result = self.trainer.strategy.broadcast(result)
        if isinstance(result, str):
            raise ValueError(result)
        return result

    def test_step(self, batch: QuestionBatch, batch_idx: int) -> None:
        """Answer a batch and write it down."""
        records = list(batch.unreadable)
        if batch.items:
            begin = time.perf_counter()
            completions = self.answer(batch.prompts)
            seconds = round((time.perf_counter() - begin) / len(completions), 4)
            for item, prompt, completion in zip(batch.items, batch.prompts, completions, strict=True):
                records.append(
                    new_record(
                        self._sets[batch.benchmark].benchmark,
                        item,
                        text=completion.text,
                        finish_reason=completion.finish_reason,
                        prompt_tokens=len(prompt.prompt.input_ids),
                        completion_tokens=len(completion.token_ids),
                        latency_seconds=seconds,
                    )
                )
        # A batch whose writing was cut off is answered again as a whole, so that its replies come out the same.
        wanted = [record for record in records if record.id not in self._done[batch.benchmark]] if records else []
        if wanted:
            self._writers[batch.benchmark].append(*wanted)
            self._count(batch.benchmark, wanted)

    def _count(self, benchmark: str, records: Sequence[Record]) -> None:
        profile = self._infos[benchmark].profile
        self._scores[benchmark].add(grade_record(record, profile) for record in records)

    def running_accuracy(self, benchmark: str) -> float:
        """The strict accuracy so far, over what this device has answered."""
        return self._scores[benchmark].accuracy_here()

    def on_test_epoch_end(self) -> None:
        self._close()
        values = {
            f"test/{name}/{metric}": share
            for name, scores in self._scores.items()
            for metric, share in scores.shares().items()  # waits for all devices
            if share == share
        }
        self.log_dict(values, batch_size=1, rank_zero_only=True)

    def on_test_end(self) -> None:
        # Here and not above: the progress bar is gone now.
        self.trainer.strategy.barrier("evaluation_finished")
        if self.trainer.is_global_zero:
            finish_run(self._folder, list(self._sets.values()), score_console(), self.harness)

    def teardown(self, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def weights_fingerprint(module: nn.Module) -> str:
    """Tells whether two runs have the same weights: SHA-256 over a stretch of every parameter and a sum over its bits.

    The sums are of whole numbers, so they do not depend on the device or the order of adding up.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        weights = parameter.detach()
        stretch = weights.flatten()[:256].to("cpu", torch.float32)
        total = int(weights.view(_BITS[weights.element_size()]).sum(dtype=torch.int64))
        digest.update(f"{name} {tuple(weights.shape)} {total}".encode())
        digest.update(stretch.numpy().tobytes())
    return digest.hexdigest()


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
