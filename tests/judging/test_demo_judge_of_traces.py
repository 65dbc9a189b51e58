"""The demo's judge over real HTTP, on demo traces with known false claims, in each form of media."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from avrt.cli import main
from avrt.data.shards import ShardSet
from avrt.demo.servers import JUDGE_MODEL, server_url
from avrt.demo.trace_judge import judge_traces
from avrt.demo.trace_run import demo_server
from avrt.servers.local_server import free_port
from avrt.traces.verdicts import VERDICTS_FILE, VerdictRecord, read_verdicts
from benchmarks.judge import LABELS, attributed, measure, write_traces

CLIPS = 16
"""Three questions each: 48 traces."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = free_port()
    with demo_server(port):
        yield port


@pytest.fixture(scope="module")
def traces(port: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], Path]:
    """Shards with false claims, each sample's source, and the folder of everything."""
    folder = tmp_path_factory.mktemp("traces")
    judged, sources = write_traces(folder, port, CLIPS, seed=0)
    return judged, sources, folder


def judged_by_demo(traces: Path, out: Path, port: int, *options: str) -> list[VerdictRecord]:
    judge = {"model": JUDGE_MODEL, "base_urls": [server_url(port)], "sampling": {"max_tokens": 1024}}
    config = {"sets": {"demo": str(traces)}, "ledger": str(out / "ledger"), "output": str(out), "judge": judge}
    out.mkdir()
    (out / "judge.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert main(["judge", "--config", str(out / "judge.yaml"), *options]) == 0
    return read_verdicts(out / VERDICTS_FILE)


def test_false_claims_of_every_source_are_found(
    traces: tuple[Path, dict[str, str], Path], port: int, tmp_path: Path
) -> None:
    judged, sources, _ = traces
    judged_by_demo(judged, tmp_path / "out", port)
    rows = measure(sources, attributed(tmp_path / "out" / VERDICTS_FILE))
    assert set(rows) == {"none", "vision", "audio", "both", "merger"}
    assert sum(int(row["injected"]) for row in rows.values()) == 3 * CLIPS  # type: ignore[arg-type]
    for source, row in rows.items():
        assert row["recall"] == row["precision"] == 1.0, source


HEARS = ("--judge.hears_video=true",)
"""The demo's judge reads the audio of a video file."""


@pytest.mark.parametrize("media", ["video", "video_and_audio"])
def test_a_video_file_shows_the_judge_the_same(
    media: str, traces: tuple[Path, dict[str, str], Path], port: int, tmp_path: Path
) -> None:
    judged, sources, _ = traces
    records = judged_by_demo(judged, tmp_path / "out", port, f"--judge.media={media}", *HEARS, "--max_samples=20")
    found = attributed(tmp_path / "out" / VERDICTS_FILE)
    assert len(found) == 20
    assert found == {sample: LABELS[sources[sample]] for sample in found}
    assert {record.streams for record in records} == {"AV"}


def test_the_original_clip_is_sent_where_its_folder_is_named(
    traces: tuple[Path, dict[str, str], Path], port: int, tmp_path: Path
) -> None:
    judged, sources, folder = traces
    videos = next(path for path in (folder / "clips").rglob("*.mp4")).parent
    options = (f"--judge.videos={videos}", "--judge.media=video", *HEARS, "--max_samples=10")
    judged_by_demo(judged, tmp_path / "out", port, *options)
    found = attributed(tmp_path / "out" / VERDICTS_FILE)
    assert found == {sample: LABELS[sources[sample]] for sample in found}
    assert len(found) == 10


def test_one_stream_judges_only_its_own_claims(
    traces: tuple[Path, dict[str, str], Path], port: int, tmp_path: Path
) -> None:
    judged, sources, _ = traces
    records = judged_by_demo(judged, tmp_path / "out", port, "--judge.media=audio", "--modes=[individual]")
    words = {record.sample: record.verdict["verdict"] for record in records if record.verdict}
    for sample, source in sources.items():
        if source != "merger":
            assert (words[sample] == "HALLUCINATING") == (source in ("audio", "both")), source


def test_without_the_clips_nothing_is_found(
    traces: tuple[Path, dict[str, str], Path], port: int, tmp_path: Path
) -> None:
    """The judge's verdicts come from the media, not from the texts."""
    judged, _, _ = traces
    records = judged_by_demo(judged, tmp_path / "out", port, "--judge.media=none", "--modes=[individual]")
    assert {record.verdict["verdict"] for record in records if record.verdict} == {"ACCURATE"}
    assert {record.streams for record in records} == {""}
    assert len(ShardSet(judged)) == len(records)


@pytest.mark.parametrize(
    ("trace", "verdict"),
    [
        ("I see red A C. I hear hum B C. So C.", "ACCURATE"),
        ("The shape is red, not blue. A hum sounds; no bell is heard.", "ACCURATE"),
        ("A red disc moves. Option B says blue bell. There is a hum.", "ACCURATE"),
        ("I see red A C. So A.", "MISSING_INFO"),
        ("I see blue A C. I hear hum B C.", "HALLUCINATING"),
        ("I see red, and something green. I hear a hum.", "HALLUCINATING"),
        ("I see red. First a hum, later a chirp.", "HALLUCINATING"),
    ],
)
def test_claims_of_a_trace_against_the_measured_clip(trace: str, verdict: str) -> None:
    text = f"<trace>\n> ‹think›{trace}‹/think›\n> ‹answer›C‹/answer›\n</trace>\n"
    assert json.loads(judge_traces(text, "red", "hum"))["verdict"] == verdict
