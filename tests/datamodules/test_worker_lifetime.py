"""Data workers live as long as the run: signals of a scheduler do not end them, the end of their parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from datamodules.streaming import ItemReader
from datamodules.workers import PREEMPTION_SIGNALS, read_batches
from tests.programs import REPOSITORY, environment


class Numbers(ItemReader[int]):
    def __getitem__(self, index: Any) -> int:
        return index


def test_signals_of_a_scheduler_are_ignored() -> None:
    """By the kernel: no handler runs and no timer starts, so it does not matter how long the run still takes."""
    others = multiprocessing.active_children()
    batches = [[i] for i in range(90)]
    stream = read_batches(Numbers(), batches, 2)
    found = [next(stream), next(stream)]  # both workers have begun
    workers = [child.pid for child in multiprocessing.active_children() if child not in others]
    assert len(workers) == 2
    for pid in workers:
        assert pid is not None
        (line,) = [s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith("SigIgn")]
        ignored = int(line.split()[1], 16)
        for number in PREEMPTION_SIGNALS:
            assert ignored >> (number - 1) & 1, f"{number.name} is not ignored"
            os.kill(pid, number)
    assert found + list(stream) == batches


PROGRAM = """
import multiprocessing, os, sys, time
from datamodules.streaming import ItemReader
from datamodules.workers import read_batches

class Items(ItemReader):
    def __getitem__(self, index):
        if index > 5:
            time.sleep(10_000)  # a read from a network disk that does not answer
        return index

def consume():
    for batch in read_batches(Items(), [[i] for i in range(90)], 2):
        if batch == [5]:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            if sys.argv[1] == "killed":
                time.sleep(10_000)
            raise ValueError("step 5 is damaged")

try:
    consume()
except ValueError as error:
    kept = error  # its traceback has the iterator
    sys.exit(3)
"""


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("end", ["killed", "error"])
def test_no_worker_outlives_its_parent(end: str) -> None:
    """Not even one that is busy: torch's own check comes between two items."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, end], cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    workers = [int(word) for word in program.stdout.readline().split()]
    assert len(workers) == 2
    assert end == "error" or all(map(alive, workers))
    if end == "killed":
        os.kill(program.pid, signal.SIGKILL)
    try:
        assert program.wait(60) == (3 if end == "error" else -signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, workers))
    finally:
        for pid in filter(alive, (program.pid, *workers)):
            os.kill(pid, signal.SIGKILL)
        program.stdout.close()
