"""The commands of the demo's stages, as a user types them after ``python -m avrt``."""

from __future__ import annotations

from pathlib import Path

from avrt.config.preset_files import preset_folder
from avrt.demo.build import DemoFiles

PACK_OPTIONS = ("--max-pixels", "3136", "--max-audio-seconds", "2")
"""Frames are stored at the size that the tiny student gets: 56 x 56 pixels, four visual tokens."""


def config_file(name: str) -> Path:
    """A preset of the source tree or of the installed package.

    Raises:
        FileNotFoundError: it is missing.
    """
    path = preset_folder() / name
    if not path.is_file():
        raise FileNotFoundError(2, "the preset is missing from the installation", str(path))
    return path


def shown_path(path: Path) -> str:
    """A path as a user would type it: relative if it is inside the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def make_command(what: str, out: Path, seed: int, *, quick: bool) -> list[str]:
    """Make only the ``clips``, or only the base ``student``."""
    words = ["demo", "--make", what, "--out", shown_path(out), "--seed", str(seed)]
    return [*words, "--quick"] if quick else words


def pack_command(files: DemoFiles, split: str, out: Path) -> list[str]:
    """Pack the clips of one split."""
    annotations = files.train_annotations if split == "train" else files.val_annotations
    where = ["--annotations", shown_path(annotations), "--videos", shown_path(files.videos), "--out", shown_path(out)]
    return ["pack", *where, "--split", split, *PACK_OPTIONS]


def fit_command(
    preset: str, *, train: Path, val: Path, student: Path, out: Path, steps: int | None, seed: int
) -> list[str]:
    """Train `student` with a preset; curves, checkpoints and the trained student go to `out`.

    `steps` is the most optimizer steps; None takes the preset's.
    """
    words = [
        *("fit", "--config", shown_path(config_file(preset))),
        *("--model.student.path", shown_path(student)),
        *("--data.train", shown_path(train)),
        *("--data.val", shown_path(val)),
        *("--output_dir", shown_path(out)),
    ]
    if steps is not None:
        words += ["--trainer.max_steps", str(steps)]
    if seed:
        words += ["--seed_everything", str(seed), "--data.seed", str(seed)]
    if seed and preset.startswith("grpo"):
        words += ["--model.sampling.seed", str(seed)]
    return words


def evaluate_command(modalities: str, *, shards: Path, student: Path, out: Path) -> list[str]:
    """Evaluate on the held-out questions with ``AV``, ``A`` or ``V``; records and metrics go to `out`."""
    return [
        *("test", "--config", shown_path(config_file("eval_demo.yaml"))),
        *("--model.student.path", shown_path(student)),
        *("--data.shards", shown_path(shards / "val")),
        *("--data.modalities", modalities),
        *("--output_dir", shown_path(out)),
    ]


def compare_command(before: Path, after: Path) -> list[str]:
    """Compare two evaluations, question by question."""
    return ["compare", shown_path(before), shown_path(after)]


def report_command(before: Path, after: Path, out: Path) -> list[str]:
    """Write the report with every answer of two evaluations."""
    return ["report", shown_path(before), shown_path(after), "--out", shown_path(out)]
