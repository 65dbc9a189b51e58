"""Annotations with reasoning, in AVRT-20K's published form, to shards that fine-tuning reads as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from rich.console import Console

from avrt.cli import main
from avrt.data.shards import ShardSet
from avrt.sample import Sample
from avrt.text.answers import is_formatted
from avrt.traces.published import filter_reasoning
from avrt.traces.splits import split_of
from avrt.traces.statistics import print_statistics
from tests.media_files import as_int16, numbered_frame, tone, write_video

CLIPS = 8
PRESET = Path(__file__).resolve().parents[2] / "cli_configs" / "sft_tiny.yaml"
SCHEMA = pyarrow.schema(
    {
        "id": pyarrow.int64(),
        "video_name": pyarrow.string(),
        "video_id": pyarrow.int64(),
        "question": pyarrow.string(),
        "choices": pyarrow.list_(pyarrow.string()),
        "answer": pyarrow.string(),
        "question_relation": pyarrow.string(),
        "question_type": pyarrow.string(),
        "av_reasoning": pyarrow.string(),
    }
)
"""The published columns."""


def row(number: int, reasoning: str | None) -> dict:
    return {
        "id": number,
        "video_name": f"-c{number // 2}_000030",
        "video_id": number // 2,
        "question": f"What is heard in {number}?",
        "choices": ["dog", "cat", "cow", "bird"],
        "answer": "cat",
        "question_relation": "Both" if number else "Sound",
        "question_type": "Which" if number % 3 else "Used For",
        "av_reasoning": reasoning,
    }


GOOD = "<think>A cat is seen and heard.</think><answer>B</answer>"
OTHERS = {
    "no_reasoning": None,
    "wrong_answer": "<think>A dog is heard.</think><answer>A</answer>",
    "no_answer_tag": "<think>A cat is heard.</think> B",
    "trailing_text": GOOD + " I am sure.",
    "not_an_option": "<think>A cat is heard.</think><answer>cat</answer>",
    "empty_think": "<think> </think><answer>B</answer>",
}
"""One row of every outcome but ``kept``."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for clip in range(CLIPS):
        audio = as_int16(tone(200 + 20 * clip, 2, 16_000))
        write_video(
            folder / f"-c{clip}_000030.mp4",
            [numbered_frame(clip * 20 + i) for i in range(20)],
            audio=audio,
            audio_codec="aac",
        )
    return folder


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows about every clip; one clip is missing; some rows have reasoning that cannot be taught."""
    path = tmp_path_factory.mktemp("annotations") / "AVRT-20K.parquet"
    rows = [row(number, GOOD) for number in range(2 * CLIPS + 1)]
    rows += [
        row(100 + number, reasoning) | {"video_name": "-c0_000030"} for number, reasoning in enumerate(OTHERS.values())
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), path)
    return path


def pack(annotations: Path, videos: Path, out: Path, *words: str) -> int:
    command = ["pack", "--annotations", annotations, "--videos", videos, "--out", out, "--val-share", "0.3", *words]
    return main([str(word) for word in command])


@pytest.fixture(scope="module")
def packed(annotations: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The shards, and what the command printed."""
    out = tmp_path_factory.mktemp("packed") / "avrt20k"
    with pytest.MonkeyPatch.context() as patch, open(out.with_suffix(".txt"), "w+") as printed:
        patch.setattr("sys.stdout", printed)
        patch.setenv("COLUMNS", "160")
        assert pack(annotations, videos, out) == 0
        printed.seek(0)
        return out, printed.read()


def test_rows_that_can_be_taught_are_packed_by_clip(packed: tuple[Path, str]) -> None:
    out, _ = packed
    train, val = ShardSet(out / "train", verify=True), ShardSet(out / "val", verify=True)
    assert sorted(map(int, train.keys + val.keys)) == list(range(2 * CLIPS))
    for shards, split in ((train, "train"), (val, "val")):
        for sample in shards:
            assert (sample.split, split_of(sample.source, 0, 0.3)) == (split, split)
            assert is_formatted(sample.trace or "")
            assert sample.clip is not None
            assert sample.clip.waveform is not None
    assert not set(train.sources) & set(val.sources)
    assert len(val) >= 2


def test_every_other_outcome_is_listed_and_counted(packed: tuple[Path, str]) -> None:
    out, printed = packed
    lines = [json.loads(line) for name in ("train", "val") for line in (out / name / "left_out.jsonl").open()]
    assert {line["id"]: line["reason"] for line in lines} == {
        str(2 * CLIPS): "missing_file",
        **{str(100 + number): reason for number, reason in enumerate(OTHERS)},
    }
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["considered"] == 2 * CLIPS + 1 + len(OTHERS)
    assert statistics["yield"] == {"kept": 2 * CLIPS, "missing_file": 1, **dict.fromkeys(OTHERS, 1)}
    assert all(reason in printed for reason in OTHERS)
    assert f"{2 * CLIPS} of {statistics['considered']} rows are kept" in printed
    assert "18,279 train + 945 val" in printed


