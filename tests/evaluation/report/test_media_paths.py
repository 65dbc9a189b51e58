"""The report of a run by somebody else: its records open nothing outside the data folder, and show no file's bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avrt.data.writer import ShardWriter
from avrt.evaluation.report.page import write_report
from tests.evaluation.report.report_runs import make_records, write_run
from tests.shard_files import make_sample
from tests.storage.http_server import Files, serve

SECRET = "root:x:0:0:secret-in-a-file"


def report_text(run: Path, out: Path, **settings: Path) -> str:
    """All text of the page and its data."""
    write_report(run, out, **settings)
    return "".join(path.read_text() for path in (out / "index.html", *sorted((out / "data").glob("*.js"))))


@pytest.mark.parametrize("kind", ["video", "audio", "image", "shard"])
def test_a_file_that_is_not_media_is_not_repeated(tmp_path: Path, kind: str) -> None:
    """Wherever the secret is: error messages of libraries repeat parts of what they could not read."""
    private = tmp_path / "private"
    private.mkdir()
    for shift in range(0, 160, 8):
        text = "#" * (136 + shift % 24) + SECRET * 40
        (private / "passwd").write_text(text)
        records = make_records("mmar", [{"text": "x", "media": {kind: "passwd", "key": "a"}}])
        run = write_run(tmp_path / f"run{shift}", records, data_root=str(private))
        text = report_text(run, tmp_path / f"out{shift}")
        assert not any(SECRET[start : start + 5] in text for start in range(len(SECRET) - 4))


@pytest.mark.parametrize("name", ["/etc/passwd", "../passwd", "a/../../passwd", "x" * 5000, "a\x00b"])
def test_a_name_that_leads_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "passwd").write_text(SECRET)
    records = make_records("mmar", [{"text": "x", "media": {"video": name}}])
    text = report_text(write_run(tmp_path / "run", records, data_root=str(tmp_path / "data")), tmp_path / "out")
    assert json.dumps("problem") in text
    assert SECRET not in text


def test_no_address_is_opened_where_the_data_are_given(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data") as writer:
        writer.write(make_sample(0))
    (shard,) = (tmp_path / "data").glob("*.tar")
    with serve(Files({shard.name: shard.read_bytes()})) as files:
        media = {"shard": f"{files.address}/{shard.name}", "key": "q-000"}
        run = write_run(tmp_path / "run", make_records("mmar", [{"text": "x", "media": media}]), data_root="")
        report_text(run, tmp_path / "without", data=tmp_path)
        assert files.requests == []
        text = report_text(run, tmp_path / "with", data=tmp_path / "data")
        assert files.requests == []
        assert "audio.flac" in text
        text = report_text(run, tmp_path / "remote")
        assert files.requests
        assert "audio.flac" in text


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        ({"num_frames": 10**9}, "num_frames is 1000000000"),
        ({"num_frames": "8"}, "num_frames is '8'"),
        ({"num_frames": 8.5}, "num_frames is 8.5"),
        ({"num_frames": -3}, "num_frames is -3"),
        ({"max_audio_seconds": 1e30}, "max_audio_seconds is 1e"),
        ({"max_audio_seconds": [1]}, "max_audio_seconds is"),
    ],
)
def test_a_run_cannot_ask_for_any_number_of_frames(tmp_path: Path, decoding: dict[str, object], said: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "v.mp4").write_bytes(b"x")
    records = make_records("mmar", [{"text": "x", "media": {"video": "v.mp4"}}])
    run = write_run(tmp_path / "run", records, data_root=str(tmp_path / "data"))
    (path,) = run.rglob("run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoding": decoding}))
    assert f"the run's {said}" in report_text(run, tmp_path / "out").replace("\\u0027", "'")
