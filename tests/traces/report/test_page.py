"""The files of a page of traces: items, details, clips, verdicts, tables; and the command."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image

from avrt.cli import main
from avrt.data.shards import ShardSet
from avrt.traces.report.page import PageOptions, write_trace_report
from tests.pages.page_reader import Page, details_of
from tests.traces.report.trace_pages import FinishedRun, write_config


def index_of(page: Path) -> dict[str, Any]:
    return json.loads(page.read_text().split('id="index">')[1].split("</script>")[0])


def opened(page: Path, sample_id: str) -> tuple[list[Any], dict[str, Any]]:
    """A sample's row of the index, and its details."""
    items = index_of(page)["items"]
    number = [item[0] for item in items].index(sample_id)
    return items[number], details_of(page.parent)[number]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_kept_sample_has_all_replies_the_trace_and_the_gold_answer(page: Path) -> None:
    item, details = opened(page, "q003")
    index = index_of(page)
    assert item[1:3] == ["What is in clip number 3?", "D"]
    assert index["reasons"][item[3]]["name"] == "kept"
    assert item[7] == ["D", "D", "D"]
    assert [call["stage"] for call in details["calls"]] == index["stages"] == ["vision", "audio", "merge"]
    vision, audio, merge = details["calls"]
    assert (vision["outcome"], vision["model"]) == ("right", "m")
    (reply,) = vision["replies"]
    assert (reply["thinking"], reply["letter"], reply["finish"]) == ("I look at clip 3.", "D", "stop")
    assert audio["replies"][0]["text"].startswith("Based on the calls in clip 3,")
    assert "It shows fur." in merge["prompt"]
    assert details["trace"] == "<think>Heard and seen in clip 3.</think>\n<answer>D</answer>"
    assert details["verdicts"] is None


def test_a_rejected_sample_has_no_trace_and_the_wrong_answer(page: Path) -> None:
    item, details = opened(page, "q007")
    assert index_of(page)["reasons"][item[3]]["name"] == "audio_wrong"
    assert item[7] == ["D", "B", None]
    assert details["trace"] == ""
    assert details["calls"][2]["replies"] == [None]
    assert details["calls"][2]["outcome"] == "not_needed"


def test_frames_and_audio_are_those_of_the_shards(page: Path, finished: FinishedRun) -> None:
    _, details = opened(page, "q003")
    clip = details["clip"]
    sample = ShardSet(finished.config.shards)[3]
    assert sample.clip is not None
    assert sample.clip.frames is not None
    assert len(clip["frames"]) == len(sample.clip.frames) == 2
    assert clip["times"] == [0.0, 0.5]
    with Image.open(page.parent / clip["frames"][1]) as image:
        assert image.size[0] / image.size[1] == pytest.approx(24 / 16, rel=0.35)
    stored = ShardSet(finished.config.shards).media(3).members["flac"]
    assert (page.parent / clip["audio"]).read_bytes() == stored
    assert soundfile.info(io.BytesIO(stored)).frames == 1600


def test_a_second_page_is_the_same_and_keeps_its_clips(page: Path, finished: FinishedRun) -> None:
    before = files(page.parent)
    times = {path: path.stat().st_mtime_ns for path in (page.parent / "media").rglob("*") if path.is_file()}
    write_trace_report(finished.config, page.parent, PageOptions(per_reason=100))
    assert files(page.parent) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    write_trace_report(finished.config, page.parent, PageOptions(per_reason=1))
    assert len(list((page.parent / "media").iterdir())) == len(index_of(page)["items"]) == 5
    write_trace_report(finished.config, page.parent, PageOptions(per_reason=100))
    assert files(page.parent) == before


