"""A folder in which the commands of a page run as they are written, on input so small that each takes seconds.

The folder has what a page assumes: clips with questions, the published students under their hub names (in
the published layout, at tiny width), benchmarks, and servers for teachers. Behind a command's own words come options
that change sizes, addresses of servers and the device; never anything that changes what is computed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.distributed.runs import free_port
from tests.documentation.pages import ROOT
from tests.programs import ForkServer, Program

SIZES = ("3B", "7B")
STEPS = 2
"""Optimizer steps of every training run."""

PIXELS = 28 * 28 * 4
"""Of a frame, at most."""


@dataclass
class Sandbox:
    """Runs commands in `folder`.

    Attributes:
        server: starts each command in processes of its own.
        url: of a model server that knows the questions.
        strategy: ``plain`` trains in float32 with `overlays/laptop.yaml`; ``deepspeed`` as in the preset.
        ran: command lines with the seconds that each took.
        serving: commands that run until they are interrupted.
        demo_url: where the demo's models answer.
    """

    folder: Path
    server: ForkServer
    url: str
    strategy: Literal["plain", "deepspeed"] = "plain"
    ran: list[tuple[str, float]] = field(default_factory=list)
    serving: list[Program] = field(default_factory=list)
    demo_url: str = ""

    def run(self, words: list[str], status: int = 0) -> str:
        """Run ``python -m avrt`` with a command's words and the options that make it small; returns its output."""
        if "--serve" in words:
            return self._serve(words)
        words = [*words, *self.small(words)]
        start = time.perf_counter()
        program = self._start(words)
        output = program.wait(1500)  # DeepSpeed compiles its optimizer at the first use
        self.ran.append((" ".join(words), time.perf_counter() - start))
        assert program.returncode == status, f"status {program.returncode} of {' '.join(words)}:\n{output[-4000:]}"
        return output

    def _start(self, words: list[str]) -> Program:
        log = self.folder / f"output-{len(self.ran) + len(self.serving):02d}.txt"
        return self.server.start("avrt", words, log, MASTER_PORT=str(free_port()))

    def _serve(self, words: list[str]) -> str:
        """Start a command that runs until it is interrupted, and wait until it answers."""
        port = free_port()
        self.demo_url = f"http://127.0.0.1:{port}/v1"
        self.serving.append(self._start([*words, "--port", str(port)]))
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return self.serving[-1].output
            assert self.serving[-1].poll() is None, self.serving[-1].output
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def close(self) -> None:
        """Interrupt servers that are still running, as their user would."""
        for program in self.serving:
            os.killpg(program.pid, signal.SIGINT)
            program.wait(30)
            assert program.returncode in (0, 130), program.output

    def small(self, words: list[str]) -> list[str]:
        """Options for behind a command's own."""
        command = words[0]
        if any(word.startswith(("--help", "--print_config")) or ".help=" in word for word in words):
            return []
        if command in ("fit", "validate", "predict"):
            return self._small_training(words)
        if command == "test":
            limits = self.evaluation_limits()
            if any(word.startswith("cli_configs/models/") for word in words):  # instead of that model's weights
                limits["model"]["init_args"]["student"]["path"] = "Qwen/Qwen2.5-Omni-3B"
            return ["--config", self._write("test", limits)]
        if command == "traces":
            demo = "traces_demo" in " ".join(words)
            url = self.demo_url if demo else self.url
            config = yaml.safe_load((self.folder / words[words.index("--config") + 1]).read_text(encoding="utf-8"))
            keys = [*(f"teachers.{name}" for name in config["teachers"]), *(["merge"] if config["merge"] else [])]
            stages = [f"--{key}.base_urls=[{url}]" for key in keys]
            return [*stages, "--shards=shards/demo" if demo else "--val_share=0.3"]
        if command == "judge" and "--score" not in words:
            return [f"--judge.base_urls=[{self.demo_url if 'judge_demo' in ' '.join(words) else self.url}]"]
        if command == "claims":
            return [f"--judge.base_urls=[{self.url}]"]
        if command == "pack" and "AVRT-20K.parquet" in words:
            return ["--val-share", "0.3"]
        if command == "plan" and "--samples" not in words:
            return ["--samples", "40127"]
        if command == "evaluate-server":
            return [f"--server.base_urls=[{self.url}]"]
        if command == "experiments":  # an hour, so only its list; tests/end_to_end/test_experiments.py runs some
            return [] if {"--list", "--slurm", "--results"} & {*words} else ["--list"]
        return []

    def _small_training(self, words: list[str]) -> list[str]:
        preset = Path(words[words.index("--config") + 1]).stem
        files = []
        limits = self.training_limits(preset)
        if preset.endswith(("3b", "7b", "30b_lora")):
            if self.strategy == "plain":
                files.append("cli_configs/overlays/laptop.yaml")
            else:
                limits["trainer"] |= {"accelerator": "cpu", "devices": 1}
        # What the command itself says is kept.
        if "--model.student.path" in words:
            limits["model"]["init_args"]["student"].pop("path", None)
        if "--data.train" in words:
            limits["data"]["init_args"].pop("train", None)
        files.append(self._write(preset, limits))
        return [word for file in files for word in ("--config", file)]

    def training_limits(self, preset: str) -> dict[str, Any]:
        student: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": PIXELS}
        lengths: dict[str, Any] = {"val_max_completion_length": 4}
        data: dict[str, Any] = {
            "prompts_per_step": 2,
            "val_every_n_steps": STEPS,
            "val_samples": 4,
            "val_batch_size": 2,
            "num_workers": 1,
        }
        if preset.endswith("tiny") or preset.startswith("my_"):  # instead of the demo's clips and student
            student["path"] = "Qwen/Qwen2.5-Omni-3B"
            source = "avrt20k" if preset.startswith("sft") else "avqa"
            data |= {"train": f"shards/{source}/train", "val": f"shards/{source}/val", "batch_size": 1}
        if not preset.startswith("sft"):
            lengths["sampling"] = {"max_completion_length": 8}
        return {
            "trainer": {"max_steps": STEPS},
            "model": {"init_args": {"student": student, **lengths}},
            "data": {"init_args": data},
        }

    def evaluation_limits(self) -> dict[str, Any]:
        return {
            "model": {
                "init_args": {
                    "student": {"min_pixels": 28 * 28, "max_pixels": PIXELS},
                    "max_completion_length": 8,
                }
            },
            "data": {"init_args": {"batch_size": 4, "num_workers": 1}},
        }

    def _write(self, name: str, settings: dict[str, Any]) -> str:
        path = self.folder / "limits" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return str(path.relative_to(self.folder))


