"""The soak: ``python -m tests.soak --minutes 120 --seed 0 --folder /tmp/soak``.

Runs a GRPO run and a trace run as a user does, at the same time, again and again, and disturbs both: see
`tests.soak.grpo_rounds` and `tests.soak.trace_rounds`. A round that was begun is finished. The report is
``report.json`` in the folder; a soak that is started again with the same folder adds to it. The exit status is 1 if
there was a problem; the folders of its rounds are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.soak.grpo_rounds import GrpoRounds, remove_mounts
from tests.soak.grpo_runs import build_demo
from tests.soak.processes import end_all
from tests.soak.tally import Problem, Tally
from tests.soak.trace_rounds import TraceRounds
from tests.soak.weather import build_clock_library

PARTS = ("grpo", "traces")


def soak(folder: Path, minutes: float, seed: int, parts: Sequence[str] = PARTS) -> Tally:
    """Run the soak.

    Args:
        folder: new, or of an earlier soak with this seed.
        minutes: time for the preparation and the rounds; each part has at least one round.
        parts: which runs to disturb.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_mounts(folder)
    library = build_clock_library(folder)
    clock = "preloaded clock.c, and file times" if library else "file times only: no C compiler"
    tally = Tally(folder / "report.json", {"seed": seed, "minutes": minutes, "clock": clock})
    stop = time.monotonic() + 60 * minutes
    variables = {
        "AVRT_CACHE": str(folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }

    def repeat(part: str, make: Callable[[], GrpoRounds | TraceRounds]) -> None:
        number = tally.rounds(part)
        try:
            rounds = make()
            while True:
                rounds.run_round(number)
                print(f"{part}: round {number} done", flush=True)
                number += 1
                if time.monotonic() > stop:
                    return
        except Problem as problem:
            tally.problem(part, number, folder, str(problem))
        except BaseException as error:
            tally.problem(part, number, folder, f"the soak itself failed: {error!r}")
            raise

    def grpo() -> GrpoRounds:
        return GrpoRounds(folder, build_demo(folder / "demo", variables), seed, tally, library, variables)

    def traces() -> TraceRounds:
        return TraceRounds(folder, seed, tally, library, variables)

    makers: dict[str, Callable[[], GrpoRounds | TraceRounds]] = {"grpo": grpo, "traces": traces}
    threads = [threading.Thread(target=repeat, args=(part, makers[part]), name=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _stop(number: int, frame: object) -> None:
    """Leave no run behind; the rounds that were running begin again with the next soak in this folder."""
    end_all()
    os._exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="disturb only this run")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    tally = soak(args.folder.absolute(), args.minutes, args.seed, args.part or PARTS)
    report = tally.report()
    print(json.dumps(report, indent=1))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
