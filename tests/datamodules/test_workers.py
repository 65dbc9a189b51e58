"""Data workers: all of them read every batch, and what can happen to these processes is one line for the run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

from datamodules.streaming import ItemReader
from datamodules.workers import DataWorkerError, read_batches
from tests.programs import REPOSITORY, environment
from tests.small_shared_memory import with_shared_memory
from tests.tiny_student import make_sample


class Items(ItemReader[Any]):
    """Tensors of one size, with the number of the worker that made each."""

    def __init__(self, size: int = 10) -> None:
        self.size = size

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        info = get_worker_info()
        return (-1 if info is None else info.id), torch.full((self.size,), index, dtype=torch.uint8)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_of_any_size_in_order(workers: int) -> None:
    batches: list[list[int]] = [[5, 4, 3, 2, 1], [], [7], [8, 9, 10, 11], []]
    found = [[int(tensor[0]) for _, tensor in batch] for batch in read_batches(Items(), batches, workers)]
    assert found == batches


def test_no_batches_at_all() -> None:
    assert list(read_batches(Items(), [], 1)) == []
    assert list(read_batches(Items(), [[]], 1)) == [[]]


def test_all_workers_share_a_batch() -> None:
    batch = next(read_batches(Items(), [list(range(8)), list(range(8))], 2))
    assert [worker for worker, _ in batch] == [0] * 4 + [1] * 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_one_line(number: int) -> None:
    """The main thread gets the error wherever it is when the worker dies: here it waits for something else."""
    others = multiprocessing.active_children()
    stream = read_batches(Items(), [[i] for i in range(90)], 1)
    next(stream)

    def kill() -> None:
        (worker,) = (child for child in multiprocessing.active_children() if child not in others)
        assert worker.pid is not None
        os.kill(worker.pid, number)
        time.sleep(10)
        list(stream)

    with pytest.raises(DataWorkerError, match=r"data worker was killed.*memory.*data\.num_workers.*prefetch") as raised:
        kill()
    assert "\n" not in str(raised.value)


def test_a_worker_killed_while_the_run_waits_for_it() -> None:
    class Killed(Items):
        def __getitem__(self, index: int) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataWorkerError, match=r"data worker was killed.*memory.*data\.num_workers"):
        list(read_batches(Killed(), [[0]], 1))


def test_a_worker_that_leaves_by_itself() -> None:
    class Leaving(Items):
        def __getitem__(self, index: int) -> Any:
            os._exit(3)

    with pytest.raises(DataWorkerError, match=r"data worker (ended with status 3|was killed);.*data\.num_workers"):
        list(read_batches(Leaving(), [[0]], 1))


FAIL = """
import sys
from datamodules.streaming import ItemReader
from datamodules.workers import read_batches

class Items(ItemReader):
    def __getitem__(self, index):
        if sys.argv[1] == "worker" and index == 5:
            raise ValueError("item 5 is damaged")
        return index

def consume():
    for batch in read_batches(Items(), [[i] for i in range(90)], 2):
        if sys.argv[1] == "consumer" and batch == [5]:
            raise ValueError("step 5 is damaged")

try:
    consume()
except ValueError as error:
    kept = error  # its traceback has the iterator
    sys.exit(f"error: {error}")
"""


@pytest.mark.parametrize("where", ["worker", "consumer"])
def test_workers_do_not_outlive_an_error(where: str) -> None:
    """Workers survive the SIGTERM of Python's exit, which then waits for them: this took five minutes."""
    command = [sys.executable, "-c", FAIL, where]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("5 is damaged")


READ = """
import json, sys
import torch
from datamodules.streaming import ItemReader
from datamodules.workers import DataWorkerError, read_batches

class Items(ItemReader):
    def __init__(self, size):
        self.size = size
    def __getitem__(self, index):
        return torch.full((self.size,), index, dtype=torch.uint8)

for size, batch, workers, prefetch in json.loads(sys.argv[1]):
    batches = [list(range(i, i + batch)) for i in range(0, 48, batch)]
    try:
        read = list(read_batches(Items(size), batches, workers, prefetch))
        assert [[int(tensor[0]) for tensor in items] for items in read] == batches
    except DataWorkerError as error:
        print("refused:", error)
    else:
        print("read all")
"""


def read(shared_memory: str, *settings: tuple[int, int, int, int]) -> list[str]:
    """Outcome of reading 48 items of (size, batch size, workers, prefetch)."""
    done = subprocess.run(
        with_shared_memory(shared_memory, [sys.executable, "-c", READ, json.dumps(settings)]),
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_shared_memory_that_is_too_small() -> None:
    """64 MB as in Docker, and items as large as a prompt of 8 large frames with its audio: training and validation."""
    lines = read("64m", (15_000_000, 1, 4, 2), (15_000_000, 8, 4, 2))
    for line, size in zip(lines, (15, 30), strict=True):
        assert line.startswith("refused:")
        assert "/dev/shm has 67 MB" in line
        assert f"{(4 * 2 + 1) * size:,} MB" in line
        assert all(name in line for name in ("--shm-size", "--ipc=host", "data.num_workers", "data.prefetch"))


def test_shared_memory_is_free_again_once_a_part_is_taken() -> None:
    """48 items of 300 kB pass through 1 MB, although the reader keeps them all; 8 at once do not."""
    lines = read("1m", (2_000_000, 1, 1, 1), (300_000, 8, 1, 1), (300_000, 1, 1, 2))
    assert [line.split(":")[0] for line in lines] == ["refused", "refused", "read all"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_run_without_enough_shared_memory(student_folder: Path, tmp_path: Path, stage: str) -> None:
    """One line on stderr, status 1, seconds after the first batch; without workers the same run passes."""
    from avrt.data.writer import ShardWriter

    for name, first in (("train", 0), ("val", 8)):
        with ShardWriter(tmp_path / name) as writer:
            for i in range(first, first + 8):
                writer.write(make_sample("audio_video", i, frames=4, height=112, width=112, audio_seconds=1.0))
    settings: dict[str, Any] = {
        "model.init_args.student.path": student_folder,
        "data.init_args.train": tmp_path / "train",
        "data.init_args.val": tmp_path / "val",
        "data.init_args.batch_size": 4,
        "output_dir": tmp_path / "run",
        "trainer.callbacks": "[]",
        "trainer.enable_progress_bar": "false",
        "trainer.max_steps": 1,
    }
    words = [stage, "--config", str(REPOSITORY / "cli_configs" / "sft_tiny.yaml")]
    for key, value in settings.items():
        words += [f"--{key}", str(value)]

    def run(workers: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "avrt", *words, "--data.init_args.num_workers", str(workers)]
        return subprocess.run(
            with_shared_memory("256k", command),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
        )

    done = run(1)
    assert done.returncode == 1, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("avrt: error:")]
    assert len(lines) == 1
    assert "/dev/shm has 0 MB" in lines[0]
    assert "Traceback" not in done.stderr
    assert run(0).returncode == 0
