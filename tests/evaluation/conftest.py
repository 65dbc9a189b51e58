"""Records and run folders with given outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from avrt.evaluation.records.log import RecordWriter, read_records, record_files, write_records
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo

RunMaker = Callable[..., Path]


def reply(letter: str) -> str:
    """A reply in the trained format."""
    return f"<think>I looked and listened.</think>\n<answer>{letter}</answer>"


def make_records(benchmark: str, replies: Sequence[str], **changes: object) -> list[Record]:
    """One record per reply; gold is always A, of four options; two categories alternate."""
    values: dict[str, object] = {
        "question": "Which animal is heard?",
        "options": ("cat", "dog", "owl", "cow"),
        "gold": "A",
        "official_gold": "cat",
        "prompt_tokens": 100,
        "completion_tokens": 10,
    }
    return [
        Record(
            id=f"item-{index}",
            benchmark=benchmark,
            index=index,
            text=text,
            categories={"kind": "even" if index % 2 == 0 else "odd"},
            **(values | changes),  # type: ignore[arg-type]
        )
        for index, text in enumerate(replies)
    ]


def merge_records(folder: Path) -> list[Record]:
    """Write ``records.jsonl`` from all processes' files, as scoring does."""
    records = read_records(folder)
    write_records(folder, records)
    return records


def answered_ids(folder: Path) -> set[str]:
    """Ids of the items that have a reply, over all processes' files."""
    return {record.id for record in read_records(folder) if record.failure is None} if record_files(folder) else set()


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Writes a benchmark's folder of a run, its records divided between some ranks; returns the run's folder."""

    def make(
        run: str, benchmark: str, replies: Sequence[str], *, ranks: int = 1, items: int | None = None, **changes: object
    ) -> Path:
        folder = tmp_path / run / benchmark
        info = {"model": "tiny", "dataset_fingerprint": "0" * 64, "avrt_version": "0.1.0", **changes}
        RunInfo(run=run, benchmark=benchmark, items=items or len(replies), **info).write(folder)  # type: ignore[arg-type]
        records = make_records(benchmark, replies)
        for rank in range(ranks):
            with RecordWriter(folder, rank) as writer:
                writer.append(*records[rank::ranks])
        return tmp_path / run

    return make
