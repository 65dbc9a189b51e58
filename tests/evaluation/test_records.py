"""The log of a run: nothing lost by a kill, nothing twice, one order."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrt.evaluation.records.log import (
    RECORDS_FILE,
    RecordWriter,
    read_records,
    write_records,
)
from avrt.evaluation.records.record import DERIVED_FIELDS, Record
from avrt.evaluation.records.run_info import RunInfo, benchmark_folders
from tests.evaluation.conftest import answered_ids, make_records, merge_records

INFO = RunInfo(run="r", benchmark="omnibench", model="m", items=3, dataset_fingerprint="f")


@given(
    text=st.text(),
    options=st.lists(st.text(), min_size=2, max_size=6),
    categories=st.dictionaries(st.text(), st.text()),
)
def test_a_record_survives_its_line_of_json(text: str, options: list[str], categories: dict[str, str]) -> None:
    record = Record("i", "mmau", 0, "q", tuple(options), "A", text=text, categories=categories, latency_seconds=0.1)
    line = record.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == record
    assert Record.from_json(line).to_json() == line


def test_text_that_is_no_unicode_and_line_separators_survive() -> None:
    record = replace(make_records("mmau", ["x"])[0], text="a\ud800b\u2028c\x00\r\n")
    assert Record.from_json(record.to_json().encode("ascii")) == record
    assert len(record.to_json().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: "),
        ("[]", "must be a JSON object"),
        ('{"id": "a"}', "lacks the keys benchmark, index, question, options, gold"),
        (make_records("mmau", ["x"])[0].to_json()[:-1] + ', "extra": 1}', "unknown keys extra"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Record.from_json(line, "records.jsonl: line 3")


def test_media_are_a_path_or_several() -> None:
    (record,) = make_records("dailyomni", ["A"])
    several = replace(record, media={"image": ("a.png", "b.png"), "audio": "c.wav"})
    again = Record.from_json(several.to_json())
    assert again == several
    assert again.clip == "c.wav"
    assert replace(record, media={"image": ("a.png", "b.png")}).clip == "a.png b.png"
    for wrong in (5, ["a.png"], {"image": 5}, {"image": ["a.png", 5]}, {"image": [["a.png"]]}):
        line = json.dumps({**json.loads(record.to_json()), "media": wrong})
        with pytest.raises(ValueError, match="`media` must be an object"):
            Record.from_json(line)


def test_raw_drops_exactly_the_derived_part() -> None:
    record = make_records("mmau", ["x"])[0]
    scored = replace(record, answer="A", reason="ok", correct_strict=True, correct_official=False, error_type="none")
    assert scored.raw() == record
    assert all(getattr(record, name) is None for name in DERIVED_FIELDS)


def test_an_incomplete_last_line_is_dropped_and_its_item_repeated(tmp_path: Path) -> None:
    first, second = make_records("mmau", ["one", "two"])
    with RecordWriter(tmp_path) as writer:
        writer.append(first, second)
    path = tmp_path / "records.rank0.jsonl"
    whole = path.read_bytes()
    for cut in range(len(first.to_json()) + 1, len(whole)):  # anywhere within the second line
        path.write_bytes(whole[:cut])
        assert answered_ids(tmp_path) == {"item-0"}
    with RecordWriter(tmp_path) as writer:
        writer.append(second)
    assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_an_error_not_a_loss(tmp_path: Path) -> None:
    write_records(tmp_path, make_records("mmau", ["one", "two", "three"]))
    path = tmp_path / RECORDS_FILE
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(ValueError, match=r"records\.jsonl: line 2: "):
        read_records(tmp_path)


def test_threads_of_one_process_may_append_together(tmp_path: Path) -> None:
    """An evaluation behind a server records its calls in threads; no line may overwrite another."""
    records = make_records("mmau", [f"reply {i}" * (i % 7) for i in range(200)])
    with RecordWriter(tmp_path) as writer, ThreadPoolExecutor(8) as threads:
        list(threads.map(writer.append, records))
    assert read_records(tmp_path) == records


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    first, second = make_records("mmau", ["one", "two" * 100])
    with RecordWriter(tmp_path) as writer:
        writer.append(first)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        path = tmp_path / "records.rank0.jsonl"
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, limits[1]))
        try:
            with pytest.raises(OSError, match=r"records\.rank0\.jsonl"):
                writer.append(second)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert read_records(tmp_path) == [first]
        assert path.read_bytes().endswith(b"\n"), "a part of a record was left in the file"
        writer.append(second)
    assert read_records(tmp_path) == [first, second]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match="is writing to it")
    with RecordWriter(tmp_path, rank=1), RecordWriter(tmp_path, rank=0), refused:
        RecordWriter(tmp_path, rank=1)
    with RecordWriter(tmp_path, rank=1):
        pass


def test_a_second_writer_in_another_process_is_refused(tmp_path: Path) -> None:
    code = "import sys; from avrt.evaluation.records.log import RecordWriter; RecordWriter(sys.argv[1])"
    with RecordWriter(tmp_path):
        result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode != 0
    assert "is writing to it" in result.stderr


def test_merging_ignores_ranks_and_order(tmp_path: Path) -> None:
    records = make_records("mmau", [f"reply {i}" for i in range(23)])
    merged = set()
    for seed in range(5):
        folder = tmp_path / str(seed)
        shuffled = random.Random(seed).sample(records, len(records))
        for rank in range(seed + 1):
            with RecordWriter(folder, rank) as writer:
                writer.append(*shuffled[rank :: seed + 1])
        assert merge_records(folder) == records
        merged.add((folder / RECORDS_FILE).read_bytes())
    assert len(merged) == 1


def test_an_item_given_to_two_ranks_counts_once(tmp_path: Path) -> None:
    """Lightning pads uneven shares by repeating items."""
    records = make_records("mmau", ["a", "b", "c"])
    for rank, share in enumerate([records[:2], [replace(records[0], text="other"), records[2]]]):
        with RecordWriter(tmp_path, rank) as writer:
            writer.append(*share)
    assert [record.text for record in read_records(tmp_path)] == ["a", "b", "c"]


def test_rank_files_are_ordered_by_number(tmp_path: Path) -> None:
    record = make_records("mmau", ["x"])[0]
    for rank in (10, 2):
        with RecordWriter(tmp_path, rank) as writer:
            writer.append(replace(record, text=f"rank {rank}"))
    assert read_records(tmp_path)[0].text == "rank 2"


def test_an_item_without_a_reply_is_tried_again(tmp_path: Path) -> None:
    record = make_records("mmau", [""], failure="server_error", finish_reason="missing")[0]
    with RecordWriter(tmp_path) as writer:
        writer.append(record)
    assert answered_ids(tmp_path) == set()
    merge_records(tmp_path)
    answered = replace(record, failure=None, finish_reason="stop", text="A")
    with RecordWriter(tmp_path) as writer:
        writer.append(answered)
    assert read_records(tmp_path) == [answered]
    assert merge_records(tmp_path) == [answered]


def _answer(folder: str, rank: int, ranks: int, seconds: float) -> None:
    """One process of an evaluation: it answers every open item of its share."""
    records = make_records("mmau", [f"reply {i}" for i in range(60)])
    done = answered_ids(Path(folder))
    with RecordWriter(folder, rank) as writer:
        for record in records[rank::ranks]:
            if record.id not in done:
                time.sleep(seconds)
                writer.append(record)


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_moments_and_resumed(tmp_path: Path, ranks: int) -> None:
    context = multiprocessing.get_context("fork")
    straight = tmp_path / "straight"
    _answer(str(straight), 0, 1, 0)
    expected = merge_records(straight)

    killed = tmp_path / "killed"
    moments = random.Random(ranks)
    for _ in range(6):
        processes = [context.Process(target=_answer, args=(str(killed), rank, ranks, 0.004)) for rank in range(ranks)]
        for process in processes:
            process.start()
        time.sleep(moments.uniform(0.01, 0.08))
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.join()
    for rank in range(ranks):
        _answer(str(killed), rank, ranks, 0)
    lines = [line for path in killed.glob("records.rank*") for line in path.read_text().splitlines()]
    assert len(lines) == 60  # each item once, in the logs already
    assert merge_records(killed) == expected
    assert (killed / RECORDS_FILE).read_bytes() == (straight / RECORDS_FILE).read_bytes()


def test_run_info_round_trip_and_what_may_change_on_resume(tmp_path: Path) -> None:
    INFO.write(tmp_path)
    assert RunInfo.read(tmp_path) == INFO
    replace(INFO, run="renamed", data_root="/elsewhere").write(tmp_path)
    for change in ({"model": "n"}, {"modalities": "A"}, {"items": 4}, {"decoding": {"max_new_tokens": 5}}):
        with pytest.raises(ValueError, match=f"`{next(iter(change))}[`.].*use another run folder"):
            replace(INFO, **change).write(tmp_path)  # type: ignore[arg-type]


def test_the_setting_that_differs_is_named_then_and_now(tmp_path: Path) -> None:
    info = replace(INFO, decoding={"a": 1, "b": 2}, prompt={"system": "x" * 500, "option_line": "{letter}"})
    info.write(tmp_path)
    for change, said in (
        ({"decoding": {"a": 1, "b": 3}}, "`decoding.b` 2, this one has 3"),
        ({"decoding": {"a": 1}}, "`decoding.b` 2, this one has None"),
        ({"prompt": {"system": "x" * 500, "option_line": "({letter})"}}, "`prompt.option_line` '{letter}', this one"),
        ({"prompt": {"system": "", "option_line": "{letter}"}}, "`prompt.system` 'xxx"),
    ):
        with pytest.raises(ValueError, match="use another run folder") as caught:
            replace(info, **change).write(tmp_path)  # type: ignore[arg-type]
        assert said in str(caught.value)
        assert len(str(caught.value)) < 500


def test_a_folder_without_a_recorded_prompt_is_read_but_not_resumed(tmp_path: Path) -> None:
    INFO.write(tmp_path)
    assert RunInfo.read(tmp_path).prompt is None
    with pytest.raises(ValueError, match=r"has no `prompt`.*another run folder"):
        replace(INFO, prompt={}).write(tmp_path)


@pytest.mark.parametrize("change", [{"modalities": "VA"}, {"answer_format": "json"}, {"profile": "lax"}])
def test_run_info_refuses_unknown_choices(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(change))}` must be one of"):
        replace(INFO, **change)  # type: ignore[arg-type]


def test_folders_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluation run"):
        benchmark_folders(tmp_path)
    with pytest.raises(ValueError, match="records\\.jsonl"):
        read_records(tmp_path)
    INFO.write(tmp_path / "mmau")
    INFO.write(tmp_path / "avqa")
    assert [folder.name for folder in benchmark_folders(tmp_path)] == ["avqa", "mmau"]
    assert benchmark_folders(tmp_path / "mmau") == [tmp_path / "mmau"]
