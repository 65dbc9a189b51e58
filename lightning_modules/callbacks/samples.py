"""Completions with their frames and audio, in TensorBoard and other trackers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchvision.transforms.v2.functional import resize
from torchvision.utils import make_grid

from avrt.grpo.advantage import GroupStatistics
from avrt.rewards import RewardTable
from avrt.sample import Clip, Completion, Sample
from avrt.text.answers import parse
from lightning_modules.loggers.trackers import Table, Tracker, printable, trackers, tracks

FRAMES_PER_ROW = 4
MAX_FRAME_SIDE = 320
"""Pixels; larger frames are scaled down, because an event file keeps every image."""

QUESTION_COLUMNS = 36
COMPLETION_COLUMNS = 72
"""Characters in a line of a table's cells."""


class Rollout(Protocol):
    """The part of a GRPO module's rollout that the callback uses: N completions, the G of a prompt in sequence."""

    completions: Sequence[Completion]
    rewards: RewardTable
    statistics: GroupStatistics


class SampleTable(Callback):
    """Writes completions, frames and audio to the run's trackers, see `lightning_modules.loggers.trackers`.

    In GRPO, every few optimizer steps: ``samples/completions`` (text), the best and the worst completions of the step
    with their question, rewards and advantage; ``samples/frames`` (image) and ``samples/audio``, the clip of the
    table's first row. After every validation: ``samples/validation`` (text), some right and some wrong answers.
    All from the first device.

    Args:
        every_n_steps: optimizer steps between two tables; the first step has one too.
        num_best: rows with the largest summed reward; in validation, right answers.
        num_worst: rows with the smallest summed reward; in validation, wrong answers.
    """

    def __init__(self, every_n_steps: int = 10, num_best: int = 3, num_worst: int = 3) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if num_best < 0 or num_worst < 0 or num_best + num_worst == 0:
            raise ValueError(
                f"num_best ({num_best}) and num_worst ({num_worst}) must be 0 or more, and one of them positive"
            )
        self.every_n_steps = every_n_steps
        self.num_best = num_best
        self.num_worst = num_worst
        self._right: list[Completion] = []
        self._wrong: list[Completion] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not tracks(trainer):
            rank_zero_warn(
                "SampleTable writes nothing: trainer.logger takes only numbers. Add a logger of TensorBoard, Weights & "
                "Biases, MLflow or Trackio, or remove SampleTable."
            )

    # ---- GRPO -------------------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rollout: Rollout | None = getattr(pl_module, "rollout", None)
        if rollout is None or not batch.last or not trainer.is_global_zero:
            return
        step = _step(trainer)
        if step % self.every_n_steps:
            return
        group_size = len(rollout.completions) // len(rollout.statistics.group_std)
        best, worst = extremes(rollout.rewards.total, group_size, self.num_best, self.num_worst)
        shown = [*best, *worst]
        if not shown:
            return
        labels = [f"best {i + 1}" for i in range(len(best))] + [f"worst {i + 1}" for i in range(len(worst))]
        sample = rollout.completions[shown[0]].sample
        table = completion_table(rollout, shown, labels)
        for tracker in trackers(trainer):
            tracker.table("samples/completions", replace(table, note=_clip_line(sample)), step)
            log_clip(tracker, sample.clip, step)

    # ---- validation -------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._right, self._wrong = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for completion in outputs["completions"]:
            letter = parse(completion.text, completion.sample, finish_reason=completion.finish_reason).letter
            found, wanted = (
                (self._right, self.num_best) if completion.sample.is_right(letter) else (self._wrong, self.num_worst)
            )
            if len(found) < wanted:
                found.append(completion)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shown = [*self._right, *self._wrong]
        if trainer.sanity_checking or not trainer.is_global_zero or not shown:
            return
        for tracker in trackers(trainer):
            tracker.table("samples/validation", validation_table(shown), _step(trainer))
        self._right, self._wrong = [], []


