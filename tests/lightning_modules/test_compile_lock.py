"""A compilation that was killed does not make later runs wait silently."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from torch.utils.file_baton import FileBaton

from lightning_modules.strategy import compile_locks


def test_finds_the_lock_that_torch_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own lock at the place where torch's own loader puts it."""
    from torch.utils.cpp_extension import _get_build_directory

    for name, value in (("TORCH_EXTENSIONS_DIR", str(tmp_path / "own")), ("XDG_CACHE_HOME", str(tmp_path / "cache"))):
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
        monkeypatch.setenv(name, value)
        folder = Path(_get_build_directory("cpu_adam", verbose=False))
        assert folder.is_relative_to(tmp_path)
        assert compile_locks("cpu_adam") == []
        baton = FileBaton(str(folder / "lock"))
        assert baton.try_acquire()
        assert compile_locks("cpu_adam") == [folder / "lock"]
        baton.release()
        assert compile_locks("cpu_adam") == []
        monkeypatch.delenv(name)


def test_torch_waits_silently_for_a_lock_left_behind(tmp_path: Path) -> None:
    """The reason for the warning: when this fails, torch has learned to notice a dead owner, and it can go."""
    (tmp_path / "lock").touch()
    waiting = threading.Thread(target=FileBaton(str(tmp_path / "lock")).wait, daemon=True)
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive()
    (tmp_path / "lock").unlink()
    waiting.join(10)
    assert not waiting.is_alive()
