"""Atomic writing of folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avrt.files import atomic_folder as module
from avrt.files.atomic_folder import atomic_folder, read_marker


def write(folder: Path, content: str, marker: str | None = None) -> None:
    with atomic_folder(folder, marker=marker) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file").write_text(content)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_written_and_replaced(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_exchange:
        monkeypatch.setattr(module, "exchange", lambda *_: False)
    for content in ("one", "three"):
        write(tmp_path / "new" / "folder", content, marker="done.json")
        assert (tmp_path / "new" / "folder" / "deep" / "file").read_text() == content
        marker = json.loads((tmp_path / "new" / "folder" / "done.json").read_text())
        assert marker["files"] == {"deep/file": len(content)}
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]


def test_an_error_leaves_the_older_folder(tmp_path: Path) -> None:
    write(tmp_path / "folder", "old")

    def interrupted() -> None:
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "deep" / "file").read_text() == "old"


def test_the_remains_of_a_killed_run_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "folder.partial").mkdir()
    (tmp_path / "folder.partial" / "remains").touch()
    write(tmp_path / "folder", "new")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["deep"]


def test_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"No space left.*{tmp_path / 'folder'}"), atomic_folder(tmp_path / "folder"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": ' + "1" * 5000 + "}", "\udcff", '{"format": 3}', "[1]"])
def test_a_marker_that_is_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "done.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"its done\.json is damaged"):
        read_marker(tmp_path / "done.json")
