"""Data and students of the demo's configs, built on first use and cached.

Everything is in one cache folder, whose name changes with the settings, so that an upgrade never uses old data:

    clips/                  videos/*.mp4, train_qa.json, val_qa.json
    shards/train, shards/val
    traces/train            the training shards with traces; traces/ledger holds every call behind them
    student/                a tiny model that can read questions, with a small tokenizer
    sft/                    the same after cli_configs/sft_tiny.yaml; curves and checkpoints are in sft_run/

Several processes may need a part at once (the ranks of `torchrun`): one builds, the others wait. Each part gets its
final name only when it is complete, and the next process that needs it continues a build that was killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from avrt.demo import stages
from avrt.demo.build import build_demo_clips
from avrt.demo.settings import DemoSettings
from avrt.demo.trace_run import demo_server, traces_command
from avrt.files.cache_root import cache_root
from avrt.files.folder_lock import LOCK_NAME, FolderLock
from avrt.interrupts import INTERRUPTED
from avrt.servers.local_server import free_port

PARTS = {
    "shards/train": "manifest.json",
    "shards/val": "manifest.json",
    "traces/train": "manifest.json",
    "student": "config.json",
    "sft": "config.json",
}
"""Parts that a ``demo:`` path can name, with the file whose presence means that the part is complete."""

CLEAN_UP_SECONDS = 20.0
"""Time for a command to end after Ctrl-C before it is killed."""

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "SLURM_", "OMPI_", "PMI_")
"""Environment variables by which launchers mark a process as one of several."""


def cache_folder(settings: DemoSettings) -> Path:
    """The demo's cache: ``demo-<version>`` in the folder ``AVRT_CACHE``.

    Raises:
        ValueError: there is no home folder for it.
    """
    return cache_root() / f"demo-{settings.version}"


class DemoCache:
    """Folders of the demo's parts; missing ones are built.

    Args:
        settings: size and randomness of the demo.
        folder: the cache; None takes `cache_folder`.
    """

    def __init__(self, settings: DemoSettings | None = None, folder: Path | None = None) -> None:
        self.settings = settings or DemoSettings()
        self.folder = folder or cache_folder(self.settings)
        self._console = Console(stderr=True)

    def get(self, part: str) -> Path:
        """The folder of a part, one of `PARTS`; it is built first if need be.

        Raises:
            ValueError: there is no such part, or it cannot be built.
            OSError: the cache cannot be written.
        """
        path = self.path(part)
        if not self._is_complete(part):
            with self._lock(part):
                if not self._is_complete(part):  # nobody has built it while we waited
                    self._build(part, path)
        return path

    def path(self, part: str) -> Path:
        """Where a part is, or will be once it is built.

        Raises:
            ValueError: there is no such part.
        """
        if part not in PARTS:
            known = ", ".join(f"demo:{name}" for name in PARTS)
            raise ValueError(f"there is no 'demo:{part}'; the demo has {known}")
        return self.folder / part

    def _is_complete(self, part: str) -> bool:
        return (self.folder / part / PARTS[part]).is_file()

    def _build(self, part: str, path: Path) -> None:
        if part == "student":
            self._print(f"building a tiny student that can read, which takes about half a minute: {path}")
            from avrt.demo.student import build_student  # needs torch, which the other parts do without

            build_student(path, seed=self.settings.seed, reading_steps=self.settings.reading_steps)
        elif part == "sft":
            self._fine_tune(path)
        elif part == "traces/train":
            self._write_traces(path)
        else:
            self._pack(path.name, path)

    def _pack(self, split: str, path: Path) -> None:
        s = self.settings
        clips = self.folder / "clips"
        with self._lock("clips"):
            self._print(f"rendering {s.train_clips + s.val_clips} short clips: {clips}")
            files = build_demo_clips(clips, **s.clip_settings())
        self._run(stages.pack_command(files, split, path), "packing clips and questions into shards")

    def _write_traces(self, path: Path) -> None:
        shards, port = self.get("shards/train"), free_port()
        command = traces_command(shards, path.parent / "ledger", path.parent, port=port)
        with demo_server(port):
            self._run(command, "writing traces with the demo's teachers and merger")

    def _fine_tune(self, path: Path) -> None:
        """Run sft_tiny.yaml; the student that it exports is the SFT student."""
        run = self.folder / "sft_run"
        command = stages.fit_command(
            "sft_tiny.yaml",
            train=self.get("traces/train"),
            val=self.get("shards/val"),
            student=self.get("student"),
            out=run,
            steps=self.settings.sft_steps,
            seed=self.settings.seed,
        )
        if run.exists():
            shutil.rmtree(run)  # of a build that was killed
        self._run(command, "fine-tuning the tiny student on the traces, which takes a few minutes")
        (run / "student").rename(path)

    def _run(self, arguments: list[str], purpose: str) -> None:
        """Run an avrt command in a process of its own, which leaves this one's random state alone."""
        self._print(f"{purpose}:\n  python -m avrt {shlex.join(arguments)}")
        environment = {
            name: value
            for name, value in os.environ.items()
            # Under torchrun this is one of several processes; the command is not.
            if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
        }
        words = [sys.executable, "-m", "avrt", *arguments]
        status = _run_to_the_end(words, environment)
        if status == INTERRUPTED:
            raise SystemExit(INTERRUPTED)  # the command has reported it
        if status:
            raise ValueError(f"building the demo failed: `avrt {arguments[0]}` ended with status {status}, see above")

    def _lock(self, part: str) -> FolderLock:
        """Let one process at a time build a part; the others wait."""
        return FolderLock(self.folder, f"demo:{part}", name=f".{part.replace('/', '-')}{LOCK_NAME}", wait=self._print)

    def _print(self, text: str) -> None:
        self._console.print(f"demo: {text}", highlight=False, markup=False, soft_wrap=True)


def _run_to_the_end(words: list[str], environment: Mapping[str, str]) -> int:
    """Run a command; on Ctrl-C, which reaches it too, give it time to clean up."""
    process = subprocess.Popen(words, env=environment)  # noqa: S603
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            if process.wait(CLEAN_UP_SECONDS) == INTERRUPTED:
                return INTERRUPTED
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
