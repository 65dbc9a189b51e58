"""The GRPO run of the soak: its data, its config, and an undisturbed run to compare with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.programs import environment
from tests.soak.comparison import exported_files, final_checkpoint, order_of
from tests.soak.processes import Start
from tests.soak.recorder import read_history
from tests.soak.tally import Problem

STEPS = 40
"""Optimizer steps: a pass over the data and a few more."""

PROMPTS_PER_STEP = 8
DAMAGED_SHARE = 0.15


@dataclass(frozen=True)
class Demo:
    """The demo's parts, built once by `avrt demo --quick`."""

    folder: Path

    @property
    def shards(self) -> Path:
        return self.folder / "shards" / "train"

    @property
    def student(self) -> Path:
        return self.folder / "sft" / "student"


def build_demo(folder: Path, variables: Mapping[str, str]) -> Demo:
    """The demo in `folder`; built if it is not there.

    Raises:
        Problem: the demo failed.
    """
    demo = Demo(folder)
    done = folder / "report" / "index.html"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "avrt", "demo", "--quick", "--out", str(folder)]
        log = folder.with_suffix(".log")
        with log.open("wb") as output:
            status = subprocess.run(
                words, stdout=output, stderr=subprocess.STDOUT, env={**environment(), **variables}, check=False
            ).returncode
        if status:
            raise Problem(f"`avrt demo --quick` ended with status {status}, see {log}")
    return demo


@dataclass(frozen=True)
class GrpoRun:
    """One run of the config, whatever happens to it.

    Attributes:
        folder: for logs and recorded steps, never on a disk that fills up.
        output: the run's `output_dir`.
    """

    demo: Demo
    folder: Path
    output: Path
    shards: str
    data: Mapping[str, Any]
    variables: Mapping[str, str]

    @property
    def steps(self) -> Path:
        """Folder of the recorded steps."""
        return self.folder / "steps"

    def start(self, number: int, variables: Mapping[str, str] | None = None) -> Start:
        """Start or resume the run: the same command every time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._settings(), sort_keys=False))
        words = ["fit", "--config", str(config), "--allow-classes", "tests", "--ckpt_path", "last"]
        log = self.folder / f"start-{number:03d}.log"
        return Start(words, log, {**self.variables, **(variables or {})})

    def _settings(self) -> dict[str, Any]:
        callbacks: list[tuple[str, dict[str, Any]]] = [
            ("avrt.rewards.FormatReward", {}),
            ("avrt.rewards.AccuracyReward", {}),
            ("avrt.rewards.LengthReward", {"mu": 12, "sigma": 3, "w_min": 10, "w_max": 14}),
            ("lightning_modules.callbacks.ExportStudent", {}),
            ("lightning_modules.callbacks.PreemptionCallback", {}),
            ("lightning_modules.callbacks.RunCheckpoint", {"every_n_steps": 3}),
            ("tests.soak.recorder.StepRecorder", {"folder": str(self.steps)}),
        ]
        student = {
            "path": str(self.demo.student),
            "dtype": "float32",
            "min_pixels": 3136,
            "max_pixels": 3136,
            "template": {
                "system": "",
                "option_line": "{letter} {text} {letter}",
                "tags_instruction": "",
                "letter_instruction": "",
            },
        }
        return {
            "output_dir": str(self.output),
            "seed_everything": 0,
            "torch_threads": 1,
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "precision": "32-true",
                "max_steps": STEPS,
                "gradient_clip_val": 1.0,
                "enable_model_summary": False,
                "callbacks": [{"class_path": path, "init_args": arguments} for path, arguments in callbacks],
            },
            "model": {
                "class_path": "lightning_modules.grpo.GRPOModule",
                "init_args": {
                    "student": student,
                    "optimizer": {
                        "learning_rate": 6e-4,
                        "betas": [0.9, 0.99],
                        "warmup_steps": 5,
                        "schedule": "cosine",
                    },
                    "num_generations": 4,
                    "sampling": {"max_completion_length": 32},
                    "loss": {"beta": 0.04},
                },
            },
            "data": {
                "class_path": "datamodules.grpo.GRPODataModule",
                "init_args": {
                    "train": self.shards,
                    "batch_size": PROMPTS_PER_STEP // 2,
                    "prompts_per_step": PROMPTS_PER_STEP,
                    "num_workers": 2,
                    "shuffle_shards": 8,
                    "max_damaged_share": DAMAGED_SHARE,
                    **self.data,
                },
            },
        }


@dataclass(frozen=True)
class Finished:
    """What a finished run left."""

    order: list[list[str]]
    steps: dict[int, dict[str, Any]]
    checkpoint: dict[str, Any]
    exported: dict[str, bytes]


def read_finished(run: GrpoRun) -> Finished:
    """Read a finished run.

    Raises:
        Problem: recorded steps are missing.
    """
    history = read_history(run.steps)
    if sorted(history.steps) != list(range(1, STEPS + 1)):
        raise Problem(f"{STEPS} steps expected, recorded: {sorted(history.steps)}")
    return Finished(order_of(history), history.steps, final_checkpoint(run.output, STEPS), exported_files(run.output))


def undisturbed(run: GrpoRun) -> Finished:
    """Run to the end without a fault; a run that an earlier soak finished is read.

    Raises:
        Problem: it failed.
    """
    done = run.folder / "done"
    if not done.exists():
        shutil.rmtree(run.folder, ignore_errors=True)
        start = run.start(0)
        try:
            status = start.wait()
        finally:
            start.end()
        if status:
            raise Problem(f"the undisturbed run ended with status {status}, see {start.log}")
        done.touch()
    return read_finished(run)
