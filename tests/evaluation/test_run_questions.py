"""The questions of a run, the open ones after a kill, and the run's folder before the first reply."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avrt.evaluation.benchmarks import Item
from avrt.evaluation.media_config import MediaConfig
from avrt.evaluation.question_sets import QuestionsConfig, QuestionSet, open_question_sets
from avrt.evaluation.records.log import RecordWriter, read_records
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.run_lifecycle import batches_left, begin_run, report_missing
from avrt.evaluation.terminal_tables import score_console
from avrt.sample import Sample
from tests.distributed.runs import write_shards


def open_one(**settings: object) -> QuestionSet:
    (questions,) = open_question_sets(QuestionsConfig(**settings))  # type: ignore[arg-type]
    return questions


def test_all_is_what_has_a_folder(real_data: Path) -> None:
    sets = open_question_sets(QuestionsConfig("all", str(real_data / "benchmarks")))
    assert {questions.name: len(questions.items) for questions in sets} == {
        "dailyomni": 4,
        "rivabench_standup": 1,
        "mmau": 1,
    }
    with pytest.raises(ValueError, match="no benchmark has a folder"):
        open_question_sets(QuestionsConfig("all", str(real_data / "odd")))


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of avqa, dailyomni"):
        open_question_sets(QuestionsConfig("dailyomny"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmarks": []}, "at least one name"),
        ({"benchmarks": ["mmau", "mmau"]}, "none twice"),
        ({"shards": "s", "annotations": "a"}, "give one"),
        ({"shards": "s"}, "`benchmarks` must be one name"),
        ({"benchmarks": ["a", "b"], "annotations": "a"}, "`benchmarks` must be one name"),
        ({"benchmarks": "../up", "shards": "s"}, "name of a folder"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_question_sets(QuestionsConfig(**settings))  # type: ignore[arg-type]


def test_questions_of_ones_own_in_avqas_form(real_data: Path) -> None:
    questions = open_one(
        benchmarks="mine", data_root=str(real_data / "avqa"), annotations=str(real_data / "avqa" / "val_qa.json")
    )
    rows = json.loads((real_data / "avqa" / "val_qa.json").read_text())
    assert [item.sample.question for item in questions.items] == [row["question_text"] for row in rows]
    assert questions.name == "mine"
    present = [item for item in questions.items if not item.missing]
    shown = questions.show(present[0], MediaConfig(num_frames=3, max_audio_seconds=1.5))
    assert isinstance(shown, Sample)
    assert shown.clip is not None
    assert shown.clip.frames is not None
    assert shown.clip.waveform is not None
    assert shown.clip.frames.shape[0] == 3
    assert shown.clip.waveform.shape == (24_000,)


def test_a_masked_stream_is_present_and_empty(real_data: Path) -> None:
    questions = open_one(benchmarks="dailyomni", data_root=str(real_data / "benchmarks"))
    shown = {
        mask: questions.show(questions.items[0], MediaConfig(modalities=mask, num_frames=2, max_audio_seconds=1.0))
        for mask in ("AV", "A", "V")
    }
    clips = {mask: sample.clip for mask, sample in shown.items() if isinstance(sample, Sample)}
    assert not clips["A"].frames.any()
    assert not clips["V"].waveform.any()
    assert torch.equal(clips["A"].waveform, clips["AV"].waveform)
    assert clips["AV"].waveform.any()
    assert torch.equal(clips["V"].frames, clips["AV"].frames)
    assert clips["AV"].frames.any()


def test_media_that_do_not_decode_become_a_record_with_their_reason(real_data: Path, tmp_path: Path) -> None:
    shutil.copytree(real_data / "benchmarks" / "mmau", tmp_path / "mmau")
    (audio,) = (tmp_path / "mmau" / "test-mini-audios").iterdir()
    audio.write_bytes(b"not audio")
    questions = open_one(benchmarks="mmau", data_root=str(tmp_path))
    record = questions.show(questions.items[0], MediaConfig())
    assert isinstance(record, Record)
    assert (record.failure, record.finish_reason, record.text) == ("unreadable_media", "missing", "")
    assert record.failure_detail is not None
    assert record.failure_detail.startswith("unreadable: ")


def test_shards_are_a_source_too(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards" / "val", samples=20)  # two tar files
    questions = open_one(benchmarks="mine", shards=str(folder))
    assert [item.sample.id for item in questions.items] == [
        f"{kind}-{i}" for i, kind in ((i, ("audio_video", "video", "audio", "image_audio")[i % 4]) for i in range(20))
    ]
    for item in questions.items:
        assert (questions.data_root / item.media["shard"]).is_file()
        shown = questions.show(item, MediaConfig())
        assert isinstance(shown, Sample)
        assert shown.id == item.sample.id == item.media["key"]
    assert len({item.media["shard"] for item in questions.items}) == 2
    # A subset keeps each question with its own clip.
    ids = tmp_path / "hard.txt"
    ids.write_text("audio-18\nvideo-1\n")
    limited = open_one(benchmarks="mine", shards=str(folder), subset=str(ids))
    assert [limited.show(item, MediaConfig()).id for item in limited.items] == ["video-1", "audio-18"]
    assert limited.subset == "hard"
    assert limited.dataset_fingerprint != questions.dataset_fingerprint


def test_damage_in_a_shard_is_found_when_its_sample_is_shown(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", samples=4)
    (tar,) = folder.glob("*.tar")
    questions = open_one(benchmarks="mine", shards=str(folder))
    data = bytearray(tar.read_bytes())
    place = data.index(b"fLaC") + 300  # in the first sample's audio
    data[place : place + 8] = bytes(8)
    tar.write_bytes(data)
    shown = [questions.show(item, MediaConfig()) for item in questions.items]
    assert [isinstance(entry, Record) for entry in shown] == [True, False, False, False]
    assert shown[0].failure == "unreadable_media"  # type: ignore[union-attr]


def items_of(count: int, missing: set[int] = frozenset()) -> list[Item]:  # type: ignore[assignment]
    return [
        Item(Sample(f"item-{i}", "?", ("a", "b"), 0), i, {"audio": "x"}, missing=("x",) if i in missing else ())
        for i in range(count)
    ]


@given(
    count=st.integers(0, 40),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 5),
    missing=st.sets(st.integers(0, 39)),
    done=st.sets(st.integers(0, 39)),
)
def test_every_item_is_left_to_one_device_and_in_the_same_batch_as_ever(
    count: int, batch_size: int, world: int, missing: set[int], done: set[int]
) -> None:
    items = items_of(count, missing)
    whole = batches_left(items, set(), batch_size)
    left = batches_left(items, {f"item-{i}" for i in done}, batch_size)
    assert all(batch in whole for batch in left)
    assert [place for batch in whole for place in batch] == [i for i in range(count) if i not in missing]
    by_device = [left[rank::world] for rank in range(world)]
    counts = Counter(place for batches in by_device for batch in batches for place in batch)
    assert set(counts.values()) <= {1}
    assert set(counts) >= {i for i in range(count) if i not in missing and i not in done}
    assert max(map(len, by_device)) - min(map(len, by_device)) <= 1


def test_a_run_begins_and_resumes(real_data: Path, tmp_path: Path) -> None:
    """Missing media are recorded once; items with a reply are done; another model or mask is refused."""
    rows = json.loads((real_data / "avqa" / "val_qa.json").read_text())
    (tmp_path / "data" / "avqa" / "videos").mkdir(parents=True)
    (tmp_path / "data" / "avqa" / "val_qa.json").write_text(json.dumps(rows))
    there = tmp_path / "data" / "avqa" / "videos" / f"{rows[0]['video_name']}.mp4"
    there.write_bytes(b"")
    questions = open_one(benchmarks="avqa", data_root=str(tmp_path / "data"))

    def info(**changes: object) -> object:
        settings = {"run": "r", "model": "m", "answer_format": "tags", "media": MediaConfig()} | changes
        return questions.run_info(**settings)  # type: ignore[arg-type]

    run = tmp_path / "run"
    state = begin_run(run, questions, info())  # type: ignore[arg-type]
    lost = {item.sample.id for item in questions.items if item.missing}
    assert lost
    assert len(lost) < len(questions.items)
    assert state.done == lost
    assert {record.failure for record in read_records(run / "avqa")} == {"missing_media"}
    before = (run / "avqa" / "records.rank0.jsonl").read_bytes(), (run / "avqa" / "run.json").stat().st_mtime_ns
    assert begin_run(run, questions, info()).done == lost  # type: ignore[arg-type]
    assert before == (
        (run / "avqa" / "records.rank0.jsonl").read_bytes(),
        (run / "avqa" / "run.json").stat().st_mtime_ns,
    )
    first = next(item for item in questions.items if not item.missing)
    reply = questions.failed(first, "server_error", "x")
    with RecordWriter(run / "avqa", 1) as writer:
        writer.append(reply)
    assert first.sample.id not in begin_run(run, questions, info()).done  # type: ignore[arg-type]
    for change in ({"model": "n"}, {"media": MediaConfig("A")}, {"answer_format": "letter"}, {"weights": "other"}):
        with pytest.raises(ValueError, match="use another run folder"):
            begin_run(run, questions, info(**change))  # type: ignore[arg-type]


def test_the_number_of_questions_is_checked(real_data: Path, tmp_path: Path) -> None:
    whole = open_one(
        benchmarks="mmau", data_root=str(tmp_path), annotations=str(real_data / "annotations" / "mmau_test_mini.json")
    )
    assert (len(whole.items), whole.count_note) == (1_000, "")
    settings = {"benchmarks": "mmau", "data_root": str(real_data / "benchmarks")}
    part = open_one(**settings)
    assert part.count_note == "mmau: 1 questions were read, MMAU's authors state 1,000"
    with pytest.raises(ValueError, match=r"mmau: 1 questions were read.*`require_complete`"):
        open_one(**settings, require_complete=True)
    # A subset of the whole benchmark is no incomplete benchmark, and question sets of one's own have no number.
    ids = tmp_path / "one.txt"
    ids.write_text(f"{whole.items[3].sample.id}\n")
    limited = open_one(
        benchmarks="mmau",
        data_root=str(tmp_path),
        annotations=str(real_data / "annotations" / "mmau_test_mini.json"),
        subset=str(ids),
        require_complete=True,
    )
    assert (len(limited.items), limited.count_note) == (1, "")
    own = real_data / "avqa" / "val_qa.json"
    assert open_one(benchmarks="mine", data_root=str(own.parent), annotations=str(own)).count_note == ""


def test_the_note_on_the_number_is_printed_when_a_run_begins(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = open_one(benchmarks="mmau", data_root=str(real_data / "benchmarks"))
    info = questions.run_info(run="r", model="m", answer_format="letter", media=MediaConfig())
    state = begin_run(tmp_path / "run", questions, info)
    report_missing(questions, state, score_console())
    assert "mmau: 1 questions were read, MMAU's authors state 1,000" in capsys.readouterr().out


def test_a_run_records_its_date_and_its_hardware(real_data: Path, tmp_path: Path) -> None:
    questions = open_one(benchmarks="mmau", data_root=str(real_data / "benchmarks"))
    settings = {"run": "r", "model": "m", "answer_format": "letter", "media": MediaConfig()}
    first = questions.run_info(**settings, hardware="1 x CPU")  # type: ignore[arg-type]
    assert datetime.fromisoformat(first.started).utcoffset() == timedelta(0)
    first.write(tmp_path)
    for hardware in ("2 x CPU", "1 x CPU", "2 x CPU"):
        later = replace(questions.run_info(**settings, hardware=hardware), started="2099-01-01T00:00:00+00:00")  # type: ignore[arg-type]
        later.write(tmp_path)
    now = RunInfo.read(tmp_path)
    assert (now.started, now.hardware) == (first.started, "1 x CPU; 2 x CPU")
