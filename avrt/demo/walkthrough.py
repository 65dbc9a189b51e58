"""The whole pipeline on the demo's task: clips, shards, traces, SFT, GRPO, an evaluation after each stage, a report.

Every step is a command that a user can type; it is printed before it runs. All run in this process, which saves the ten
seconds that each would take to import its libraries.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from avrt.demo import stages
from avrt.demo.build import demo_files
from avrt.demo.clips import SPLITS
from avrt.demo.settings import demo_settings
from avrt.demo.trace_run import demo_server, serve_command, traces_command
from avrt.interrupts import INTERRUPTED
from avrt.media.masking import MODALITY_MASKS
from avrt.pages.event_curves import read_curves
from avrt.servers.local_server import free_port

HEADINGS = {"AV": "video and audio (AV)", "A": "audio only (A)", "V": "video only (V)"}

CURVE_WINDOW = 10
"""Optimizer steps that the first and the last mean reward are taken over."""


@dataclass(frozen=True)
class WalkthroughResult:
    """Results of a demo.

    Attributes:
        accuracy: on the held-out questions, 0 to 1, by stage (``base``, ``sft``, ``grpo``) and modalities (``AV``,
            ``A``, ``V``).
        first_reward, last_reward: mean reward over the first and the last `CURVE_WINDOW` steps of GRPO.
        seconds: wall-clock time of the whole demo.
    """

    accuracy: dict[str, dict[str, float]]
    first_reward: float
    last_reward: float
    seconds: float

    def to_json(self) -> str:
        """The accuracies by stage and modalities, and the seconds."""
        return json.dumps({**self.accuracy, "seconds": round(self.seconds, 1)}, indent=1) + "\n"


class Walkthrough:
    """Runs the demo.

    Args:
        out: folder for everything; must be new or empty, because old shards and curves would mix with new ones.
        seed: for everything random.
        quick: reduces every stage; see `avrt.demo.settings.demo_settings`.
        run_command: runs the words after ``python -m avrt`` and returns the exit status.

    Raises:
        ValueError: `out` is not empty.
    """

    def __init__(self, out: Path, *, seed: int, quick: bool, run_command: Callable[[list[str]], int]) -> None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"--out {out}: is not empty; delete it or choose another folder")
        self.out = out
        self.settings = demo_settings(seed=seed, quick=quick)
        self.quick = quick
        self.run_command = run_command
        self.console = Console()

    def run(self) -> WalkthroughResult:
        """Run all stages in order.

        Raises:
            ValueError: a command failed.
        """
        started = time.monotonic()
        student = self.prepare()
        accuracy = {"base": self.evaluate("base", student)}
        for stage in ("sft", "grpo"):
            student = self.train(stage, student)
            accuracy[stage] = self.evaluate(stage, student)
        self.show()
        rewards = read_curve(self.out / "grpo", "reward")
        return WalkthroughResult(
            accuracy,
            first_reward=mean(rewards[:CURVE_WINDOW]),
            last_reward=mean(rewards[-CURVE_WINDOW:]),
            seconds=time.monotonic() - started,
        )

    def prepare(self) -> Path:
        """Make clips, shards, traces and the base student; returns the student's folder."""
        files = demo_files(self.out / "clips")
        self._heading("Clips and their questions")
        self._run(stages.make_command("clips", self.out, self.settings.seed, quick=self.quick))
        self._heading("Shards")
        for split in SPLITS:
            self._run(stages.pack_command(files, split, self.shards / split))
        self._heading("Traces: a vision teacher, an audio teacher, and a merger of their replies")
        self.trace()
        self._heading("A base student that can read, but has never seen or heard a clip")
        self._run(stages.make_command("student", self.out, self.settings.seed, quick=self.quick))
        return self.out / "student"

    def trace(self) -> None:
        """Make traces of the training questions with the demo's own models behind a local server."""
        port = free_port()
        traces = self.out / "traces"
        self._show(serve_command(port), "&")
        with demo_server(port):
            self._run(traces_command(self.shards / "train", traces / "ledger", traces, port=port))

    def train(self, stage: str, student: Path) -> Path:
        """Run one training stage, ``sft`` or ``grpo``; returns the folder of the trained student."""
        out = self.out / stage
        self._heading({"sft": "Supervised fine-tuning on the traces", "grpo": "GRPO on all questions"}[stage])
        train = {"sft": self.out / "traces" / "train", "grpo": self.shards / "train"}[stage]
        self._run(
            stages.fit_command(
                f"{stage}_tiny.yaml",
                train=train,
                val=self.shards / "val",
                student=student,
                out=out,
                steps={"sft": self.settings.sft_steps, "grpo": self.settings.grpo_steps}[stage],
                seed=self.settings.seed,
            )
        )
        return out / "student"

    def evaluate(self, stage: str, student: Path) -> dict[str, float]:
        """Accuracy on the held-out questions with both streams, and with either one masked."""
        self._heading(f"Evaluation of the {stage} student with video and audio, audio only, video only")
        accuracy: dict[str, float] = {}
        for modalities in MODALITY_MASKS:
            out = self.evaluation(stage, modalities)
            self._run(stages.evaluate_command(modalities, shards=self.shards, student=student, out=out))
            accuracy[modalities] = read_accuracy(out)
        return accuracy

    def show(self) -> None:
        """Compare before and after GRPO, and write the report with every answer."""
        before, after = self.evaluation("sft", "AV"), self.evaluation("grpo", "AV")
        self._heading("Before and after GRPO, question by question")
        self._run(stages.compare_command(before, after))
        self._run(stages.report_command(before, after, self.out / "report"))

    @property
    def shards(self) -> Path:
        return self.out / "shards"

    def evaluation(self, stage: str, modalities: str) -> Path:
        """Folder of one evaluation."""
        return self.out / "evaluation" / f"{stage}-{modalities}"

    def _heading(self, text: str) -> None:
        self.console.rule(text, align="left")

    def _show(self, arguments: list[str], *rest: str) -> None:
        words = ["python", "-m", "avrt", shlex.join(arguments), *rest]
        self.console.print("$", *words, highlight=False, markup=False, soft_wrap=True)

    def _run(self, arguments: list[str]) -> None:
        self._show(arguments)
        status = self.run_command(arguments)
        if status == INTERRUPTED:
            raise SystemExit(INTERRUPTED)  # the command has reported it
        if status:
            raise ValueError(f"the demo stopped: `avrt {arguments[0]}` ended with status {status}, see above")


