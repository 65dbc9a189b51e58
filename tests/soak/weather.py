"""The surroundings of a run that a round disturbs: the clock, the disk, and the times of files."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAY = 86_400

SOURCE = Path(__file__).with_name("clock.c")


def build_clock_library(folder: Path) -> Path | None:
    """The library that moves a process's clock, compiled; None without a C compiler."""
    library = folder / "clock.so"
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


class Clock:
    """The wall clock that a round's processes see. It can jump while they run; the monotonic clock never does.

    Args:
        file: holds the seconds by which the clock is wrong; the processes read it at every call.
        library: see `build_clock_library`. Without it only the times of files jump (`shuffle_times`).
        rng: draws the jumps.
    """

    def __init__(self, file: Path, library: Path | None, rng: random.Random) -> None:
        self.library = library
        self._rng = rng
        self._file = file
        file.write_bytes(bytes(8))
        self.jump()

    def jump(self) -> None:
        """Set the clock up to three years back or ahead."""
        seconds = self._rng.choice((-1, 1)) * self._rng.choice((30, 3_600, DAY, 40 * DAY, 1_000 * DAY))
        descriptor = os.open(self._file, os.O_WRONLY)
        try:
            os.pwrite(descriptor, seconds.to_bytes(8, "little", signed=True), 0)
        finally:
            os.close(descriptor)

    def variables(self) -> dict[str, str]:
        """Environment of the processes."""
        if self.library is None:
            return {}
        return {"LD_PRELOAD": str(self.library), "AVRT_SOAK_CLOCK": str(self._file)}


def shuffle_times(folder: Path, rng: random.Random) -> int:
    """Give all files times of the past or the future, as copies and other machines' clocks do; returns how many."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        moment = time.time() + rng.uniform(-1_000, 1_000) * DAY
        os.utime(path, (moment, moment))
    return len(files)


class SmallDisk:
    """A mounted tmpfs of few bytes, which can be filled up.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, left: int) -> None:
        """Leave `left` bytes free."""
        free = shutil.disk_usage(self.folder).free
        with self._filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), max(1, free - left))

    def empty(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk | None]:
    """A disk of `size` bytes at `folder` during a block; None where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "avrt-soak", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
