"""JSON of others: every fault is a ValueError of one line, at every place that reads such files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avrt.config.remote_code import check_no_remote_code
from avrt.data.manifest import read_manifest
from avrt.data.records import RecordError, parse_json
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.files.json_rows import read_json_rows
from avrt.files.json_text import MAX_DEPTH, decode_json
from tests.shard_files import write_set

DEEP = "[" * 100_000 + "]" * 100_000
FAULTS = {
    "deep": (DEEP, "nested"),
    "nearly_as_deep_as_python_reads": ("[" * 900 + "]" * 900, "nested"),
    "deep_in_a_field": (f'{{"a": {"[" * 200}{"]" * 200}}}', "nested"),
    "digits": ('{"id": ' + "9" * 5000 + "}", "4,300 digits"),
}


@pytest.mark.parametrize(("text", "says"), FAULTS.values(), ids=FAULTS)
def test_faults(text: str, says: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(ValueError, match=says):
            decode_json(data)


def test_values_are_those_of_json() -> None:
    nested: Any = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    wide = [{"a": [1, {"b": "[" * 500}]} for _ in range(300)]
    for value in (nested, wide, {}, [], "text", None, 1.5):
        assert decode_json(json.dumps(value)) == value
    with pytest.raises(ValueError, match="nested"):
        decode_json(json.dumps([nested]))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


READERS: dict[str, Callable[[Path, str], Any]] = {
    "rows": lambda folder, text: read_json_rows(write(folder, "rows.json", text)),
    "lines": lambda folder, text: read_json_rows(write(folder, "rows.jsonl", f'{{"a": {text}}}')),
    "manifest": lambda folder, text: read_manifest(write(folder, "manifest.json", text).parent),
    "run": lambda folder, text: RunInfo.read(write(folder, "run.json", text).parent),
    "record": lambda folder, text: Record.from_json(text, f"{folder}, line 3"),
    "student": lambda folder, text: check_no_remote_code(write(folder, "config.json", text).parent),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", [DEEP, '{"id": ' + "9" * 5000 + "}"], ids=["deep", "digits"])
def test_readers_name_the_file(tmp_path: Path, reader: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"nested|digits") as caught:
        READERS[reader](tmp_path, text)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_member_of_a_shard() -> None:
    with pytest.raises(RecordError, match=r"bad_json.*nested"):
        parse_json(DEEP.encode())


@pytest.mark.parametrize("name", ["s" * 300 + ".tar", "a\x00b.tar", "../a.tar", "a.zip", "\ud800.tar"])
def test_a_manifest_with_a_name_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    write_set(tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json: lists .* which is not the name of a shard"):
        read_manifest(tmp_path)
