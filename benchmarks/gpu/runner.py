"""Runs parts one after another, each in a process of its own with a deadline, and keeps ``gpu.json`` up to date."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Part

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = 1

MINIATURE_LIMIT = 4
"""A part may take so many times as long on the CPU of a busy machine, most of it for imports."""

KILLED = "killed after"

EXTENSIONS = Path(tempfile.gettempdir()) / f"avrt-benchmark-extensions-{os.getuid()}"
"""Where DeepSpeed compiles its optimizer, unless ``TORCH_EXTENSIONS_DIR`` says otherwise. Not in the user's own cache:
a part that is killed while it compiles leaves a lock there, for which every later run would wait."""

Result = dict[str, Any]


def run_parts(
    parts: Sequence[Part],
    shape: str,
    budget: float,
    output: Path,
    result: Result,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Run parts and add them to `result`, which is written to `output` after each.

    Args:
        shape: ``full`` or ``miniature``.
        budget: seconds for all parts together; those that do not fit are skipped.
        tell: prints a line of progress.
    """
    end = time.monotonic() + budget
    for part in parts:
        left = end - time.monotonic()
        if left < part.least:
            outcome: Result = {"status": "skipped", "reason": "out of time", "seconds": 0.0, "rows": []}
        else:
            tell(f"{part.name} …")
            limit = part.limit * (1 if shape == "full" else MINIATURE_LIMIT)
            outcome = run_part(part, shape, min(limit, left))
            if left < limit and outcome.get("reason", "").startswith(KILLED):
                outcome |= {"status": "skipped", "reason": f"out of time after {left:.0f} s"}
        add(result, part.name, outcome)
        write_json(output, result)
        tell(f"{part.name}: {outcome['status']} in {outcome['seconds']:.0f} s{_reason(outcome)}")


def _reason(outcome: Result) -> str:
    return f" ({outcome['reason']})" if "reason" in outcome else ""


def add(result: Result, name: str, outcome: Result) -> None:
    """Add a part's outcome; measured properties of the machine go to `hardware`, the last measurement counts."""
    rows = []
    for row in outcome["rows"]:
        row = dict(row)
        result["hardware"].update(row.pop("hardware", {}))
        result["device"].update(row.pop("device", {}))
        if row:
            rows.append(row)
    result["parts"][name] = {**outcome, "rows": rows}


def run_part(part: Part, shape: str, seconds: float) -> Result:
    """Run one part for at most so many seconds: its status, reason, seconds and rows."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines, log = Path(folder, "rows"), Path(folder, "log")
        command = [sys.executable, "-m", "benchmarks.gpu.child", part.module, json.dumps(dict(part.arguments))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))}
        # Nothing is ever looked up on the hub: there are no weights.
        environment.setdefault("TORCH_EXTENSIONS_DIR", str(EXTENSIONS))
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TMPDIR": folder}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, shape, str(lines)],
                cwd=folder,  # what libraries write beside the program is removed with it
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its own processes, such as compilers, are killed with it
            )
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill_group(process)
        for stale in EXTENSIONS.rglob("lock") if code is None else ():
            stale.unlink(missing_ok=True)
        status, rows = _read(lines)
        if code is None:
            status = {"status": "failed", "reason": f"{KILLED} {seconds:.0f} s"}
        elif status is None:
            text = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            status = {"status": "failed", "reason": f"{how}: {text[-1] if text else 'no output'}"}
        if status["status"] == "failed":
            sys.stderr.write(_tail(log, part.name))
    return {**status, "seconds": round(time.monotonic() - start, 2), "rows": rows}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a part and the processes it has started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _read(lines: Path) -> tuple[Result | None, list[Result]]:
    """Status (None if the process died before it) and rows; the last line may be truncated."""
    status, rows = None, []
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if "row" in entry:
            rows.append(entry["row"])
        else:
            status = entry
    return status, rows


def _tail(log: Path, name: str, count: int = 12) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-count:]
    return "".join(f"  {name} | {line}\n" for line in lines)


def write_json(path: Path, result: Result) -> None:
    """Write the file in one step: a reader sees the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
