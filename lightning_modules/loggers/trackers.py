"""Tables, images and audio for the loggers of a run: TensorBoard, Weights & Biases, MLflow and Trackio.

Numbers reach every logger of Lightning by themselves; for anything else each has calls of its own.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import soundfile
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from avrt.sample import SAMPLING_RATE
from lightning_modules.loggers.trackio_logger import TrackioLogger

# A run writes into its own folder; MLflow 3 refuses a local folder without a database unless this is set.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

MLFLOW_TABLES = "mlflow.loggedArtifacts"
"""Tag of an MLflow run that lists its tables, for MLflow's page of evaluations."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, with a note below."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Tracker(Protocol):
    """Where a run's tables, images and audio go; tags are names with ``/``, steps are optimizer steps."""

    def table(self, tag: str, table: Table, step: int) -> None:
        """Show a table, every cell unchanged."""

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        """Show an image, uint8 ``[3, height, width]``."""

    def audio(self, tag: str, waveform: Tensor, step: int) -> None:
        """Show audio, float32 ``[samples]`` in -1 to 1 at 16 kHz."""


def trackers(trainer: Trainer) -> list[Tracker]:
    """The trackers among a run's loggers; loggers of other kinds get numbers only. Call it on the first device."""
    found = (tracker_of(logger) for logger in trainer.loggers)
    return [tracker for tracker in found if tracker is not None]


def tracks(trainer: Trainer) -> bool:
    """Whether a run has a tracker; opens none."""
    kinds = (TensorBoardLogger, WandbLogger, MLFlowLogger, TrackioLogger)
    return any(isinstance(logger, kinds) for logger in trainer.loggers)


def tracker_of(logger: Logger) -> Tracker | None:
    """The tracker of a logger, or None for a kind that takes numbers only."""
    if isinstance(logger, TensorBoardLogger):
        return _TensorBoard(logger.experiment)
    if isinstance(logger, WandbLogger):
        return _Wandb(logger)
    if isinstance(logger, MLFlowLogger):
        return _MLflow(logger)
    if isinstance(logger, TrackioLogger):
        return _Trackio(logger)
    return None


@dataclass(frozen=True)
class _TensorBoard:
    writer: Any

    def table(self, tag: str, table: Table, step: int) -> None:
        text = markdown_table(table.header, table.rows)
        self.writer.add_text(tag, f"{text}\n\n{escape(table.note)}" if table.note else text, step)

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        self.writer.add_image(tag, pixels, step)

    def audio(self, tag: str, waveform: Tensor, step: int) -> None:
        self.writer.add_audio(tag, waveform[None], step, sample_rate=SAMPLING_RATE)


@dataclass(frozen=True)
class _Wandb:
    logger: WandbLogger

    def table(self, tag: str, table: Table, step: int) -> None:
        self.logger.log_table(tag, columns=list(table.header), data=[list(row) for row in _with_note(table)], step=step)

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        self.logger.log_image(tag, [as_image(pixels)], step=step)

    def audio(self, tag: str, waveform: Tensor, step: int) -> None:
        self.logger.log_audio(tag, [waveform.numpy()], step=step, sample_rate=[SAMPLING_RATE])


@dataclass(frozen=True)
class _MLflow:
    """Files among the run's artifacts, one per step: tables as JSON, images as PNG, audio as WAV."""

    logger: MLFlowLogger

    def table(self, tag: str, table: Table, step: int) -> None:
        client, run, file = self.logger.experiment, self.logger.run_id, _file(tag, step, "json")
        rows = [list(row) for row in _with_note(table)]
        client.log_dict(run, {"columns": list(table.header), "data": rows}, file)
        listed = json.loads(client.get_run(run).data.tags.get(MLFLOW_TABLES, "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in listed:
            client.set_tag(run, MLFLOW_TABLES, json.dumps([*listed, entry]))

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, as_image(pixels), artifact_file=_file(tag, step, "png"))

    def audio(self, tag: str, waveform: Tensor, step: int) -> None:
        name = Path(_file(tag, step, "wav"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name.name
            soundfile.write(path, waveform.numpy(), SAMPLING_RATE)
            self.logger.experiment.log_artifact(self.logger.run_id, str(path), str(name.parent))


@dataclass(frozen=True)
class _Trackio:
    logger: TrackioLogger

    def table(self, tag: str, table: Table, step: int) -> None:
        rows = [list(row) for row in _with_note(table)]
        self.logger.log_media(tag, "Table", step, columns=list(table.header), data=rows)

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        self.logger.log_media(tag, "Image", step, value=pixels.permute(1, 2, 0).numpy())

    def audio(self, tag: str, waveform: Tensor, step: int) -> None:
        samples = (waveform * 32767).round().to(torch.int16).numpy()
        self.logger.log_media(tag, "Audio", step, value=samples, sample_rate=SAMPLING_RATE)


def as_image(pixels: Tensor) -> Image.Image:
    """An image uint8 ``[3, height, width]`` for libraries that take Pillow's."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _with_note(table: Table) -> list[Sequence[str]]:
    """The rows, with the note as a last one where there is no place below the table."""
    padding = [""] * (len(table.header) - 1)
    return [*table.rows, *([[table.note, *padding]] if table.note else [])]


def _file(tag: str, step: int, suffix: str) -> str:
    return f"{tag}/step-{step:06d}.{suffix}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that shows every cell's text unchanged, tags and line breaks included."""
    first, *rest = ([escape(cell) for cell in line] for line in (header, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, ["---"] * len(header), *rest))


def escape(text: str) -> str:
    """Escape text for Markdown and HTML: ``<think>`` stays visible, no cell or row ends early.

    Every ASCII punctuation mark becomes a character reference, which neither of the two interprets.
    """
    text = re.sub(r"[!-/:-@\[-`{-~]", lambda mark: f"&#{ord(mark.group())};", printable(text))
    return text.replace("\n", "<br>")


def printable(text: str) -> str:
    """Replace control characters other than line breaks by U+FFFD: TensorBoard uses some of them as its own marks."""
    text = text.replace("\r\n", "\n").replace("\t", " ")
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", "\ufffd", text)
