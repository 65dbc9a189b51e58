"""Parts that misbehave, for tests of the runner; they import nothing heavy."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import Skipped


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def run(shape: object, device: object, behavior: str, file: str = "") -> Iterator[dict[str, Any]]:
    """One good row, then what `behavior` says."""
    yield {"what": "first", "value": 1}
    if behavior == "raises":
        raise RuntimeError("out of ideas\nsecond line")
    if behavior == "skips":
        raise Skipped("not on Sundays")
    if behavior == "dies":
        print("last words", flush=True)
        os._exit(7)
    if behavior == "lacks a package":
        import package_that_does_not_exist  # type: ignore[import-not-found]  # noqa: F401
    if behavior == "needs TRL":
        raise ModuleNotFoundError("No module named 'trl'", name="trl")
    if behavior == "fills the memory":
        raise OutOfMemoryError("tried to allocate 20 GiB")
    if behavior == "hangs":
        # With a process of its own, as a compiler would be.
        Path(file).write_text(str(subprocess.Popen(["sleep", "600"]).pid), encoding="utf-8")
        time.sleep(600)
    if behavior == "wrong":
        yield {"what": "second", "passes": False}
    if behavior == "hardware":
        yield {"hardware": {"launch_us": 5.0}}
