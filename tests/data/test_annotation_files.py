"""Annotation files of every kind give the same rows; broken ones are refused by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from avrt.data.annotations import ReadOptions, read_annotations
from avrt.data.annotations.files import iterate_rows

ROWS = [
    {
        "id": number,
        "video_name": f"clip_{number}",
        "video_id": number,
        "question": f"What, \u2028 is “heard” in {number}?",
        "choices": ["dog", "cat, or kitten", "7", "null"],
        "answer": ["dog", "cat, or kitten", "7", "null"][number % 4],
        "question_relation": "Sound",
        "question_type": "Which",
        "av_reasoning": f"<think>It is {number}.</think><answer>{'ABCD'[number % 4]}</answer>",
    }
    for number in range(5)
]
"""Rows in AVRT-20K's published form."""


def samples(path: Path, **options):
    return read_annotations(path, ReadOptions(**options)).samples


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    found = samples(path)
    assert [sample.gold for sample in found] == ["A", "B", "C", "D", "A"]
    assert found[1].trace == ROWS[1]["av_reasoning"]
    return found


def as_dataset(rows=ROWS):
    datasets = pytest.importorskip("datasets", reason="the folders to read are written by `datasets`")
    return datasets.Dataset.from_list(rows)


def test_json_lines(tmp_path, expected):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert samples(tmp_path / "rows.jsonl") == expected


def test_parquet(tmp_path, expected):
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=2)
    assert samples(tmp_path / "rows.parquet") == expected


def test_parquet_of_datasets(tmp_path, expected):
    as_dataset().to_parquet(str(tmp_path / "rows.parquet"))
    assert samples(tmp_path / "rows.parquet") == expected


@pytest.mark.parametrize("extension", ["csv", "tsv"])
@pytest.mark.parametrize("write_list", [json.dumps, repr], ids=["json", "pandas"])
def test_tables(tmp_path, expected, extension, write_list):
    """Lists are texts there, as JSON or as pandas prints them; every value is a text."""
    path = tmp_path / f"rows.{extension}"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if extension == "csv" else "\t")
        writer.writeheader()
        writer.writerows({**row, "choices": write_list(row["choices"])} for row in ROWS)
    found = samples(path)
    assert [(sample.question, sample.options, sample.gold) for sample in found] == [
        (sample.question, sample.options, sample.gold) for sample in expected
    ]


def test_a_table_with_one_column_per_option_and_numbers(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,a,b,c,label,file\nWhat?,dog,cat,cow,1,x/1.mp4\nWho?,he,she,,0,2.mp4\n")
    fields = "question=prompt,options=a+b+c,answer=label,video=file"
    first, second = samples(path, fields=fields)
    assert (first.question, first.options, first.answer) == ("What?", ("dog", "cat", "cow"), 1)
    assert (first.id, first.source, first.extra) == ("row-000001", "x/1.mp4", {})
    assert (second.options, second.answer, second.source) == (("he", "she"), 0, "2.mp4")
    first, second = samples(path, fields=fields, answer_base=1, max_bad_rows=1) * 2
    assert first.gold == "A"
    path.write_text("prompt,a,b,c,label,file\nWhat?,dog,,cow,2,x/1.mp4\n")
    with pytest.raises(ValueError, match="entry 1: has no `b`, but columns after it"):
        samples(path, fields=fields)


def test_a_dataset_saved_to_disk(tmp_path, expected):
    as_dataset().save_to_disk(tmp_path / "saved", num_shards=2)
    assert samples(tmp_path / "saved") == expected


def test_a_selection_saved_to_disk(tmp_path, expected):
    as_dataset().select([3, 1]).save_to_disk(tmp_path / "saved")
    assert [sample.id for sample in samples(tmp_path / "saved")] == ["3", "1"]


def test_several_datasets_saved_to_disk(tmp_path, expected):
    datasets = pytest.importorskip("datasets", reason="the folders to read are written by `datasets`")
    both = datasets.DatasetDict({"train": as_dataset(), "valid": as_dataset(ROWS[:2])})
    both.save_to_disk(tmp_path / "saved")
    assert samples(tmp_path / "saved", dataset_split="train") == expected
    assert len(samples(tmp_path / "saved", dataset_split="valid")) == 2
    with pytest.raises(ValueError, match=r"dataset_split: .* has several splits; choose one of train, valid"):
        samples(tmp_path / "saved")
    with pytest.raises(ValueError, match="has no split 'test'"):
        samples(tmp_path / "saved", dataset_split="test")


def test_a_folder_as_on_the_hub(tmp_path, expected):
    """One split, as AVRT-20K has it, needs no choice."""
    folder = tmp_path / "AVRT-20K" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "AVRT-20K" / "README.md").write_text("card")
    for number, rows in enumerate((ROWS[:3], ROWS[3:])):
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"af3_kimivl-{number:05d}-of-00002.parquet")
    assert samples(tmp_path / "AVRT-20K") == expected
    parquet.write_table(pyarrow.Table.from_pylist(ROWS[:1]), folder / "valid-00000-of-00001.parquet")
    assert len(samples(tmp_path / "AVRT-20K", dataset_split="valid")) == 1
    with pytest.raises(ValueError, match="choose one of af3_kimivl, valid"):
        samples(tmp_path / "AVRT-20K")


def test_a_file_is_read_in_batches(tmp_path):
    """Rows with media are large, so few are in memory at a time."""
    rows = [{"image": {"bytes": b"x" * 100_000, "path": None}, "number": number} for number in range(200)]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=10, use_dictionary=False, compression="none")
    del rows, table
    before = pyarrow.total_allocated_bytes()
    reader = iterate_rows(tmp_path / "rows.parquet")
    assert next(reader)["number"] == 0
    assert pyarrow.total_allocated_bytes() - before < 10e6
    assert [row["number"] for row in reader] == list(range(1, 200))


def broken_parquet(folder: Path) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
    (folder / "rows.parquet").write_bytes((folder / "rows.parquet").read_bytes()[:-20])
    return folder / "rows.parquet"


def truncated_arrow(folder: Path) -> Path:
    as_dataset(ROWS * 50).save_to_disk(folder / "saved")
    (file,) = (folder / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:3000])
    return folder / "saved"


def without_arrow(folder: Path) -> Path:
    as_dataset().save_to_disk(folder / "saved")
    next((folder / "saved").glob("*.arrow")).unlink()
    return folder / "saved"


def outside(folder: Path) -> Path:
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    return folder / "saved"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def ragged_table(folder: Path) -> Path:
    (folder / "rows.csv").write_text("id,question\n1,what,else\n")
    return folder / "rows.csv"


def latin_table(folder: Path) -> Path:
    (folder / "rows.csv").write_bytes("id,question\n1,où\n".encode("latin-1"))
    return folder / "rows.csv"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken_parquet, "not a complete parquet file"),
        (truncated_arrow, "not a complete Arrow stream"),
        (without_arrow, "is incomplete: it has no data-00000"),
        (outside, "not a file of this folder"),
        (empty_folder, "neither a folder that `datasets` saved nor one with parquet files"),
        (ragged_table, "line 2 has another number of cells"),
        (latin_table, "is not UTF-8"),
    ],
)
def test_broken_files(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        samples(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="annotations: there is no file"):
        samples(tmp_path / "none.json")
