"""The readers on the authors' own files, and on misleading files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from avrt.evaluation.benchmarks import (
    BENCHMARKS,
    Item,
    fingerprint,
    get_benchmark,
    missing_media_record,
    new_record,
    present_benchmarks,
    require_media,
    select,
)
from avrt.evaluation.benchmarks.avqa import question_set
from avrt.evaluation.benchmarks.base import relative_path
from avrt.evaluation.item_clips import read_sample
from avrt.evaluation.published_results import COLUMNS
from avrt.evaluation.records.record import Record
from avrt.text.option_labels import strip_labels

ANNOTATIONS = {
    "avqa": ("avqa_train_qa.sample.json", 6),
    "dailyomni": ("dailyomni_qa.json", 1197),
    "omnibench": ("omnibench.sample.jsonl", 3),
    "videomme": ("videomme_output_template.sample.json", 6),
    "mmar": ("mmar_meta.jsonl", 1000),
    "mmau": ("mmau_test_mini.json", 1000),
}
"""Benchmark to a real annotation file and its number of rows."""


def load(real_data: Path, name: str) -> list[Item]:
    return BENCHMARKS[name].load(real_data / "nowhere", annotations=real_data / "annotations" / ANNOTATIONS[name][0])


def counts(items: list[Item], category: str) -> Counter[str]:
    return Counter(item.categories[category] for item in items)


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_every_row_of_the_real_files_loads(real_data: Path, name: str) -> None:
    items = load(real_data, name)
    assert len(items) == ANNOTATIONS[name][1]
    assert len({item.sample.id for item in items}) == len(items)
    assert [item.index for item in items] == list(range(len(items)))
    for item in items:
        assert item.sample.answer < len(item.sample.options)
        assert item.sample.question.strip()
        assert item.sample.options[item.sample.answer].strip()
        assert all(item.categories.values())
        assert item.missing == tuple(item.media.values())  # counted, never dropped
        record = new_record(BENCHMARKS[name], item, text="x")
        assert Record.from_json(record.to_json()) == record


def test_published_sizes_and_table_order() -> None:
    sizes = {name: BENCHMARKS[name].items for name in COLUMNS}
    assert sizes == {
        "avqa": 17_208,
        "dailyomni": 1_197,
        "omnibench": 1_142,
        "videomme": 2_700,
        "rivabench_standup": 2_128,
        "rivabench_academic": 1_912,
        "mmar": 1_000,
        "mmau": 1_000,
    }
    assert list(COLUMNS) == list(BENCHMARKS)[: len(COLUMNS)]


def test_dailyomni_counts(real_data: Path) -> None:
    items = load(real_data, "dailyomni")
    assert len({item.sample.source for item in items}) == 684
    assert counts(items, "video_duration") == {"30s": 647, "60s": 550}
    assert counts(items, "Type") == {
        "Event Sequence": 306,
        "AV Event Alignment": 238,
        "Context understanding": 193,
        "Reasoning": 175,
        "Inference": 154,
        "Comparative": 131,
    }
    assert {len(item.sample.options) for item in items} == {4}
    assert Counter(item.sample.gold for item in items) == {"B": 318, "C": 306, "D": 295, "A": 278}
    assert not any(option[:2] in ("A.", "B.", "C.", "D.") for item in items for option in item.sample.options)
    first = items[0]
    assert first.media == {"video": "Videos/Ec_lQgZ9wlg/Ec_lQgZ9wlg_video.mp4"}
    assert first.sample.options[0] == "Still product bottle → Price text overlay"


def test_mmar_counts(real_data: Path) -> None:
    items = load(real_data, "mmar")
    assert (len(counts(items, "modality")), len(counts(items, "category")), len(counts(items, "sub-category"))) == (
        7,
        4,
        16,
    )
    assert Counter(len(item.sample.options) for item in items) == {2: 171, 3: 10, 4: 815, 5: 3, 6: 1}
    assert items[0].media == {"audio": "audio/qx8hrhBZJ98_00-01-32_00-02-02.wav"}
    assert items[0].sample.gold == "C"
    assert items[0].official_gold == "Open Grassland"


def test_mmau_counts_and_lists_as_categories(real_data: Path) -> None:
    items = load(real_data, "mmau")
    assert counts(items, "task") == {"music": 334, "sound": 333, "speech": 333}
    assert counts(items, "difficulty") == {"medium": 540, "hard": 236, "easy": 224}
    assert counts(items, "category") == {"Reasoning": 677, "Information Extraction": 323}  # 13 of them given as a list
    assert len(counts(items, "sub-category")) == 27
    assert Counter(len(item.sample.options) for item in items) == {2: 27, 4: 948, 5: 24, 8: 1}
    assert items[0].media == {"audio": "test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav"}


def test_omnibench_gold_is_the_option_with_the_answers_text(real_data: Path) -> None:
    items = load(real_data, "omnibench")
    assert [item.sample.gold for item in items] == ["B", "D", "D"]
    assert items[0].media == {"image": "mm_data/image/6-0044.png", "audio": "mm_data/audio/6-0044.mp4.mp3.mp3.mp3"}
    assert counts(items, "audio type") == {"speech": 3}


def test_videomme_template_and_rows(real_data: Path, tmp_path: Path) -> None:
    items = load(real_data, "videomme")
    assert [item.sample.id for item in items][:4] == ["001-1", "001-2", "001-3", "005-1"]
    assert items[0].sample.gold == "A"
    assert items[1].sample.options == ("Black shirts.", "Blue shirts.", "Red skirts.", "Brown hat.")
    assert items[0].categories == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "task_type": "Object Reasoning",
    }
    row = {
        "video_id": "001",
        "duration": "long",
        "domain": "Knowledge",
        "sub_category": "Law",
        "url": "https://example.org",
        "videoID": "fFjv93ACGo8",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many?",
        "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
        "answer": "C",
    }
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "videomme" / "videomme"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "test-00000-of-00001.parquet")
    from_parquet = BENCHMARKS["videomme"].load(tmp_path)
    assert from_parquet[0].media == {"video": "data/fFjv93ACGo8.mp4"}
    assert from_parquet[0].sample.gold == "C"
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    from_json = BENCHMARKS["videomme"].load(tmp_path, annotations=tmp_path / "rows.jsonl")
    assert from_json == from_parquet


def test_rivabench_reads_llava_conversations(tmp_path: Path) -> None:
    turns = [
        {
            "from": "human",
            "value": "<image>\nWhat is meant? Choose from:\nA. This.\nB. That.\nC. Nothing, e.g.: a joke.\nD. Both.\n"
            "E. None.\nAnswer with the letter.",
        },
        {"from": "gpt", "value": "C"},
    ]
    rows = [
        {"video": "clips/standup_1.mp4", "audio": "clips/standup_1.wav", "conversations": turns},
        {
            "video": "clips/standup_1.mp4",
            "audio": "clips/standup_1.wav",
            "conversations": [turns[0], {"value": "A. This."}],
        },
    ]
    (tmp_path / "standup.json").write_text(json.dumps(rows))
    (tmp_path / "clips").mkdir()
    for name in ("standup_1.mp4", "standup_1.wav"):
        (tmp_path / "clips" / name).touch()
    items = BENCHMARKS["rivabench_standup"].load(tmp_path)
    assert [item.sample.id for item in items] == ["clips_standup_1-0", "clips_standup_1-1"]
    assert [item.sample.gold for item in items] == ["C", "A"]
    assert items[0].sample.question == "What is meant?"
    assert items[0].sample.options == ("This.", "That.", "Nothing, e.g.: a joke.", "Both.", "None.")
    assert items[0].media == {"video": "clips/standup_1.mp4", "audio": "clips/standup_1.wav"}
    assert not items[0].missing


def test_rivabench_readme_questions(real_data: Path, tmp_path: Path) -> None:
    rows = json.loads((real_data / "annotations" / "rivabench_readme_questions.json").read_text())["items"]
    for row in rows:
        row["video"] = row["video"].split()[0]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    academic = BENCHMARKS["rivabench_academic"].load(tmp_path)
    standup = BENCHMARKS["rivabench_standup"].load(tmp_path)
    assert [item.sample.gold for item in academic] == ["A", "B"]
    assert [item.sample.gold for item in standup] == ["B"]
    assert all(len(item.sample.options) == 5 for item in academic + standup)


def test_real_items_have_their_media_and_clips(real_data: Path) -> None:
    root = real_data / "benchmarks"
    assert [benchmark.name for benchmark in present_benchmarks(root)] == ["dailyomni", "rivabench_standup", "mmau"]
    expected = {
        "dailyomni": (8, 160_000, False),
        "rivabench_standup": (8, 160_000, False),
        "mmau": (None, None, False),
    }
    for name, (frames, samples, is_image) in expected.items():
        benchmark = BENCHMARKS[name]
        items = benchmark.load(root)
        assert not [item.missing for item in items if item.missing]
        require_media(items, benchmark)
        _, folder = benchmark.locate(root)
        clip = read_sample(items[0], folder).clip
        assert clip is not None
        assert clip.is_image is is_image
        assert clip.waveform is not None
        if frames is None:
            assert clip.frames is None
        else:
            assert clip.frames is not None
            assert clip.frames.shape[0] == frames
            assert clip.fps == pytest.approx(frames / clip.duration)
            assert clip.waveform.shape == (samples,)


def test_frames_and_audio_are_options(real_data: Path) -> None:
    benchmark = BENCHMARKS["dailyomni"]
    root = real_data / "benchmarks"
    item = benchmark.load(root)[0]
    clip = read_sample(item, benchmark.locate(root)[1], num_frames=16, max_audio_seconds=20.0).clip
    assert clip is not None
    assert clip.frames is not None
    assert clip.waveform is not None
    assert len(clip.frames) == 16
    assert clip.waveform.shape == (320_000,)


def test_avqa_data_root_is_found_either_way(real_data: Path) -> None:
    benchmark = BENCHMARKS["avqa"]
    below, own = benchmark.load(real_data), benchmark.load(real_data / "avqa")
    assert below == own
    assert benchmark.locate(real_data)[1] == benchmark.locate(real_data / "avqa")[1] == real_data / "avqa"
    assert not any(item.missing for item in own)
    assert set(own[0].categories) == {"question_type", "question_relation"}


def test_a_question_set_of_ones_own(real_data: Path) -> None:
    own = question_set("mine", 4, annotation_file="val_qa.json")
    assert len(own.load(real_data / "avqa")) == 4
    assert own.official is None


def test_missing_media_are_wrong_answers_not_fewer_items(real_data: Path) -> None:
    benchmark = BENCHMARKS["mmau"]
    items = load(real_data, "mmau")
    record = missing_media_record(benchmark, items[0])
    assert record.failure == "missing_media"
    assert record.failure_detail == f"not found: {items[0].missing[0]}"
    with pytest.raises(ValueError, match=r"MMAU: .*1000 of 1000 .*test-mini-audios/3fe64f3d"):
        require_media(items, benchmark)


def test_fingerprint_follows_the_questions_only(real_data: Path) -> None:
    root = real_data / "benchmarks"
    items = BENCHMARKS["dailyomni"].load(root)
    elsewhere = BENCHMARKS["dailyomni"].load(root / "nowhere", annotations=root / "dailyomni" / "qa.json")
    assert elsewhere[0].missing
    assert fingerprint(items) == fingerprint(elsewhere)
    assert fingerprint(items) != fingerprint(items[1:])


def test_select_keeps_the_order_and_refuses_unknown_ids(real_data: Path) -> None:
    items = BENCHMARKS["dailyomni"].load(real_data / "benchmarks")
    ids = [item.sample.id for item in items]
    assert [item.sample.id for item in select(items, [ids[2], ids[0]])] == [ids[0], ids[2]]
    with pytest.raises(ValueError, match=r"1 ids .*: unknown"):
        select(items, [ids[0], "unknown"])


ROW = {"id": "a", "audio_id": "x.wav", "question": "q", "choices": ["u", "v"], "answer": "v", "task": "t"}
ROW |= {"difficulty": "d", "category": "c", "sub-category": "s"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no questions of MMAU"),
        ([ROW, ROW], "id 'a' occurs twice"),
        ([ROW | {"answer": "w"}], "entry 1: the gold answer 'w' is none of the options 'u', 'v'"),
        ([ROW, {"id": "b"}], "entry 2 has no key"),
        (["x"], "entry 1 "),
        ([ROW | {"audio_id": "../x.wav"}], "must be a path inside the benchmark's folder"),
        ([ROW | {"audio_id": "/x.wav"}], "must be a path inside the benchmark's folder"),
        ([ROW | {"choices": "uv"}], "the options must be a list"),
    ],
)
def test_bad_annotations_name_file_and_entry(tmp_path: Path, rows: list, message: str) -> None:
    path = tmp_path / "mmau-test-mini.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message) as caught:
        BENCHMARKS["mmau"].load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_folder_without_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"DailyOmni; expected qa\.json in it or in its folder dailyomni"):
        BENCHMARKS["dailyomni"].load(tmp_path)
    with pytest.raises(ValueError, match="`benchmark` must be one of avqa, dailyomni"):
        get_benchmark("dailyomnis")
    assert present_benchmarks(tmp_path) == []


def test_labels_are_stripped_only_where_they_are_labels() -> None:
    assert strip_labels(["A. B. King", "(B) A. Smith", "C: 3", "D) x"]) == ("B. King", "A. Smith", "3", "x")
    with pytest.raises(ValueError, match="does not begin with its letter, 'B'"):
        strip_labels(["A. x", "C. y"])
    assert relative_path("./audio/a.wav") == "audio/a.wav"