def read_accuracy(folder: Path) -> float:
    """Strict accuracy, 0 to 1, of an evaluation on the demo's questions.

    Raises:
        OSError: the evaluation wrote no metrics.
    """
    metrics = json.loads((folder / "demo" / "metrics.json").read_text(encoding="utf-8"))
    return float(metrics["strict"]["accuracy"])


def read_curve(folder: Path, tag: str) -> list[float]:
    """The values of one TensorBoard curve, step by step.

    Raises:
        ValueError: `folder` has no such curve.
    """
    curves = read_curves(folder, [tag])
    if tag not in curves:
        raise ValueError(f"{folder} holds no curve {tag!r}")
    return [value for _, value in curves[tag]]


def print_result(result: WalkthroughResult, out: Path, console: Console) -> None:
    """Print the accuracies, the mean reward, and where report and curves are."""
    table = Table(title="Accuracy on the held-out questions", title_justify="left")
    table.add_column("stage")
    for modalities in MODALITY_MASKS:
        table.add_column(HEADINGS[modalities], justify="right")
    for stage, row in result.accuracy.items():
        table.add_row(stage, *(f"{row[modalities]:.1%}" for modalities in MODALITY_MASKS))
    table.add_row("ceiling", "100.0%", "50.0%", "50.0%", style="dim")
    console.print(table)
    console.print(
        f"Mean reward during GRPO: {result.first_reward:.2f} in the first {CURVE_WINDOW} steps, "
        f"{result.last_reward:.2f} in the last {CURVE_WINDOW} (of 3.00).",
        f"It took {result.seconds / 60:.1f} minutes.",
        f"Every answer with its frames and audio, before and after GRPO: {out / 'report' / 'index.html'}",
        f"Curves, completions, frames and audio: tensorboard --logdir {shlex.quote(str(out))}",
        sep="\n",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
