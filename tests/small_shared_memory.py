"""Programs with a smaller ``/dev/shm`` than the machine's, as in a container with Docker's default."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache

import pytest


def with_shared_memory(size: str, command: Sequence[str]) -> list[str]:
    """`command` with a ``/dev/shm`` of `size` (as for mount: ``64m``) in a separate mount namespace."""
    prefix = _prefix()
    if prefix is None:
        pytest.skip("this test mounts a small /dev/shm of its own, which is not permitted here")
    return [*prefix, f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"', "sh", *command]


@cache
def _prefix() -> tuple[str, ...] | None:
    for options in (["--mount"], ["--mount", "--map-root-user"]):
        prefix = ("unshare", *options, "sh", "-c")
        try:
            subprocess.run([*prefix, "mount -t tmpfs none /dev/shm"], check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            continue
        return prefix
    return None
