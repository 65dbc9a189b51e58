"""A process that has everything imported and forks one trace run per line of its input, so that many can be killed.

Input: ``shards root url seconds``: SIGKILL reaches the run after so many seconds, ``never`` lets it live. Output: its
exit status as `os.waitstatus_to_exitcode` tells it (-9 if it was killed), and how many seconds it lived.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from avrt.traces.pipeline import run_traces
from tests.traces.question_set import make_config


def main() -> None:
    for line in sys.stdin:
        shards, root, url, seconds = line.split()
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run_traces(make_config(Path(shards), Path(root), url))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        ended = status = 0
        while seconds != "never" and time.monotonic() - begin < float(seconds):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.002)
        if not ended:
            if seconds != "never":
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), time.monotonic() - begin, flush=True)


if __name__ == "__main__":
    main()
