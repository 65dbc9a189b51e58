"""A command that writes is refused in one line while another writes to the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avrt.cli import main
from avrt.files.folder_lock import FolderLock


@pytest.mark.parametrize("command", ["report", "score", "subsets"])
def test_a_second_writer_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, teacher = tmp_path / "out", tmp_path / "teacher.jsonl"
    folder.mkdir()
    teacher.write_text(json.dumps({"id": "q", "correct": True}) + "\n")
    words = {
        "report": ["report", str(tmp_path / "run"), "--out", str(folder)],
        "score": ["score", str(folder)],
        "subsets": ["subsets", "--vision", str(teacher), "--audio", str(teacher), "--out", str(folder)],
    }[command]
    with FolderLock(folder, "test"):
        assert main(words) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(folder) in line
        assert "`test`" in line
    main(words)
    assert "`test`" not in capsys.readouterr().err
    assert not (folder / ".avrt-lock").exists()
