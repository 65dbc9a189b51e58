"""A process that has imported the training stack and forks programs ``python -m MODULE`` that use it.

The stack takes longer to import than a tiny run takes to train. Each program still has a process, a session, signals,
an environment and an exit status of its own, as if it had been started the usual way. The server computes nothing
itself, so no thread of it can hold a lock at a fork. Started by `tests.programs`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
from pathlib import Path
from typing import Any

PRELOADED = (
    "lightning_modules.cli",
    "lightning_modules.callbacks.checkpoint",
    "lightning_modules.callbacks.preemption",
    "avrt.rewards",
    "datamodules.grpo",
    "datamodules.sft",
    "deepspeed",
    "deepspeed.runtime.zero.muon.original_muon",  # DeepSpeed's first engine imports it; it compiles functions
    "lightning_modules.grpo",
    "lightning_modules.sft",
    "tests.distributed.runs",
)

POLL_SECONDS = 0.02
"""Seconds between two checks for programs that have ended."""


def serve() -> None:
    """Answer each request, a line of JSON, with the process id of the program that it started.

    Returns in the forked children only. When its input ends, the server kills what still runs and ends too.
    """
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # output of an import is not an answer
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # so that the children's garbage collections skip all this
    running: dict[int, Path] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([requests], [], [], POLL_SECONDS if running else None)
        if ready:
            received = os.read(requests, 65536)
            if not received:
                break
            buffer += received
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                os.close(requests)
                os.close(answers)
                become(request)
                return
            running[pid] = Path(request["status"])
            os.write(answers, f"{pid}\n".encode())
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                file = running.pop(pid)
                partial = file.with_name(file.name + ".partial")
                partial.write_text(str(os.waitstatus_to_exitcode(status)))
                partial.replace(file)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Give this process the state of a program that was started normally."""
    # A shell starts background jobs with Ctrl-C ignored, and so would run these programs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    sys.path.insert(0, request["cwd"])  # as `python -m` does
    sys.argv[:] = [request["module"], *request["arguments"]]


if __name__ == "__main__":
    serve()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
