"""The report's files: numbers, bytes, media, and refusals. See test_browser for the page in a browser."""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from avrt.commands import report as command
from avrt.data.records import encode_clip
from avrt.data.writer import ShardWriter
from avrt.evaluation.report.media import ClipExporter, clip_key
from avrt.evaluation.report.page import write_report
from avrt.evaluation.report.summary import chance_level
from avrt.evaluation.scoring import score_run
from avrt.media.reader import read_clip
from avrt.pages.page_files import CHUNK_ITEMS, embed_json
from avrt.sample import Sample
from tests.evaluation.report.report_runs import make_records, make_replies, write_clip, write_run
from tests.media_files import number_of
from tests.pages.page_reader import Page, details_of
from tests.storage.http_server import Files, serve

PAYLOAD = "</script><img src=x onerror=alert(1)><svg onload=alert(2)>\"'&\ud800"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_numbers_of_one_run_are_those_of_statsmodels(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_records("dailyomni", make_replies(301, 1)))
    report = write_report(run, tmp_path / "out")
    (scored,) = score_run(run)
    right = sum(bool(record.correct_strict) for record in scored.records)
    low, high = proportion_confint(right, 301, method="wilson")
    page = Page(report.page)
    row = page.row("DailyOmni", "301 of 1,197", str(right))
    assert row[3:5] == [f"{100 * right / 301:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]"]
    assert row[6] == "25.0"  # guessing one of four
    counted = sum(record.correct_official is not None for record in scored.records)
    official = sum(bool(record.correct_official) for record in scored.records)
    on_answer = sum(bool(record.correct_official_answer) for record in scored.records)
    shares = [official / 301, on_answer / 301, official / counted]
    assert row[7:11] == [*(f"{100 * share:.1f}" for share in shares), str(counted)]
    assert official < on_answer
    assert counted < 301
    errors = scored.metrics["errors"]
    shares = [part for kind in ("none", "logic") for part in (str(errors[kind]), f"{100 * errors[kind] / 301:.1f}")]
    assert page.row("DailyOmni", shares[0])[:5] == ["DailyOmni", *shares]
    for kind in ("Comparative", "Event Sequence", "Inference"):
        part = [record for record in scored.records if record.categories["Type"] == kind]
        hits = sum(bool(record.correct_strict) for record in part)
        low, high = proportion_confint(hits, len(part), method="wilson")
        expected = [kind, str(len(part)), "", f"{100 * hits / len(part):.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
        assert page.row(kind) == expected
    reasons = [record.reason for record in scored.records]
    for reason in set(reasons):
        assert page.row(str(reason))[-1] == str(reasons.count(reason))


def test_numbers_of_two_runs_are_those_of_statsmodels(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", make_records("dailyomni", make_replies(400, 1, skill=0.4)))
    second = write_run(tmp_path / "b", make_records("dailyomni", make_replies(400, 2, skill=0.6)))
    a, b = ([bool(record.correct_strict) for record in score_run(run)[0].records] for run in (first, second))
    won = sum(y and not x for x, y in zip(a, b, strict=True))
    lost = sum(x and not y for x, y in zip(a, b, strict=True))
    p_value = mcnemar([[0, lost], [won, 0]], exact=True).pvalue
    row = Page(write_report(first, tmp_path / "out", second).page).row("DailyOmni", "400", f"{(won - lost) / 4:+.1f}")
    assert row[5:] == [str(won), str(lost), *[f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"] * 2]


def test_averages_and_published_rows_have_the_papers_form(tmp_path: Path) -> None:
    for benchmark in ("mmar", "mmau"):
        write_run(tmp_path / "run", make_records(benchmark, make_replies(40, 3)))
    scores = [entry.metrics["strict"]["accuracy"] for entry in score_run(tmp_path / "run")]
    page = Page(write_report(tmp_path / "run", tmp_path / "out").page)
    assert page.row("run (tiny student)")[1:] == [f"{100 * share:.1f}" for share in (*scores, sum(scores) / 2)]
    assert page.row("items")[1:] == ["40", "40", ""]
    assert page.row("published: items")[1:] == ["1,000", "1,000", ""]
    assert page.row("AVRT 3B")[1:] == ["57.3", "70.0", "63.7"]  # only the columns that were run


def test_the_same_runs_give_the_same_bytes_and_no_place_of_this_machine(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_clip(data / "Videos" / "0.mp4", 7)
    records = make_records("dailyomni", make_replies(CHUNK_ITEMS + 5, 1))
    run = write_run(tmp_path / "run", records, data_root=str(data))
    write_report(run, tmp_path / "one", run)
    write_report(run, tmp_path / "two", run)
    files = files_of(tmp_path / "one")
    assert files == files_of(tmp_path / "two")
    assert sum(name.startswith("data/") for name in files) == 2
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]


def test_strangers_texts_stay_texts(tmp_path: Path) -> None:
    reply = {"text": PAYLOAD, "id": PAYLOAD, "question": PAYLOAD, "options": (PAYLOAD, "B"), "gold": "A"}
    reply |= {"categories": {PAYLOAD: PAYLOAD}, "media": {"video": "x.mp4"}}
    records = make_records(PAYLOAD, [reply])
    run = write_run(tmp_path / "r", records, folder="b", model=PAYLOAD, run=PAYLOAD, decoding={PAYLOAD: PAYLOAD})
    page = Page(write_report(run, tmp_path / "out").page)
    assert [name for name, _ in page.elements].count("script") == 2
    assert not [name for name, _ in page.elements if name == "img"]
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    index = json.loads(page.scripts[0])
    assert index["items"][0][1] == PAYLOAD
    (details,) = details_of(tmp_path / "out")
    assert details["replies"][0]["text"] == PAYLOAD
    assert details["options"][0] == PAYLOAD
    assert "<" not in (tmp_path / "out" / "data" / "items-0000.js").read_text()


def test_embedded_json_is_the_value_and_cannot_end_its_element() -> None:
    value = {"a": ["</script>", "<!--", "\u2028", "\ud800", "&amp;", 1.5, None]}
    text = embed_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\ud800")


def test_frames_and_audio_are_those_that_the_model_got(tmp_path: Path) -> None:
    clip_path = write_clip(tmp_path / "data" / "Videos" / "0.mp4", 100)
    records = make_records("dailyomni", make_replies(2, 1))
    decoding = {"num_frames": 4, "max_audio_seconds": 2.5}
    run = write_run(tmp_path / "run", records, data_root=str(tmp_path / "data"), decoding=decoding)
    report = write_report(run, tmp_path / "out")
    assert (report.items, report.clips, report.problems) == (2, 1, {})
    first, second = details_of(tmp_path / "out")
    assert first["clip"] == second["clip"]  # two questions about one clip
    clip = first["clip"]
    # Four frames of 4 s: the middles of four equal parts, at 8 frames per second.
    assert clip["times"] == [0.5, 1.5, 2.5, 3.5]
    assert (clip["seconds"], clip["audio_seconds"]) == (4.0, 2.5)
    frames = [np.asarray(Image.open(tmp_path / "out" / name)).transpose(2, 0, 1) for name in clip["frames"]]
    assert [number_of(frame) for frame in frames] == [104, 112, 120, 128]
    audio, rate = soundfile.read(tmp_path / "out" / clip["audio"], dtype="float32")
    expected = read_clip(clip_path, max_audio_seconds=2.5).waveform
    assert expected is not None
    assert rate == 16_000
    np.testing.assert_allclose(audio, expected.numpy(), atol=0.51 / 32768)


def test_a_shards_audio_is_copied_unchanged(tmp_path: Path) -> None:
    clip = read_clip(write_clip(tmp_path / "v.mp4", 30))
    encoded = encode_clip(clip)
    sample = Sample(id="key-1", question="?", options=("a", "b"), answer=0)
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write(sample, encoded)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    media = {"shard": shard.name, "key": "key-1"}
    records = make_records("dailyomni", [{"text": "x", "media": media}, {"text": "y", "media": media | {"key": "no"}}])
    run = write_run(tmp_path / "run", records, data_root=str(shard.parent))
    report = write_report(run, tmp_path / "out")
    shown, absent = (details["clip"] for details in details_of(tmp_path / "out"))
    assert (tmp_path / "out" / shown["audio"]).read_bytes() == encoded.members["flac"]
    frames = [np.asarray(Image.open(tmp_path / "out" / name)).transpose(2, 0, 1) for name in shown["frames"]]
    assert [number_of(frame) for frame in frames] == [30 + 2 + 4 * n for n in range(8)]
    assert report.problems == {"dailyomni/item-1": absent["problem"]}
    assert "no sample 'no'" in absent["problem"]


def test_clips_of_remote_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVRT_CACHE", str(tmp_path / "cache"))
    encoded = encode_clip(read_clip(write_clip(tmp_path / "v.mp4", 30)))
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write(Sample(id="key-1", question="?", options=("a", "b"), answer=0), encoded)
    files = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    with serve(Files(files)) as server:
        media = {"shard": server.url("shard-000000.tar"), "key": "key-1"}
        gone = media | {"shard": server.url("gone.tar")}
        records = make_records("dailyomni", [{"text": "x", "media": media}, {"text": "y", "media": gone}])
        report = write_report(write_run(tmp_path / "run", records), tmp_path / "out")
    shown, _ = (details["clip"] for details in details_of(tmp_path / "out"))
    assert (tmp_path / "out" / shown["audio"]).read_bytes() == encoded.members["flac"]
    assert len(shown["frames"]) == 8
    assert list(report.problems) == ["dailyomni/item-1"]


def test_large_frames_become_small(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (1920, 1080), "red").save(tmp_path / "data" / "p.png")
    records = make_records("omnibench", [{"text": "x", "media": {"image": "p.png"}}])
    write_report(write_run(tmp_path / "run", records, data_root=str(tmp_path / "data")), tmp_path / "out")
    clip = details_of(tmp_path / "out")[0]["clip"]
    frame = Image.open(tmp_path / "out" / clip["frames"][0])
    assert frame.width * frame.height <= 384 * 216
    assert (clip["width"], clip["height"], clip["is_image"]) == (1920, 1080, True)
    assert "audio" not in clip


@pytest.mark.parametrize(
    ("media", "problem"),
    [
        ({"video": "gone.mp4"}, "not found: gone.mp4"),
        ({"video": "../secret.mp4"}, "the media path '../secret.mp4' leads outside the data folder"),
        ({"video": "broken.mp4"}, "unreadable: cannot be opened"),
        ({}, "the record names no media"),
    ],
)
def test_media_that_cannot_be_shown_are_named(tmp_path: Path, media: dict[str, str], problem: str) -> None:
    data = tmp_path / "data"
    write_clip(tmp_path / "secret.mp4", 1)
    data.mkdir()
    (data / "broken.mp4").write_bytes(b"no video")
    run = write_run(tmp_path / "run", make_records("mmar", [{"text": "x", "media": media}]), data_root=str(data))
    report = write_report(run, tmp_path / "out")
    assert report.problems["mmar/item-0"].startswith(problem)
    assert details_of(tmp_path / "out")[0]["clip"] == {"problem": report.problems["mmar/item-0"]}


def test_data_that_moved_are_found_again(tmp_path: Path) -> None:
    write_clip(tmp_path / "new" / "DailyOmni" / "Videos" / "0.mp4", 1)
    run = write_run(tmp_path / "run", make_records("dailyomni", make_replies(2, 1)), data_root="old/place")
    assert write_report(run, tmp_path / "out").problems
    assert not write_report(run, tmp_path / "out", data=tmp_path / "new").problems
    assert not write_report(run, tmp_path / "out", data=tmp_path / "new" / "DailyOmni").problems


def test_a_second_report_keeps_what_is_there_and_clears_what_is_not_shown(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for number in range(2):
        write_clip(data / "Videos" / f"{number}.mp4", number)
    records = make_records("dailyomni", make_replies(CHUNK_ITEMS + 1, 1))
    run = write_run(tmp_path / "run", records, data_root=str(data))
    write_report(run, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "media").rglob("*.*")}
    assert len(before) == 2 * (8 + 1 + 1)
    write_report(run, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "media").rglob("*.*")} == before

    # Another clip under the same name is written again, and so is a missing file.
    write_clip(data / "Videos" / "0.mp4", 50, seconds=3)
    (out / "media" / clip_key(records[2]) / "frame03.jpg").unlink()
    write_report(run, out)
    clip = details_of(out)[0]["clip"]
    assert number_of(np.asarray(Image.open(out / clip["frames"][0])).transpose(2, 0, 1)) == 51
    assert (out / "media" / clip_key(records[2]) / "frame03.jpg").is_file()

    # A clip.json of an earlier version may lack a field.
    description_file = out / "media" / clip_key(records[2]) / "clip.json"
    description = json.loads(description_file.read_text())
    del description["shown"]["audio_seconds"]
    description_file.write_text(json.dumps(description))
    write_report(run, out)
    assert details_of(out)[2]["clip"]["audio_seconds"] == pytest.approx(4, abs=0.1)

    small = write_run(tmp_path / "small", records[:2], data_root=str(data))
    (out / "media" / "mine").mkdir()
    write_report(small, out)
    assert sorted(path.name for path in (out / "media").iterdir()) == sorted([clip_key(records[0]), "mine"])
    assert [path.name for path in (out / "data").iterdir()] == ["items-0000.js"]


def test_without_media_nothing_is_decoded(tmp_path: Path) -> None:
    write_clip(tmp_path / "Videos" / "0.mp4", 1)
    run = write_run(tmp_path / "run", make_records("dailyomni", make_replies(2, 1)), data_root=str(tmp_path))
    report = write_report(run, tmp_path / "out", media=False)
    assert (report.clips, report.problems) == (0, {})
    assert not (tmp_path / "out" / "media").exists()
    assert details_of(tmp_path / "out")[0]["clip"] == {"problem": "this page was created without media"}


def test_a_page_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_records("mmar", make_replies(2, 1)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("<title>my home page</title>")
    with pytest.raises(ValueError, match="choose another --out"):
        write_report(run, tmp_path / "out")
    assert (tmp_path / "out" / "index.html").read_text() == "<title>my home page</title>"


def test_an_unfinished_run_is_refused_without_partial(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_records("mmar", make_replies(3, 1)), items=5)
    with pytest.raises(ValueError, match="3 of 5"):
        write_report(run, tmp_path / "out")
    report = write_report(run, tmp_path / "out", partial=True)
    assert "3 of 5 (unfinished)" in report.page.read_text()


def test_runs_on_different_questions_are_refused(tmp_path: Path) -> None:
    records = make_records("mmar", make_replies(3, 1))
    first = write_run(tmp_path / "a", records)
    second = write_run(tmp_path / "b", records, dataset_fingerprint="1" * 64)
    with pytest.raises(ValueError, match="different questions"):
        write_report(first, tmp_path / "out", second)


def test_items_of_unfinished_runs_are_united(tmp_path: Path) -> None:
    records = make_records("mmar", make_replies(4, 1))
    first = write_run(tmp_path / "a", records[:3], items=4)
    second = write_run(tmp_path / "b", records[1:], items=4)
    assert write_report(first, tmp_path / "out", second, partial=True).items == 4
    replies = [details["replies"] for details in details_of(tmp_path / "out")]
    assert [[reply is not None for reply in pair] for pair in replies] == [
        [True, False],
        [True, True],
        [True, True],
        [False, True],
    ]


def test_chance_follows_the_number_of_options() -> None:
    records = make_records("mmar", make_replies(2, 1))
    two = replace(records[1], options=("yes", "no"), gold="A")
    assert chance_level([records[0], two]) == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_clips_are_read_by_many_at_once(tmp_path: Path) -> None:
    for number in range(6):
        write_clip(tmp_path / "data" / "Videos" / f"{number}.mp4", number, seconds=1)
    records = make_records("dailyomni", make_replies(12, 1))
    run = write_run(tmp_path / "run", records, data_root=str(tmp_path / "data"))
    info = score_run(run)[0].info
    done: list[int] = []
    exporter = ClipExporter(tmp_path / "out")
    shown = exporter.export([(info, record) for record in records], workers=4, on_clip=lambda: done.append(1))
    assert len(shown) == len(done) == 6
    for number, clip in enumerate(shown.values()):
        frame = np.asarray(Image.open(io.BytesIO((tmp_path / "out" / clip.frames[0]).read_bytes())))
        assert number_of(frame.transpose(2, 0, 1)) == number


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", make_records("dailyomni", make_replies(4, 1)), data_root=str(tmp_path))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([str(run), str(run), "--out", str(tmp_path / "out")])) == 0
    printed = capsys.readouterr().out
    assert f"4 items about 2 clips: {tmp_path / 'out' / 'index.html'}" in printed
    assert "2 clips cannot be shown" in printed
    assert "not found: Videos/0.mp4" in printed
    assert "--data" in printed
