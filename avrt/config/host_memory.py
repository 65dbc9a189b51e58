"""Memory that this machine, or the container on it, can still give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")

UNLIMITED = 2**62
"""cgroup v1 writes about 2**63 where there is no limit."""


def available_memory(root: Path = ROOT) -> int | None:
    """Bytes that programs can still allocate, or None where the system does not say.

    The kernel's estimate for the machine (`MemAvailable`: free memory and what it would give back), or what is left of
    the limit of this process's control group or of one above it, if that is less: a container or a Slurm job sees the
    machine's memory in `/proc/meminfo`, and is killed at its own limit.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    found = [memory for memory in (_machine(root), *_groups(root)) if memory is not None]
    return min(found) if found else None


def _machine(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _groups(root: Path) -> Iterator[int | None]:
    """What is left in this process's control groups, of version 2 and 1, from its own up to the root."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, place = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            base, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        top = root / base
        folder = top / place.strip("/")
        # In a container the path may be the host's, and the container's own group is mounted at the top.
        for group in (*(f for f in (folder, *folder.parents) if f.is_relative_to(top) and f != top), top):
            yield _left(group, limit, used, cache)


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    """Limit less use, where pages of files that the kernel would drop do not count as used."""
    most, now = _read(group / limit).strip(), _read(group / used).strip()
    if not most.isdigit() or not now.isdigit() or int(most) > UNLIMITED:
        return None
    statistics = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines() if " " in line)
    return max(0, int(most) - max(0, int(now) - int(statistics.get(cache, 0))))


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
