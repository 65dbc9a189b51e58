"""One reader on many inputs, in a process of its own: ``python -m tests.fuzz.worker TARGET COUNT SEED FOLDER``.

Memory is limited by the system, and an input that takes too long ends the process, also inside compiled code. The input
that is being read is always in ``FOLDER/input``.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, check_one_line

SECONDS = 60
"""Time for one input on a busy machine."""


def main(name: str, count: int, first_seed: int, folder: Path) -> None:
    """Read the inputs and print what came out as one JSON line.

    Raises:
        Exception: the first one that the target may not raise.
    """
    logging.disable(logging.CRITICAL)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    target = TARGETS[name](folder / "files")
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    inputs = target.inputs()
    resource.setrlimit(resource.RLIMIT_AS, (target.memory, target.memory))

    @seed(first_seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def read_all(data: bytes) -> None:
        nonlocal slowest
        (folder / "input").write_bytes(data)
        signal.alarm(SECONDS)
        begin = time.monotonic()
        try:
            outcomes[target.read(data)] += 1
        except target.errors as error:
            check_one_line(error)
            outcomes[str(getattr(error, "reason", type(error).__name__))] += 1
        finally:
            signal.alarm(0)
            slowest = max(slowest, time.monotonic() - begin)

    begin = time.monotonic()
    read_all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    report = {"inputs": outcomes.total(), "seconds": round(time.monotonic() - begin, 1), "slowest": round(slowest, 2)}
    print(json.dumps(report | {"peak_mb": peak, "outcomes": dict(outcomes.most_common())}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
