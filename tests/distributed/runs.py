"""Starting real training runs in processes of their own, as a user does, and reading their results.

Each run is `python -m avrt fit` on a tiny student and a handful of samples of mixed modality; the recorder below writes
every rank's losses and the final weights.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import random
import resource
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback

from avrt.data.writer import ShardWriter
from avrt.rewards import RewardCallback
from tests.programs import TIMEOUT, ForkServer, Program
from tests.tiny_student import KINDS, PIXELS, make_sample, save_student

SAMPLES = 32

CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"

DEEPSPEED: dict[str, Any] = {
    "class_path": "lightning_modules.strategy.AVRTDeepSpeedStrategy",
    "init_args": {"stage": 2, "offload_optimizer": False, "timeout_minutes": 2},
}


class Recorder(Callback):
    """Writes, per rank, the logged metrics of every optimizer step, and rank 0's trained weights at the end."""

    def __init__(self, folder: str, weights: bool = True) -> None:
        self.folder = Path(folder)
        self.weights = weights
        self.last_logged = -1

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # The module's own hook runs after the callbacks', so the logged metrics are of the step before.
        self._write(trainer, trainer.global_step - int(batch.last))

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self._write(trainer, trainer.global_step)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._write(trainer, trainer.global_step)
        if self.weights and trainer.is_global_zero:
            torch.save(trained_weights(module), self.folder / "weights.pt")

    def _write(self, trainer: Any, step: int) -> None:
        if step == self.last_logged or "loss" not in trainer.logged_metrics:
            return
        self.last_logged = step
        logged = trainer.logged_metrics.items()
        line = {name: float(value) for name, value in logged if not name.startswith(("seconds/", "throughput/"))}
        with (self.folder / f"steps_{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        trainer.logged_metrics.clear()  # it keeps metrics that later steps do not have


def trained_weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().float().cpu().clone() for name, p in module.named_parameters() if p.requires_grad}


class TensorCounter(Callback):
    """Writes the bytes of all tensors that came with the student and its first optimizer step, rank 0's."""

    def __init__(self, folder: str) -> None:
        self.file = Path(folder) / "tensor_bytes.txt"

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        self.before = tensor_bytes()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and trainer.is_global_zero:
            self.file.write_text(str(tensor_bytes() - self.before))


class NoRoom(Callback):
    """From one optimizer step on the system refuses to write files past a size, as it does on a full disk."""

    def __init__(self, step: int, bytes: int) -> None:
        self.step, self.bytes = step, bytes

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, resource.RLIM_INFINITY))


def tensor_bytes() -> int:
    """Of all tensors of this process."""
    gc.collect()
    storages = [o.untyped_storage() for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and not o.is_meta]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


class RewardByLength(RewardCallback):
    """A reward that a random student gets a signal from: the share of letters in its text."""

    name = "letters"

    def score(self, completions: Any) -> list[float]:
        return [sum(c.isalpha() for c in x.text) / (1 + len(x.text)) for x in completions]


class RewardByFirstLetter(RewardCallback):
    """1 for a few completions: most groups of the random student have no spread in it."""

    name = "first"

    def score(self, completions: Any) -> list[float]:
        return [float(x.text[:1].lower() in tuple("aeioust")) for x in completions]


class PoisonLoss(Callback):
    """Makes the loss of one rank NaN in one optimizer step, or from that step on."""

    def __init__(self, step: int, rank: int, from_then_on: bool = False) -> None:
        self.step, self.rank, self.from_then_on = step, rank, from_then_on

    def on_train_start(self, trainer: Any, module: Any) -> None:
        share = module.share_of_step

        def poisoned(loss: torch.Tensor) -> torch.Tensor:
            now = trainer.global_step
            hit = now == self.step or (self.from_then_on and now > self.step)
            hit = hit and trainer.global_rank == self.rank
            return share(loss * float("nan") if hit else loss)

        module.share_of_step = poisoned


