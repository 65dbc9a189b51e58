"""Runs several training runs one after another in one process, so that the training stack is imported once.

Started by `tests.distributed.runs.run_all`, once per rank, with the variables that a launcher sets.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from avrt.config.class_paths import allowed_prefixes
from lightning_modules.cli import run


def main(jobs: Path) -> int:
    status = 0
    for job in json.loads(jobs.read_text()):
        print(f"=== {job['name']}", flush=True)
        os.chdir(job["folder"])  # presets write to runs/ of the working directory
        try:
            work(job)
        except Exception:  # noqa: BLE001  # a job's failure is printed and counts; the next one runs
            traceback.print_exc()
            status = 1
            if job["distributed"]:  # the other ranks wait in a collective: none of the following jobs could run
                break
    return status


def work(job: dict[str, Any]) -> None:
    words = ("fit", job["arguments"], allowed_prefixes(("tests",)))
    if job["refusal"] is None:
        run(*words)
        return
    try:
        run(*words)
    except ValueError as error:
        Path(job["refusal"]).write_text(str(error))
        return
    raise RuntimeError(f"{job['name']} was not refused")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