def extremes(totals: Tensor, group_size: int, num_best: int, num_worst: int) -> tuple[list[int], list[int]]:
    """Indices of the completions with the largest and with the smallest summed reward; none is in both lists.

    Among equals, different prompts come before further responses to the same prompt. Completions without any reward
    (NaN) are left out.

    Args:
        totals: ``[N]`` summed rewards, the G responses of a prompt in sequence.
    """
    scored = [i for i, total in enumerate(totals.tolist()) if not math.isnan(total)]
    best = sorted(scored, key=lambda i: (-totals[i].item(), i % group_size, i))[:num_best]
    rest = [i for i in scored if i not in best]
    return best, sorted(rest, key=lambda i: (totals[i].item(), i % group_size, i))[:num_worst]


def completion_table(rollout: Rollout, indices: Sequence[int], labels: Sequence[str]) -> Table:
    """Table of some completions of a rollout, with every reward before weighting."""
    rewards = rollout.rewards
    rows = []
    for i, label in zip(indices, labels, strict=True):
        completion = rollout.completions[i]
        scores = [
            label,
            f"sum {_number(rewards.total[i])}",
            *(f"{name} {_number(values[i])}" for name, values in rewards.by_name.items()),
            f"advantage {_number(rollout.statistics.advantages[i], '+.2f')}",
        ]
        if completion.staleness:
            scores.append(f"staleness {completion.staleness}")
        rows.append(["\n".join(scores), _question(completion.sample), _completion(completion)])
    return Table(["scores", "question", "completion"], rows)


def validation_table(completions: Sequence[Completion]) -> Table:
    """Table of validation answers and how they were parsed."""
    rows = []
    for completion in completions:
        parsed = parse(completion.text, completion.sample, finish_reason=completion.finish_reason)
        verdict = "right" if completion.sample.is_right(parsed.letter) else "wrong"
        reading = [verdict, f"answer {parsed.letter or 'none'}", f"form {parsed.reason.value}"]
        rows.append(["\n".join(reading), _question(completion.sample), _completion(completion)])
    return Table(["reading", "question", "completion"], rows)


def log_clip(tracker: Tracker, clip: Clip | None, step: int, prefix: str = "samples") -> None:
    """Show a clip's frames, as one image, and its audio; a stream that the clip does not have is left out."""
    if clip is None:
        return
    if clip.frames is not None:
        tracker.image(f"{prefix}/frames", frame_grid(clip.frames), step)
    if clip.waveform is not None and len(clip.waveform):
        tracker.audio(f"{prefix}/audio", clip.waveform.clamp(-1, 1), step)


def frame_grid(frames: Tensor) -> Tensor:
    """Frames uint8 ``[T, 3, height, width]`` as one image uint8 ``[3, H, W]``, in reading order."""
    height, width = frames.shape[-2:]
    scale = min(1.0, MAX_FRAME_SIDE / max(height, width))
    if scale < 1:
        frames = resize(frames, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)
    return make_grid(frames, nrow=FRAMES_PER_ROW, padding=4, pad_value=255)


def _clip_line(sample: Sample) -> str:
    """Line under a table that names the clip of frames and audio."""
    line = f"samples/frames and samples/audio show the clip of the first row: sample {sample.id}"
    if sample.clip is not None and sample.clip.timestamps:
        line += ", frames at " + ", ".join(f"{seconds:.2f}" for seconds in sample.clip.timestamps) + " s"
    return line


def _question(sample: Sample) -> str:
    options = (f"{letter}. {text}" for letter, text in zip(sample.letters, sample.options, strict=True))
    return wrap("\n".join([sample.question, *options, f"gold {sample.gold}"]), QUESTION_COLUMNS)


def _completion(completion: Completion) -> str:
    cut = " [cut at the token limit]" if completion.finish_reason == "length" else ""
    return wrap(completion.text + cut, COMPLETION_COLUMNS)


def wrap(text: str, columns: int) -> str:
    """Text with line breaks at spaces, so that no line has more than `columns` characters.

    TensorBoard divides a table's width by the longest lines: beside one line of a thousand characters, all other
    columns would be one character wide.
    """
    lines = [textwrap.wrap(line, columns, replace_whitespace=False) or [""] for line in printable(text).split("\n")]
    return "\n".join("\n".join(parts) for parts in lines)


def _number(value: Tensor, spec: str = ".3g") -> str:
    return "none" if torch.isnan(value) else format(float(value), spec)


def _step(trainer: Trainer) -> int:
    """The step under which Lightning logs the metrics of the optimizer step that has just been taken."""
    return max(0, trainer.global_step - 1)
