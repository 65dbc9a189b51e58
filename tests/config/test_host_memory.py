"""Free memory as the kernel and control groups of both versions give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.config.host_memory import available_memory

GIB = 2**30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": f"MemTotal: {100 * 2**20} kB\nMemFree: 5 kB\nMemAvailable:   {64 * 2**20} kB\n"}


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 64),
        # Version 2: 48 - (20 - 4 of files that can be dropped).
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": f"{48 * GIB}\n",
                "sys/fs/cgroup/job/step/memory.current": f"{20 * GIB}\n",
                "sys/fs/cgroup/job/step/memory.stat": f"anon 7\ninactive_file {4 * GIB}\n",
            },
            32,
        ),
        # The group above has the smaller limit.
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": f"{20 * GIB}\n",
                "sys/fs/cgroup/job/memory.max": f"{30 * GIB}\n",
                "sys/fs/cgroup/job/memory.current": f"{20 * GIB}\n",
            },
            10,
        ),
        # A container: the path is the host's, its own group is at the top.
        (
            {
                "proc/self/cgroup": "0::/docker/abc\n",
                "sys/fs/cgroup/memory.max": f"{16 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{1 * GIB}\n",
            },
            15,
        ),
        # Version 1.
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/slurm/job\n",
                "sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes": f"{40 * GIB}\n",
                "sys/fs/cgroup/memory/slurm/job/memory.usage_in_bytes": f"{10 * GIB}\n",
                "sys/fs/cgroup/memory/slurm/job/memory.stat": f"total_inactive_file {2 * GIB}\n",
            },
            32,
        ),
        # Version 1 without a limit, and a group that is already above its own.
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{10 * GIB}\n",
            },
            64,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
            },
            0,
        ),
        # More than the machine has.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{999 * GIB}\n",
                "sys/fs/cgroup/memory.current": "0\n",
            },
            64,
        ),
    ],
)
def test_the_smallest_of_machine_and_groups(tmp_path: Path, files: dict[str, str], gib: int) -> None:
    assert available_memory(tree(tmp_path, MACHINE | files)) == gib * GIB


def test_unknown_on_other_systems(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_this_machine() -> None:
    found = available_memory()
    assert found is None or found >= 0
