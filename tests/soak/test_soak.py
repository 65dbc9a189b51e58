"""Ten minutes of the soak, and tests of its own instruments: each must notice what it is there for."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from avrt.data.shards import ShardSet
from tests.lightning_modules.training import write_shards
from tests.soak.__main__ import soak
from tests.soak.comparison import differences, lost_and_twice, replaced_places
from tests.soak.damage import damaged_copy
from tests.soak.recorder import read_history
from tests.soak.tally import Problem, Tally
from tests.soak.weather import Clock, build_clock_library, small_disk


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_minutes(tmp_path: Path) -> None:
    report = soak(tmp_path / "soak", minutes=10, seed=int(time.time())).report()
    print(json.dumps(report, indent=1))
    assert not report["problems"], report["problems"]
    grpo, traces = report["grpo"]["counts"], report["traces"]["counts"]
    assert grpo["rounds"] >= 1
    assert traces["rounds"] >= 1
    assert grpo["restarts"] >= 1
    assert traces["restarts"] >= 1
    for name in ("weights_equal", "optimizer_equal", "checkpoints_equal", "order_equal", "exports_equal"):
        assert grpo[name] == grpo["rounds"], name
    assert traces["shards_equal"] == traces["rounds"]
    for counts in (grpo, traces):
        assert counts["samples_lost"] == counts["samples_twice"] == 0


def test_one_changed_bit_is_a_difference() -> None:
    ours = {"weights": {"a": torch.zeros(3), "b": torch.tensor([0.0, -0.0])}, "steps": [1, 2]}
    theirs = {"weights": {"a": torch.zeros(3), "b": torch.tensor([0.0, 0.0])}, "steps": [1, 2]}
    assert differences(ours, ours) == []
    assert differences(ours, theirs) == [".weights.b"]
    assert differences(ours, {**ours, "steps": [1, 3]}) == [".steps.1"]
    assert differences(ours, {**ours, "more": 1}) == [".more"]


def write_steps(folder: Path, *starts: list[dict[str, object]]) -> Path:
    folder.mkdir()
    for number, lines in enumerate(starts):
        (folder / f"{number:03d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def step(number: int, *ids: str) -> dict[str, object]:
    return {"step": number, "ids": list(ids)}


def test_history_of_a_run_that_was_killed_and_resumed(tmp_path: Path) -> None:
    first: list[dict[str, object]] = [{"resumed_at": 0}, step(1, "a"), step(2, "b"), step(3, "c")]
    history = read_history(write_steps(tmp_path / "same", first, [{"resumed_at": 2}, step(3, "c"), step(4, "d")]))
    assert [history.steps[n]["ids"] for n in (1, 2, 3, 4)] == [["a"], ["b"], ["c"], ["d"]]
    assert (history.repeated, history.changed) == (1, [])
    history = read_history(write_steps(tmp_path / "other", first, [{"resumed_at": 2}, step(3, "x")]))
    assert history.changed == [3]
    with pytest.raises(Problem, match="resumed at step 5"):
        read_history(write_steps(tmp_path / "gap", first, [{"resumed_at": 5}]))


def test_lost_doubled_and_replaced_samples() -> None:
    assert lost_and_twice([["a", "b"], ["c", "d"], ["a"]], 4) == (0, 0)
    assert lost_and_twice([["a", "b"], ["b", "d"], ["a"]], 4) == (1, 1)
    assert replaced_places([["a", "b"], ["c", "d"]], [["a", "x"], ["c"]]) == ({"b": 1, "d": 1}, [2])


def test_damage_hits_the_samples_that_it_names(tmp_path: Path) -> None:
    """Reading each sample of a damaged copy fails for the named ones and for no other."""
    source = write_shards(tmp_path / "whole", 40)
    for seed in range(3):
        damage = damaged_copy(source, tmp_path / f"damaged-{seed}", random.Random(seed))
        shards = ShardSet(tmp_path / f"damaged-{seed}", on_error="defer")
        bad = set()
        for number, key in enumerate(shards.keys):
            try:
                shards[number]
            except ValueError:
                bad.add(key)
        assert bad == damage.keys, damage.done


def test_clock_jumps_while_a_process_runs(tmp_path: Path) -> None:
    library = build_clock_library(tmp_path)
    if library is None:
        pytest.skip("needs a C compiler")
    clock = Clock(tmp_path / "clock", library, random.Random(3))
    code = "import time\nwhile True:\n print(time.time(), time.monotonic(), flush=True)\n if not input(): break\n"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **clock.variables()},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        wall, steady = [], []
        for _ in range(3):
            one, other = map(float, process.stdout.readline().split())
            wall.append(one - time.time())
            steady.append(other - time.monotonic())
            clock.jump()
            process.stdin.write("again\n")
            process.stdin.flush()
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
    assert all(abs(offset) > 20 for offset in wall)
    assert len({round(offset) for offset in wall}) > 1
    assert all(abs(offset) < 5 for offset in steady)


def test_a_full_disk_refuses_writes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2**20) as disk:
        if disk is None:
            pytest.skip("needs the right to mount a tmpfs")
        disk.fill(left=4096)
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "file").write_bytes(bytes(100_000))
        (disk.folder / "file").unlink()
        disk.empty()
        (disk.folder / "file").write_bytes(bytes(100_000))
    assert not any((tmp_path / "disk").iterdir())


def test_the_report_survives_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        tally = Tally(tmp_path / "report.json", {"seed": 1})
        tally.add("grpo", kills=2, rounds=1)
        tally.fault("grpo", "kill")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["grpo"] == {"counts": {"kills": 4, "rounds": 2}, "by_fault": {"kill": 2}}
    assert tally.rounds("grpo") == 2
    with pytest.raises(ValueError, match="seed 1"):
        Tally(tmp_path / "report.json", {"seed": 2})
    shutil.rmtree(tmp_path)