def test_a_damaged_clip_says_so(finished: FinishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in Path(finished.config.shards).iterdir():
        data = path.read_bytes()
        if path.name.endswith("000000.tar"):
            place = data.index(b"\x89PNG") + 60
            data = data[:place] + bytes(20) + data[place + 20 :]
        (folder / path.name).write_bytes(data)
    config = finished.config.__class__(**{**vars(finished.config), "shards": str(folder)})
    report = write_trace_report(config, tmp_path / "page", PageOptions(per_reason=100))
    assert list(report.problems) == ["q000"]
    assert opened(report.page, "q000")[1]["clip"]["problem"] == report.problems["q000"]
    assert "checksum" in report.problems["q000"]


def test_the_tables_have_the_papers_numbers_beside_the_runs(finished: FinishedRun, page: Path) -> None:
    tables = Page(page)
    train, val = (finished.statistics["splits"][name]["samples"] for name in ("train", "val"))
    assert tables.row("Total samples") == ["Total samples", str(train), str(val), "18,279", "945"]
    assert tables.row("Primary resolution")[3:] == ["1280×720 (62%)", "1280×720 (43%)"]
    which = tables.row("Which")
    kept = [f"{finished.statistics['splits'][name]['question_types']['Which']:.1f}" for name in ("train", "val")]
    assert which[2:] == ["65.0", *kept, "45.2", "45.7", which[-1]]
    assert tables.row("Both")[-2] == "99.0"
    assert tables.row("vision_wrong")[1:3] == ["vision: another option", "6"]


def test_annotations_are_a_column_of_their_own(finished: FinishedRun, tmp_path: Path) -> None:
    row = {
        "id": 1,
        "video_name": "clip",
        "video_id": 1,
        "question_text": "Where?",
        "multi_choice": ["a", "b", "c", "d"],
        "answer": 1,
        "question_relation": "View",
        "question_type": "Used For",
    }
    (tmp_path / "qa.json").write_text(json.dumps([row]))
    options = PageOptions(media=False, annotations=[tmp_path / "qa.json"])
    tables = Page(write_trace_report(finished.config, tmp_path / "page", options).page)
    assert tables.row("Used For")[-2:] == ["100.0", ""]
    assert tables.row("Others")[-5:-1] == ["0.0", "0.2", "0.3", "100.0"]
    assert tables.row("View")[-2] == "100.0"


def judgment(sample: str, trace: str, **changes: Any) -> dict[str, Any]:
    verdict = {
        "verdict": "HALLUCINATING",
        "audio_grounded": True,
        "visual_grounded": False,
        "hallucinated_claims": ["a red fox barks"],
        "confidence": 0.9,
        "explanation": "No fox is seen.",
    }
    return {
        "mode": "individual",
        "sample": sample,
        "source": "clip1",
        "set": "merged",
        "against": "",
        "trace_sha256": hashlib.sha256(trace.encode()).hexdigest(),
        "against_sha256": "",
        "streams": "AV",
        "status": "ok",
        "bad_replies": 0,
        "error": "",
        "key": "k",
        "verdict": verdict,
        **changes,
    }


def test_verdicts_are_shown_with_the_trace_that_was_judged(finished: FinishedRun, tmp_path: Path) -> None:
    trace = "<think>Heard and seen in clip {}.</think>\n<answer>{}</answer>"
    source = {"hallucination_source": "MERGER", "hallucinated_claims": ["x"], "source_per_claim": ["MERGER"]}
    rows = [
        judgment("q003", trace.format(3, "D")),
        judgment("q003", trace.format(3, "D"), mode="source", verdict=source),
        judgment("q001", "a trace of another merger"),
        judgment("q002", trace.format(2, "C"), status="bad_json", verdict=None, error="no JSON"),
    ]
    (tmp_path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = PageOptions(per_reason=100, media=False, judgments=tmp_path)
    page = write_trace_report(finished.config, tmp_path / "page", options).page
    index = index_of(page)
    item, details = opened(page, "q003")
    assert index["verdicts"][item[8]] == "HALLUCINATING"
    first, second = details["verdicts"]
    assert first["claims"] == [["a red fox barks", ""]]
    assert ["visual_grounded", "no"] in first["facts"]
    assert first["explanation"] == "No fox is seen."
    assert second["claims"] == [["x", "MERGER"]]
    assert opened(page, "q001")[1]["verdicts"] == []
    assert opened(page, "q001")[0][8] is None
    item, details = opened(page, "q002")
    assert index["verdicts"][item[8]] == "bad_json"
    assert details["verdicts"][0]["problem"] == "bad_json: no JSON"
    # The verdict on another trace is not counted.
    assert Page(page).row("HALLUCINATING")[1:3] == ["1", "50.0"]


def test_verdicts_on_other_traces_are_refused(finished: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(judgment("q001", "a trace of another run")) + "\n")
    with pytest.raises(ValueError, match=r"^judgments: .* has no verdict on a trace of this run"):
        write_trace_report(finished.config, tmp_path / "page", PageOptions(judgments=tmp_path))


@pytest.mark.parametrize("line", ['{"mode": "individual"}', "[1]", json.dumps(judgment("q1", "t", verdict=None))])
def test_a_file_that_has_no_verdicts_is_refused(finished: FinishedRun, tmp_path: Path, line: str) -> None:
    (tmp_path / "verdicts.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"verdicts.jsonl"):
        write_trace_report(finished.config, tmp_path / "page", PageOptions(judgments=tmp_path))


def test_the_command(finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", "--traces", str(write_config(finished)), "--out", str(tmp_path / "page"), "--per-reason", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "10 samples about 10 clips" in out
    assert main([*words, "--no-media", "--seed", "3"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give folders of evaluation runs, or --traces"),
        (["a", "--traces", "t.yaml"], "give folders of evaluation runs, or --traces"),
        (["a", "--per-reason", "3"], "--per-reason is an option of --traces only"),
        (["--traces", "t.yaml", "--official-rule", "x"], "--official-rule is an option of evaluation runs only"),
    ],
)
def test_options_that_do_not_belong_together(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words, "--out", "x"]) == 2
    assert message in capsys.readouterr().err


def test_another_page_is_not_overwritten(finished: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>mine</html>")
    with pytest.raises(ValueError, match="would be overwritten"):
        write_trace_report(finished.config, tmp_path)
    with pytest.raises(ValueError, match="per_reason"):
        PageOptions(per_reason=0)
