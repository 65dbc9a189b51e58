"""Easy, medium and hard lists from two teachers' answers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrt.commands import subsets as subsets_command
from avrt.data.id_lists import read_ids
from avrt.evaluation.difficulty_subsets import difficulty_subsets, read_outcomes
from tests.evaluation.conftest import RunMaker, reply


def run_subsets(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subsets_command.add_arguments(parser)
    args, settings = parser.parse_known_args(list(words))
    args.settings = settings
    return subsets_command.run(args)


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.booleans(), st.booleans())))
def test_each_item_is_in_one_subset(answers: dict[str, tuple[bool, bool]]) -> None:
    subsets = difficulty_subsets(
        {item: seen for item, (seen, _) in answers.items()}, {item: heard for item, (_, heard) in answers.items()}
    )
    assert sorted(item for ids in subsets.values() for item in ids) == sorted(answers)
    for item, right in answers.items():
        assert item in subsets[("hard", "medium", "easy")[sum(right)]]


def test_from_a_run_and_from_a_ledger(make_run: RunMaker, tmp_path: Path) -> None:
    vision = make_run("vision", "omnibench", [reply("A"), reply("A"), reply("B"), "?"])
    ledger = tmp_path / "audio.jsonl"
    outcomes = [("item-3", False), ("item-0", True), ("item-1", False), ("item-2", True)]
    ledger.write_text("".join(json.dumps({"id": i, "correct": c, "text": "kept"}) + "\n" for i, c in outcomes))
    out = tmp_path / "lists"
    assert run_subsets("--vision", str(vision), "--audio", str(ledger), "--out", str(out)) == 0
    assert read_ids(out / "easy.txt") == ["item-0"]
    assert read_ids(out / "medium.txt") == ["item-1", "item-2"]
    assert read_ids(out / "hard.txt") == ["item-3"]
    summary = json.loads((out / "subsets.json").read_text())
    assert summary["counts"] == {"easy": 1, "medium": 2, "hard": 1}
    assert summary["sources"] == {"vision": str(vision), "audio": str(ledger)}


def test_a_run_with_several_benchmarks_needs_a_choice(make_run: RunMaker) -> None:
    make_run("run", "mmau", [reply("A")])
    run = make_run("run", "mmar", [reply("B")])
    with pytest.raises(ValueError, match=r"several benchmarks \(mmar, mmau\); choose one with --benchmark"):
        read_outcomes(run)
    assert read_outcomes(run, "mmau") == {"item-0": True}
    assert read_outcomes(run / "mmar") == {"item-0": False}
    with pytest.raises(ValueError, match="has no 'avqa', only mmar, mmau"):
        read_outcomes(run, "avqa")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no outcomes"),
        ("{\n", "line 1 "),
        ('{"id": "a"}\n', "entry 1 needs `id` and `correct`"),
        ('{"id": "a", "correct": 1}\n', "entry 1 needs `id` and `correct`"),
        (
            '{"id": "a", "correct": true}\n{"id": "a", "correct": false}\n',
            "entry 2: 'a' was True",
        ),
    ],
)
def test_bad_ledgers_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_outcomes(path)


def test_teachers_must_have_answered_the_same_items() -> None:
    with pytest.raises(
        ValueError, match=r"different items \(1 only in --vision, 2 only in --audio\), for instance a, b"
    ):
        difficulty_subsets({"a": True, "x": True}, {"b": True, "c": False, "x": True})


def test_id_files(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("# hard items\n a \n\nb\n")
    assert read_ids(path) == ["a", "b"]
    path.write_text("a\na\n")
    with pytest.raises(ValueError, match="lists 'a' twice"):
        read_ids(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="lists no ids"):
        read_ids(path)