def link_project(folder: Path, student: Path, experts: Path) -> None:
    """The project's own files, and the students under the names by which the presets ask the hub for them."""
    for name in ("cli_configs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    for size in SIZES:
        place = folder / "Qwen" / f"Qwen2.5-Omni-{size}"
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(student)
    (folder / "Qwen" / "Qwen3-Omni-30B-A3B-Instruct").symlink_to(experts)


def lay_out_benchmarks(folder: Path, real: Path) -> None:
    """``data/`` with the real questions and media that there are, each as its authors publish it."""
    (folder / "data").mkdir()
    for name in ("dailyomni", "mmau", "rivabench"):
        (folder / "data" / name).symlink_to(real / "benchmarks" / name)
    (folder / "data" / "avqa").symlink_to(folder / "avqa")
    lay_out_streets(folder / "data" / "streets", real / "avqa")


def write_replies(folder: Path) -> None:
    """Replies made elsewhere to the questions of MMAU and DailyOmni, with the ids that docs/evaluation.md gives."""
    mmau = json.loads((folder / "data" / "mmau" / "mmau-test-mini.json").read_text(encoding="utf-8"))
    _write_lines(folder / "replies.jsonl", {row["id"]: row["answer"] for row in mmau})
    answers: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    for row in json.loads((folder / "data" / "dailyomni" / "qa.json").read_text(encoding="utf-8")):
        answers[f"{row['video_id']}-{numbers[row['video_id']]}"] = row["Answer"]
        numbers[row["video_id"]] += 1
    _write_lines(folder / "ola_dailyomni.jsonl", answers)


def _write_lines(file: Path, answers: dict[str, str]) -> None:
    lines = [json.dumps({"id": item, "text": f"Answer: {answer}"}) for item, answer in answers.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def lay_out_streets(folder: Path, avqa: Path) -> None:
    """The benchmark that the page on own benchmarks shows, with two real clips."""
    (folder / "clips").mkdir(parents=True)
    rows = []
    for number, row in enumerate(json.loads((avqa / "val_qa.json").read_text(encoding="utf-8"))[:2]):
        (folder / "clips" / f"{number}.mp4").symlink_to(avqa / "videos" / f"{row['video_name']}.mp4")
        question = {"qid": f"q{number}", "clip": number, "question": row["question_text"], "place": "town"}
        rows.append(question | {"choices": row["multi_choice"], "answer": "ABCD"[row["answer"]]})
    (folder / "test.json").write_text(json.dumps(rows), encoding="utf-8")
