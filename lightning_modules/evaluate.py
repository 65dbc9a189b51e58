"""Evaluation under Lightning's ``test``: a student answers benchmarks, and every answer is on disk at once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule

from avrt.config.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt
from avrt.evaluation.benchmarks import new_record
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record, Variant
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.repeats import REPEATS, THINKING_CURVE, expected_variants, first_replies
from avrt.evaluation.run_lifecycle import (
    RunState,
    begin_run,
    every_variant,
    finish_run,
    report_missing,
    run_state,
)
from avrt.evaluation.running_scores import RunningScores
from avrt.evaluation.scoring import grade_record
from avrt.evaluation.sent_prompts import prompt_settings
from avrt.evaluation.terminal_tables import score_console
from avrt.model.chat_template import chat_text
from avrt.model.encoding import Prompt
from avrt.model.lora import LoRAConfig
from avrt.model.student import StudentConfig
from avrt.model.trained_weights import weights_fingerprint
from avrt.rollout.engine import Decoding, Response, completions
from avrt.rollout.thinking_budget import ThinkingBudget
from avrt.rollout.window_rollout import stream_seed
from avrt.sample import Completion, Sample
from avrt.text.answers import Profile
from avrt.text.prompts import build_messages
from datamodules.benchmark import BenchmarkDataModule, QuestionBatch
from lightning_modules.answering import AnsweringModule
from lightning_modules.evaluation_summary import log_summary

T = TypeVar("T")


class EvaluateModule(AnsweringModule):
    """Answers benchmarks and writes a run folder, see `avrt.evaluation.records`.

    The student comes from `student.path` (an exported folder or a hub id), or from a checkpoint of this project on top
    of it (``--ckpt_path``). Devices share the questions batch by batch. A run that was killed continues when it is
    started again, with any number of devices. When all questions are answered, the first device scores the run.

    Logged per benchmark: ``test/<benchmark>/<name>`` for every name of `RunningScores`.

    Args:
        student: the student, and how it reads its prompts (`answer_format`).
        name: the run's name in tables; None takes the folder's.
        max_completion_length: token limit of an answer.
        kv_cache_tokens: bound on the tokens whose keys and values are held at once.
        lora: adapters, if the checkpoint was trained with them.
        profile: rules of answer parsing, ``paper`` or ``robust``; None follows `student.answer_format`.
        harness: also write lm-evaluation-harness's files, into ``<output_dir>/harness``.
        temperature: 0 takes the most likely token; above 0, replies are sampled.
        repeats: replies sampled per question, with the accuracy's mean, pass@k and majority vote.
        seed: start of the random streams, one per question.
        thinking_budget: tokens after which the thinking of a reply is closed and its answer asked for; null for none.
        thinking_curve: several such budgets: every reply stays as it is, and one more version of it per budget gives
            the accuracy curve.
        decoding: how replies are computed, see `avrt.rollout.engine.SamplingConfig`.
    """

    def __init__(
        self,
        student: StudentConfig,
        name: str | None = None,
        max_completion_length: PositiveInt = 1024,
        kv_cache_tokens: PositiveInt = 262_144,
        lora: LoRAConfig | None = None,
        profile: Profile | None = None,
        harness: bool = True,
        temperature: NonNegativeFloat = 0.0,
        repeats: PositiveInt = 1,
        seed: NonNegativeInt = 0,
        thinking_budget: NonNegativeInt | None = None,
        thinking_curve: list[NonNegativeInt] | None = None,
        decoding: Decoding = "auto",
    ) -> None:
        super().__init__(student, max_completion_length, kv_cache_tokens, lora, decoding)
        self.answer_sampling = replace(self.answer_sampling, temperature=temperature, seed=seed)
        self.repeats = repeats
        self.thinking_budget = thinking_budget
        self.thinking_curve = sorted(set(thinking_curve or ()))
        self._check_replies()
        self.run_name = name
        self.profile = profile
        self.harness = harness
        self._folder = Path()
        self._data: BenchmarkDataModule | None = None
        self._sets: dict[str, QuestionSet] = {}
        self._infos: dict[str, RunInfo] = {}
        self._done: dict[str, set[str]] = {}
        self._writers: dict[str, RecordWriter] = {}
        self._scores: dict[str, RunningScores] = {}

    def _check_replies(self) -> None:
        if self.repeats > 1 and self.answer_sampling.temperature == 0:
            raise ValueError(f"repeats: {self.repeats} replies would be equal at temperature 0; set temperature too")
        if self.thinking_budget is not None and self.thinking_curve:
            raise ValueError("thinking_budget: a curve measures several budgets (thinking_curve); give one of the two")
        for name, budgets in (("thinking_budget", [self.thinking_budget]), ("thinking_curve", self.thinking_curve)):
            for budget in budgets:
                if budget is None:
                    continue
                if self.student_config.answer_format != "tags":
                    raise ValueError(f"{name}: needs student.answer_format tags; bare letters have no thinking")
                if budget >= self.answer_sampling.max_completion_length:
                    raise ValueError(
                        f"{name}: {budget} must be below max_completion_length "
                        f"({self.answer_sampling.max_completion_length})"
                    )

    def connect_data(self, data: LightningDataModule) -> None:
        """Tell the data module which answers the run's folder holds already; nothing is written yet."""
        if not self.trainer.testing:
            super().connect_data(data)
            return
        if not isinstance(data, BenchmarkDataModule):
            raise ValueError(
                f"data.class_path: EvaluateModule answers benchmarks, which {type(data).__name__} does not provide; "
                "set it to datamodules.benchmark.BenchmarkDataModule"
            )
        log_dir = self.trainer.log_dir  # all devices must ask
        self._folder = Path(log_dir or ".")
        self._data = data
        self._sets = {questions.name: questions for questions in data.question_sets}
        variants = expected_variants(self._decoding())
        done = self._on_first_device(
            lambda: {n: run_state(self._folder, q, variants).done for n, q in self._sets.items()}
        )
        data.connect(self.student.encoder, done)

    # ---- the run ----------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Start the run: write ``run.json``, lock the folders, open this device's records.

        Here and not earlier: the checkpoint's weights are loaded now, and their fingerprint is part of ``run.json``.

        Raises:
            ValueError: a folder holds another run, or another process is writing there.
        """
        if self._data is None:
            raise ValueError("test needs a data module: datamodules.benchmark.BenchmarkDataModule")
        weights, prompt = weights_fingerprint(self), self._prompt()
        self._infos = {
            name: questions.run_info(
                run=self.run_name or self._folder.resolve().name,
                model=str(self.trainer.ckpt_path or self.student_config.path),
                answer_format=self.student_config.answer_format,
                profile=self.profile,
                media=self._data.media,
                decoding=self._decoding(),
                prompt=prompt,
                weights=weights,
                hardware=self._hardware(),
            )
            for name, questions in self._sets.items()
        }
        states: dict[str, RunState] = self._on_first_device(
            lambda: {name: begin_run(self._folder, self._sets[name], info) for name, info in self._infos.items()}
        )
        self._done = {name: state.done for name, state in states.items()}
        self._writers = {name: RecordWriter(self._folder / name, self.trainer.global_rank) for name in self._sets}
        self._scores = {name: RunningScores().to(self.device) for name in self._sets}
        if self.trainer.is_global_zero:
            for name, state in states.items():
                report_missing(self._sets[name], state, score_console())
                self._count(name, [record for record in state.answered if record.id in state.done])
                self._count(name, state.missing)

    def _on_first_device(self, function: Callable[[], T]) -> T:
        """The first device's result, on all devices; its error ends all of them."""
        result: T | None = None
        problem = ""
        if self.trainer.is_global_zero:
            try:
                result = function()
            except (ValueError, OSError) as error:
                problem = str(error)
        result, problem = self.trainer.strategy.broadcast((result, problem))
        if problem:
            raise ValueError(problem)
        return result  # type: ignore[return-value]

    def _hardware(self) -> str:
        """The devices that share the questions, such as ``4 x NVIDIA H100 80GB HBM3``."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type.upper()
        return f"{self.trainer.world_size} x {device}"

    def _decoding(self) -> dict[str, Any]:
        student = self.student_config
        settings: dict[str, Any] = {
            "max_completion_length": self.answer_sampling.max_completion_length,
            "temperature": self.answer_sampling.temperature,
            "dtype": str(self.student.thinker.dtype).removeprefix("torch."),
            "min_pixels": student.min_pixels,
            "max_pixels": student.max_pixels,
        }
        # Absent where not used, so that runs of earlier versions can be resumed.
        further = {
            "base": student.path if self.trainer.ckpt_path else None,
            "seed": self.answer_sampling.seed if self.answer_sampling.temperature else None,
            REPEATS: self.repeats if self.repeats > 1 else None,
            "thinking_budget": self.thinking_budget,
            THINKING_CURVE: self.thinking_curve or None,
        }
        return settings | {name: value for name, value in further.items() if value is not None}

    def _prompt(self) -> dict[str, Any]:
        """The prompt's wording, and a fingerprint of the tokens that chat template and tokenizer make of it."""
        config = self.student_config
        sample = Sample("example", "Which of these?", ("one", "two"), 0)
        messages = build_messages(
            sample, modalities=("video", "audio"), answer_format=config.answer_format, template=config.template
        )
        processor = self.student.processor
        text = chat_text(processor, messages)
        tokens = json.dumps(processor.tokenizer(text)["input_ids"])
        return {
            **prompt_settings(config.template, config.answer_format),
            "tokens_sha256": hashlib.sha256(tokens.encode()).hexdigest(),
        }

    # ---- answers ----------------------------------------------------------------------------------------------------

    def test_step(self, batch: QuestionBatch, batch_idx: int) -> None:
        """Answer a batch and record it."""
        variants = expected_variants(self._decoding())
        records = [copy for record in batch.unreadable for copy in every_variant(record, variants)]
        if batch.items:
            begin = time.perf_counter()
            replies = self.replies(batch.prompts)
            seconds = round((time.perf_counter() - begin) / len(replies) / len(batch.items), 4)
            for (repeat, budget), answers in replies.items():
                for item, prompt, completion in zip(batch.items, batch.prompts, answers, strict=True):
                    records.append(
                        new_record(
                            self._sets[batch.benchmark].benchmark,
                            item,
                            text=completion.text,
                            finish_reason=completion.finish_reason,
                            prompt_tokens=len(prompt.input_ids),
                            completion_tokens=len(completion.token_ids),
                            latency_seconds=seconds,
                            repeat=repeat,
                            thinking_budget=budget,
                        )
                    )
        # A batch whose writing was interrupted is answered again as a whole, so that its replies stay the same.
        wanted = [record for record in records if record.id not in self._done[batch.benchmark]] if records else []
        if wanted:
            self._writers[batch.benchmark].append(*wanted)
            self._count(batch.benchmark, first_replies(wanted))

    def replies(self, prompts: Sequence[Prompt]) -> dict[Variant, list[Completion]]:
        """All replies to a batch of questions, one per question in each list; the media are encoded once."""
        sampling = self.answer_sampling
        embedded = self.student.embed(prompts)
        seeds = [stream_seed(sampling.seed, 0, prompt.sample.id) for prompt in prompts]
        limited = ThinkingBudget(
            self.rollout_engine,
            sampling,
            lambda text: self.student.processor.tokenizer(text, add_special_tokens=False)["input_ids"],
            self.student.decode,
            self.student.encoder.opening,
        )
        if self.thinking_budget is None:
            groups = self.rollout_engine(sampling).generate(embedded, self.repeats, seeds)
        else:
            groups = limited.generate(embedded, self.repeats, seeds, self.thinking_budget)
        versions: dict[int | None, list[list[Response]]] = {None: groups}
        versions |= {budget: limited.closed(embedded, groups, seeds, budget) for budget in self.thinking_curve}
        samples = [prompt.sample for prompt in prompts]
        return {
            (repeat, budget): completions(samples, [[group[repeat]] for group in version], self.student.response_text)
            for budget, version in versions.items()
            for repeat in range(self.repeats)
        }

    def _count(self, benchmark: str, records: Sequence[Record]) -> None:
        profile = self._infos[benchmark].profile
        self._scores[benchmark].add(grade_record(record, profile) for record in records)

    def running_accuracy(self, benchmark: str) -> float:
        """The strict accuracy so far, over this device's answers."""
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
            scored = finish_run(self._folder, list(self._sets.values()), score_console(), self.harness)
            assert self._data is not None
            log_summary(self.trainer, scored, self._sets, self._data.media)

    def teardown(self, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