def write_shards(folder: Path, samples: int = SAMPLES, first: int = 0) -> Path:
    """Samples of every combination of streams, in an order that gives most micro-batches several of them."""
    with ShardWriter(folder, samples_per_shard=16, image_format="png") as writer:
        for i in range(first, first + samples):
            sample = make_sample(KINDS[i % len(KINDS)], i, audio_seconds=0.3 + 0.1 * (i % 3))
            assert sample.clip is not None
            if sample.clip.is_image:
                sample = replace(sample, clip=replace(sample.clip, timestamps=(0.0,)))
            writer.write(sample)
    return folder


@dataclass
class Assets:
    """Files that all runs share."""

    student: Path
    shards: Path
    val: Path


def make_assets(folder: Path) -> Assets:
    shards, val = write_shards(folder / "shards"), write_shards(folder / "val", first=SAMPLES)
    return Assets(save_student(folder / "student"), shards, val)


@dataclass
class Run:
    """One run's settings; `start` runs it.

    Args:
        task: ``sft`` or ``grpo``.
        strategy: ``plain`` (single device or DDP) or ``deepspeed``.
        overrides: dotted config keys that override the rest.
        refused: the run must end with a ValueError; its message is then in `refusal`.
    """

    folder: Path
    assets: Assets
    task: str = "sft"
    strategy: str = "plain"
    devices: int = 1
    batch_size: int = 1
    accumulate: int = 1
    steps: int = 3
    overrides: dict[str, Any] = field(default_factory=dict)
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    refused: bool = False

    @property
    def refusal(self) -> str:
        return (self.folder / "refusal.txt").read_text()

    def config(self) -> dict[str, Any]:
        strategy: Any = (
            copy.deepcopy(DEEPSPEED) if self.strategy == "deepspeed" else ("ddp" if self.devices > 1 else "auto")
        )
        callbacks = [{"class_path": "tests.distributed.runs.Recorder", "init_args": {"folder": str(self.folder)}}]
        if self.task == "grpo":
            callbacks.append({"class_path": "tests.distributed.runs.RewardByLength"})
        config: dict[str, Any] = {
            "seed_everything": 0,
            "trainer": {
                "accelerator": "cpu",
                "devices": self.devices,
                "strategy": strategy,
                "precision": "32-true",
                "max_steps": self.steps,
                "max_epochs": -1,
                "accumulate_grad_batches": self.accumulate,
                "gradient_clip_val": 0.5,
                "limit_val_batches": 0,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "logger": False,
                "enable_checkpointing": any("Checkpoint" in c["class_path"] for c in self.callbacks),
                "default_root_dir": str(self.folder),
                "callbacks": callbacks + self.callbacks,
            },
            "model": {
                "class_path": f"lightning_modules.{self.task}.{self.task.upper()}Module",
                "init_args": {
                    "student": {
                        "path": str(self.assets.student),
                        "dtype": "float32",
                        "min_pixels": PIXELS,
                        "max_pixels": PIXELS,
                    },
                    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0, "schedule": "cosine", "total_steps": 10},
                },
            },
            "data": {
                "class_path": f"datamodules.{self.task}.{self.task.upper()}DataModule",
                "init_args": {"train": str(self.assets.shards), "batch_size": self.batch_size, "num_workers": 0},
            },
        }
        if self.task == "grpo":
            config["model"]["init_args"] |= {
                "num_generations": 2,
                "sampling": {"max_completion_length": 6},
                "loss": {"beta": 0.05},
            }
        for key, value in self.overrides.items():
            place = config
            *parents, last = key.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return config

    def words(self, *arguments: str) -> list[str]:
        """Arguments of ``python -m avrt``; writes the config."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"run_{self.steps}.yaml"  # a run and its resumption are in one list of jobs
        path.write_text(yaml.safe_dump(self.config(), sort_keys=False))
        return ["fit", "--config", str(path), *arguments]

    def begin(self, server: ForkServer, *arguments: str, **variables: str) -> Program:
        """Start it in processes of its own, with more environment variables."""
        words = [*self.words(*arguments), "--allow-classes", "tests"]
        return server.start("avrt", words, self.folder / "output.txt", MASTER_PORT=str(free_port()), **variables)

    def steps_of(self, rank: int = 0) -> list[dict[str, float]]:
        path = self.folder / f"steps_{rank}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps_of()]

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / "weights.pt", weights_only=True)


@dataclass
class PresetRun(Run):
    """One optimizer step of a shipped preset, with or without an overlay; only sizes and places are changed.

    Args:
        preset, overlay: names of their files.
    """

    preset: str = ""
    overlay: str = ""

    def words(self, *arguments: str) -> list[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        limits = self.folder / "limits.yaml"
        limits.write_text(yaml.safe_dump(self.limits(), sort_keys=False))
        files = [CONFIGS / f"{self.preset}.yaml", CONFIGS / "overlays" / f"{self.overlay}.yaml", limits]
        configs = [word for file in files if file.is_file() for word in ("--config", str(file))]
        return ["fit", *configs, *arguments]

    def limits(self) -> dict[str, Any]:
        callbacks = [{"class_path": "tests.distributed.runs.Recorder", "init_args": {"folder": str(self.folder)}}]
        lengths: dict[str, Any] = {"val_max_completion_length": 4}
        if self.preset.startswith("grpo"):
            lengths["sampling"] = {"max_completion_length": 4}
            callbacks.append({"class_path": "tests.distributed.runs.RewardByLength"})
        train, val = str(self.assets.shards), str(self.assets.val)
        return {
            "trainer": {
                "accelerator": "cpu",
                "devices": self.devices,
                "num_nodes": 1,
                "max_steps": self.steps,
                "enable_progress_bar": False,
                "callbacks+": callbacks,
            },
            "model": {
                "init_args": {
                    "student": {"path": str(self.assets.student), "min_pixels": PIXELS, "max_pixels": PIXELS},
                    **lengths,
                }
            },
            "data": {
                "init_args": {
                    "train": train,
                    "val": val,
                    "val_samples": 4,
                    "val_every_n_steps": self.steps,
                    "num_workers": 0,
                }
            },
        }


def run_all(
    server: ForkServer, runs: Sequence[Run | tuple[Run, Sequence[str]]], processes: int = 1, timeout: float = TIMEOUT
) -> None:
    """Run several in one set of processes, one per rank.

    Args:
        runs: each with the arguments that follow its config, if any.
    """
    pairs = [(r, ()) if isinstance(r, Run) else r for r in runs]
    jobs = []
    for run, arguments in pairs:
        assert run.devices == processes
        _, *words = run.words(*arguments)
        jobs.append(
            {
                "name": run.folder.name,
                "folder": str(run.folder),
                "arguments": words,
                "distributed": processes > 1,
                "refusal": str(run.folder / "refusal.txt") if run.refused else None,
            }
        )
    path = pairs[0][0].folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    places = ranks(processes) if processes > 1 else [{"MASTER_PORT": str(free_port())}]
    programs = [
        server.start("tests.distributed.worker", [str(path)], path.with_name(f"output_{rank}.txt"), **place)
        for rank, place in enumerate(places)
    ]
    wait_for_all(programs, timeout)
    statuses = [program.returncode for program in programs]
    assert not any(statuses), f"exit statuses {statuses}:\n" + "\n-----\n".join(p.output[-5000:] for p in programs)


def ranks(processes: int) -> list[dict[str, str]]:
    """The variables by which a launcher tells processes their places."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    return [common | {"LOCAL_RANK": str(rank)} for rank in range(processes)]


def free_port() -> int:
    """A port that stays free until it is used: systems give connections without a port of their own higher ones."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port


def wait_for_all(programs: Sequence[Program], timeout: float) -> None:
    """Until all have ended; when one fails or time is over, the others are killed."""
    deadline = time.monotonic() + timeout
    while any(program.poll() is None for program in programs) and time.monotonic() < deadline:
        if any(program.poll() for program in programs):
            time.sleep(3)  # let the others report their errors
            break
        time.sleep(0.05)
    for program in programs:
        if program.poll() is None:
            program.kill()
            program.wait(10)
