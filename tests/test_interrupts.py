"""Ctrl-C in the first seconds: one line, status 130, and no process or half file is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avrt.interrupts import is_interrupted_import
from tests.programs import REPOSITORY, environment

FORK_SERVER = "multiprocessing.forkserver"


def processes(group: int) -> dict[int, str]:
    """The processes of a group that run, with their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def interrupt(words: list[str], wait: float, until: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Start a command as a terminal does, press Ctrl-C, and return the result.

    Args:
        words: after ``python -m avrt``.
        wait: seconds before Ctrl-C.
        until: Ctrl-C comes `wait` seconds after a process with this in its command line has started.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "avrt", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=cwd,
        start_new_session=True,
        # A shell starts background jobs with Ctrl-C ignored, and so would run these tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while until and not any(until in words for words in processes(process.pid).values()):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    deadline = time.monotonic() + 5
    while (left := processes(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.parametrize(
    ("wait", "until"),
    [(0.2, ""), (0.0, FORK_SERVER), (0.3, FORK_SERVER), (1.0, FORK_SERVER)],
)
def test_pack(real_data: Path, tmp_path: Path, wait: float, until: str) -> None:
    """At the start, and while the fork server starts and imports its libraries."""
    out = tmp_path / "out"
    videos = real_data / "avqa"
    words = ["pack", "--annotations", str(videos / "val_qa.json"), "--videos", str(videos / "videos")]
    done = interrupt([*words, "--out", str(out), "--workers", "2"], wait, until)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines() == ["avrt: error: interrupted"]
    assert not [path for path in out.rglob("*") if path.suffix in (".partial", ".tar") or "lock" in path.name]


@pytest.mark.parametrize("wait", [0.5, 3.0])
def test_demo_s_own_commands(tmp_path: Path, wait: float) -> None:
    """The command that runs others reports it once."""
    done = interrupt(["demo", "--out", str(tmp_path / "demo")], wait)
    assert done.returncode in (130, -signal.SIGINT), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("avrt: ")]
    assert lines == ["avrt: error: interrupted"] or done.returncode < 0
    assert "Traceback" not in done.stderr or done.returncode < 0


MODULE = """
import os, signal, time

try:
    {ctrl_c}
    time.sleep(10)
except KeyboardInterrupt:
    raise {error}("expected a message argument") from None
"""

RUN = """
import sys
from avrt import cli
from avrt.__main__ import run

cli.COMMANDS["own"] = ("own_command", "")
sys.exit(run())
"""


CALLER = """
def add_arguments(parser):
    pass

def run(args):
    try:
        import own_module
    except ImportError as error:
        failed = error
    raise ValueError("own_module cannot be imported") from failed
"""


def run_own_command(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", RUN, "own"],
        env=environment() | {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("error", ["TypeError", "ValueError", "ImportError"])
@pytest.mark.parametrize("with_ctrl_c", [True, False])
def test_an_import_that_replaces_the_interrupt(tmp_path: Path, error: str, with_ctrl_c: bool) -> None:
    """As compiled modules do (`_ssl`: "TypeError: expected a message argument")."""
    ctrl_c = "os.kill(os.getpid(), signal.SIGINT)" if with_ctrl_c else "raise KeyboardInterrupt"
    (tmp_path / "own_command.py").write_text(MODULE.format(ctrl_c=ctrl_c, error=error))
    done = run_own_command(tmp_path)
    if with_ctrl_c:
        assert (done.returncode, done.stderr) == (130, "avrt: error: interrupted\n")
    else:
        assert done.returncode == 1
        assert "expected a message argument" in done.stderr


def test_an_error_about_such_an_import(tmp_path: Path) -> None:
    """As of a class path that cannot be imported."""
    text = MODULE.format(ctrl_c="os.kill(os.getpid(), signal.SIGINT)", error="ImportError")
    (tmp_path / "own_module.py").write_text(text)
    (tmp_path / "own_command.py").write_text(CALLER)
    done = run_own_command(tmp_path)
    assert (done.returncode, done.stderr) == (130, "avrt: error: interrupted\n")


def test_the_handler_stays_pythons_own(tmp_path: Path) -> None:
    """With another one, asyncio would cancel the writer of the ledger with everything else, and records were lost."""
    (tmp_path / "own_command.py").write_text(
        "import signal\n\ndef add_arguments(parser):\n    pass\n\n"
        "def run(args):\n    return 0 if signal.getsignal(signal.SIGINT) is signal.default_int_handler else 3\n"
    )
    done = run_own_command(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_chain_of_errors_that_leads_back_to_itself() -> None:
    first, second = ValueError("one"), TypeError("other")
    first.__context__, second.__context__ = second, first
    assert not is_interrupted_import(first)
