"""The report: everything that was done to the runs, everything that was compared, and every problem."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from avrt.files.atomic import write_atomic


class Problem(Exception):
    """A result that should not be: a loss, a difference, a hang, an error without its line."""


class Tally:
    """Counts of one soak, written to `path` after every event, and read from there when the soak is started again.

    Args:
        path: the JSON report.
        facts: what the soak ran with; a report with another seed is refused.

    Raises:
        ValueError: the folder holds the report of another seed.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._began = time.monotonic()
        before = json.loads(path.read_text()) if path.exists() else {}
        if before and before["facts"]["seed"] != facts["seed"]:
            raise ValueError(f"{path} is the report of seed {before['facts']['seed']}; take another folder")
        self.facts = facts
        self.problems: list[dict[str, Any]] = before.get("problems", [])
        self._seconds = before.get("seconds", 0.0)
        self._counts = {part: Counter(before.get(part, {}).get("counts", {})) for part in ("grpo", "traces")}
        self._faults = {part: Counter(before.get(part, {}).get("by_fault", {})) for part in ("grpo", "traces")}

    def add(self, part: str, **counts: int) -> None:
        with self._lock:
            self._counts[part].update(counts)
            self._write()

    def fault(self, part: str, name: str) -> None:
        with self._lock:
            self._faults[part][name] += 1
            self._write()

    def problem(self, part: str, round: int, folder: Path, text: str) -> None:
        with self._lock:
            self.problems.append({"part": part, "round": round, "folder": str(folder), "problem": text})
            self._write()
        print(f"{part} round {round}: PROBLEM: {text}\n  kept: {folder}", flush=True)

    def rounds(self, part: str) -> int:
        """Rounds that were compared or failed, those of an earlier start included."""
        with self._lock:
            return self._counts[part]["rounds"]

    def report(self) -> dict[str, Any]:
        parts = {
            part: {"counts": dict(sorted(self._counts[part].items())), "by_fault": dict(sorted(faults.items()))}
            for part, faults in self._faults.items()
        }
        seconds = round(self._seconds + time.monotonic() - self._began, 1)
        return {"facts": self.facts, "seconds": seconds, **parts, "problems": self.problems}

    def _write(self) -> None:
        write_atomic(self._path, (json.dumps(self.report(), indent=1) + "\n").encode())