def test_the_papers_numbers_are_beside_ours(packed: tuple[Path, str]) -> None:
    out, printed = packed
    statistics = json.loads((out / "statistics.json").read_text())
    rows = {cells[0]: cells[1:] for cells in table_rows(printed)}
    train, val = (statistics["splits"][name] for name in ("train", "val"))
    assert rows["Total Samples"] == [f"{train['samples']} / {val['samples']}", "18,279 / 945"]
    assert rows["Video and Audio Duration (sec)"] == ["2.0 ± 0.0 / 2.0 ± 0.0", "10.0 ± 0.1 / 10.0 ± 0.2"]
    assert rows["Which"][1] == "45.2% / 45.7%"
    # "Used For" is one of the types that the paper counts together.
    assert rows["Others"] == [rows["Used For"][0], "0.2% / 0.3%"]
    assert rows["B"] == ["100.0% / 100.0%", "25.2% / -"]
    assert rows["Sound"][1] == "0.7% / -"
    length = next(cells for name, cells in rows.items() if name.startswith("Thinking Section Length (words"))
    assert length == ["7.0 ± 0.0 / 7.0 ± 0.0", "165.5 ± 33.9 / 163.4 ± 32.5"]


def table_rows(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│\n").split("│")] for line in printed.splitlines() if line[:1] == "│"]


def test_without_the_paper_a_table_has_our_numbers_alone(packed: tuple[Path, str]) -> None:
    console = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115
    print_statistics(json.loads((packed[0] / "statistics.json").read_text()), console)
    assert "45.2%" not in console.export_text()


def test_a_finished_run_does_nothing_again(packed: tuple[Path, str], annotations: Path, videos: Path) -> None:
    out, _ = packed
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/**/*") if path.is_file()}
    assert len(before) > 10
    assert pack(annotations, videos, out) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_split_of_the_same_folder_is_refused(
    packed: tuple[Path, str], annotations: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a clip could be in both splits while only one of them is written anew."""
    out, _ = packed
    assert pack(annotations, videos, out, "--split-seed", "1") != 0
    assert "split_seed 0 (now 1)" in capsys.readouterr().err
    assert pack(annotations, videos, out, "--val-share", "0") != 0
    assert "val" in capsys.readouterr().err


def test_an_empty_split_is_refused_with_a_share_that_works(
    annotations: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(annotations, videos, tmp_path / "out", "--val-share", "0.001") != 0
    error = capsys.readouterr().err
    share = re.search(r"val_share: 0.001 leaves split 'val' empty.* set it to (0\.\d+) or more", error)
    assert share
    assert not (tmp_path / "out").exists()


def test_all_rows_as_plain_questions(annotations: Path, videos: Path, tmp_path: Path) -> None:
    assert pack(annotations, videos, tmp_path / "out", "--reasoning", "drop") == 0
    shards = ShardSet(tmp_path / "out")
    assert len(shards) == 2 * CLIPS + len(OTHERS)
    assert {sample.trace for sample in shards} == {None}


@pytest.mark.timeout(300)
def test_plain_questions_into_a_folder_with_splits_are_refused(
    packed: tuple[Path, str], annotations: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the folder would be a set itself, and the run with reasoning could not be repeated."""
    out, _ = packed
    assert pack(annotations, videos, out, "--reasoning", "drop") == 1
    assert "train" in capsys.readouterr().err
    assert not (out / "manifest.json").exists()


def test_fine_tuning_reads_the_result_as_it_is(packed: tuple[Path, str], student_folder: Path, tmp_path: Path) -> None:
    out, _ = packed
    settings = {
        "trainer.max_steps": 2,
        "trainer.enable_progress_bar": "false",
        "output_dir": tmp_path / "run",
        "model.init_args.student.path": student_folder,
        "data.init_args.train": out / "train",
        "data.init_args.val": out / "val",
        "data.init_args.batch_size": 2,
        "data.init_args.val_every_n_steps": 2,
        "data.init_args.num_workers": 0,
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    assert main(["fit", "--config", str(PRESET), *words]) == 0
    assert (tmp_path / "run" / "student").is_dir()


def test_targets_have_one_spacing() -> None:
    sample = Sample("1", "?", ("dog", "cat"), 1, trace="  <think>\nso</think>\n\n<answer> B </answer><|im_end|>\n")
    kept, left_out = filter_reasoning([sample])
    assert left_out == []
    assert kept[0].trace == "<think>so</think>\n<answer>B</answer>"


def test_real_clips(real_data: Path, tmp_path: Path) -> None:
    """Rows written here about real clips, through `datasets`."""
    datasets = pytest.importorskip("datasets", reason="the file is written by `datasets`")
    rows = []
    for record in json.loads((real_data / "avqa" / "train_qa.json").read_text())[:4]:
        options = [str(option) for option in record["multi_choice"]]
        letter = "ABCD"[record["answer"]]
        rows.append(
            {name: record[name] for name in ("id", "video_name", "video_id", "question_relation", "question_type")}
            | {"question": record["question_text"], "choices": options, "answer": options[record["answer"]]}
            | {"av_reasoning": f"<think>Seen and heard: {letter}.</think>\n<answer>{letter}</answer>"}
        )
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "annotations")
    out = tmp_path / "out"
    assert pack(tmp_path / "annotations", real_data / "avqa" / "videos", out, "--val-share", "0") == 0
    shards = ShardSet(out / "train")
    assert shards.keys == [str(each["id"]) for each in rows]
    assert all(sample.trace.endswith(f"<answer>{sample.gold}</answer>") for sample in shards)
