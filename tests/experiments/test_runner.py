"""Stages that run as real processes: skipping, failing, interruption, one stage alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from avrt.experiments.runner import Outcome, StageRunner
from avrt.experiments.slurm import write_script
from avrt.experiments.stages import Stage
from avrt.experiments.state import LOG_FILE, STATE_FILE, is_complete, read_state
from tests.programs import environment

WORKS = ["--version"]
FAILS = ["inspect", "/there/is/no/such/folder"]


def stage(folder: Path, name: str, *commands: list[str], needs: Sequence[str] = ()) -> Stage:
    return Stage("evaluate", name, folder / name, [list(c) for c in commands], list(needs), f"fingerprint of {name}")


def run(*stages: Stage) -> list[Outcome]:
    runner = StageRunner({s.name: s for s in stages}, "", environment())
    return runner.run_all(lambda s: None, lambda o: None)


def test_a_failed_stage_stops_only_those_that_need_it(tmp_path: Path) -> None:
    outcomes = run(
        stage(tmp_path, "first", FAILS),
        stage(tmp_path, "second", WORKS, needs=["first"]),
        stage(tmp_path, "third", WORKS, needs=["second"]),
        stage(tmp_path, "other", WORKS),
    )
    assert [o.status for o in outcomes] == ["failed", "left out", "left out", "complete"]
    assert "/there/is/no/such/folder" in outcomes[0].error, "the command's own last line"
    assert "/there/is/no/such/folder" in (tmp_path / "first" / LOG_FILE).read_text()


def test_a_complete_stage_does_not_run_again_and_a_failed_one_does(tmp_path: Path) -> None:
    stages = [stage(tmp_path, "works", WORKS), stage(tmp_path, "fails", WORKS, FAILS)]
    run(*stages)
    log = (tmp_path / "works" / LOG_FILE).read_text()
    assert [o.status for o in run(*stages)] == ["skipped", "failed"]
    assert (tmp_path / "works" / LOG_FILE).read_text() == log
    assert (tmp_path / "fails" / LOG_FILE).read_text().count("$ python -m avrt inspect") == 2


def test_the_state_of_other_settings_or_a_damaged_one_does_not_count(tmp_path: Path) -> None:
    one = stage(tmp_path, "works", WORKS)
    run(one)
    assert is_complete(one)
    other = stage(tmp_path, "works", WORKS)
    other.fingerprint = "another"
    assert not is_complete(other)
    (one.folder / STATE_FILE).write_text('{"fingerprint"')
    assert read_state(one) is None
    (one.folder / STATE_FILE).write_text(json.dumps({"fingerprint": one.fingerprint, "unknown": 1}))
    assert read_state(one) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_ends_its_stage_and_is_not_complete(number: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from avrt.experiments.runner import StageRunner
from avrt.experiments.stages import Stage
stage = Stage("traces", "waits", Path({str(tmp_path / "waits")!r}), [["demo", "--serve", "--port", "0"]], [], "f")
try:
    outcome = StageRunner({{"waits": stage}}, "").run(stage)
except KeyboardInterrupt:
    sys.exit(130)
print(outcome.status)
sys.exit(outcome.status != "complete")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), start_new_session=True, stdout=subprocess.PIPE
    )
    log = tmp_path / "waits" / LOG_FILE
    deadline = time.monotonic() + 60
    while "serving" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline, "the command did not start"
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as the terminal does
    else:
        process.send_signal(number)
    process.communicate(timeout=60)
    state = json.loads((tmp_path / "waits" / STATE_FILE).read_text())["status"]
    if number == signal.SIGINT:
        # The server's ordinary end is Ctrl-C, with status 0: the stage still counts as interrupted.
        assert (process.returncode, state) == (130, "interrupted")
    else:
        assert process.returncode > 0
        assert state == "interrupted"


def test_the_script_queues_stages_behind_each_other(tmp_path: Path) -> None:
    """A program named sbatch runs each job at once and fails a job whose dependencies it does not know."""
    folder = tmp_path / "bin"
    folder.mkdir()
    sbatch = folder / "sbatch"
    sbatch.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"log = pathlib.Path({str(tmp_path / 'queue')!r})\n"
        "lines = log.read_text().splitlines() if log.exists() else []\n"
        "for word in sys.argv[1:]:\n"
        "    if word.startswith('--dependency=afterok:'):\n"
        "        known = {line.split()[0] for line in lines}\n"
        "        assert set(word.removeprefix('--dependency=afterok:').split(':')) <= known, word\n"
        "number = str(100 + len(lines))\n"
        "log.write_text('\\n'.join([*lines, number + ' ' + ' '.join(sys.argv[1:])]) + '\\n')\n"
        "print(number)\n"
    )
    sbatch.chmod(0o755)
    stages = [
        stage(tmp_path, "one", WORKS),
        stage(tmp_path, "done", WORKS),
        stage(tmp_path, "two", WORKS, needs=["one", "done"]),
    ]
    run(stages[1])
    script = tmp_path / "jobs.sh"
    words = ["experiments", "--config", "a b.yaml"]
    assert write_script(script, stages, words, "--gpus-per-node=4 --time=1:00:00", tmp_path / "logs") == 2
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", str(script)], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "jobs"]
    first, second = (tmp_path / "queue").read_text().splitlines()
    assert "--dependency" not in first
    assert "--dependency=afterok:100" in second
    assert "--gpus-per-node=4" in first
    assert "--wrap=python -m avrt experiments --config 'a b.yaml' --stage two" in second
    assert (tmp_path / "logs").is_dir()
