"""An evaluation's files when the server repeats the API key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.evaluation.records.log import read_records
from tests.evaluation.test_run_server import ModelServer, choice, evaluate, parts


def test_a_key_that_the_server_repeats_is_in_no_file(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In replies and in refusals: not in records, metrics, exports for other tools, or the report."""
    key = "Zq7-Xk2_Vm9/Wd4+Ty6="
    monkeypatch.setenv("SERVER_KEY", key)

    def answer(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        if len(parts(body, "text")[0]) % 2:
            return choice(f"{key} A", reasoning_content=key)
        return 400, {"error": {"message": f"{key} may not ask this"}}

    data = real_data / "benchmarks"
    with ModelServer(answer).running() as url:
        assert evaluate(url, tmp_path / "run", data, "server.api_key_env=SERVER_KEY") == 0
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page"), "--data", str(data)]) == 0
    assert {r.failure for r in read_records(tmp_path / "run" / "dailyomni")} == {None, "server_refused"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"[redacted]" in file.read_bytes() for file in files)
    assert not [file.name for file in files if key.encode() in file.read_bytes()]
    assert key not in "".join(capsys.readouterr())
