"""lm-evaluation-harness's file names and keys, read the way its own tools read them."""

from __future__ import annotations

import json
import math
import statistics
from datetime import datetime
from pathlib import Path

import pytest

from avrt.evaluation.harness_format import write_harness_files
from avrt.evaluation.scoring import score_run
from avrt.evaluation.sent_prompts import prompt_settings
from avrt.text.prompts import PromptTemplate
from tests.evaluation.conftest import RunMaker, reply
from tests.evaluation.test_scoring import run_score

PROMPT = prompt_settings(PromptTemplate(option_line="{letter}. {text}"), "tags")


def test_results_and_samples(make_run: RunMaker, tmp_path: Path) -> None:
    make_run("run", "dailyomni", [reply("A"), reply("B"), "A", ""], model="org/model-3B", prompt=PROMPT)
    run = make_run("run", "mmau", [reply("A"), reply("B")], model="org/model-3B")
    date = datetime(2026, 3, 4, 5, 6, 7, 89)
    paths = write_harness_files(score_run(run), tmp_path / "out", date)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in paths] == [
        "org__model-3B/results_2026-03-04T05-06-07.000089.json",
        "org__model-3B/samples_avrt_dailyomni_2026-03-04T05-06-07.000089.jsonl",
        "org__model-3B/samples_avrt_mmau_2026-03-04T05-06-07.000089.jsonl",
    ]
    results = json.loads(paths[0].read_text())
    for key in (
        "results",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "config",
        "date",
        "task_hashes",
    ):
        assert key in results
    task = results["results"]["avrt_dailyomni"]
    assert task["acc,none"] == 0.25
    assert task["acc_stderr,none"] == pytest.approx(statistics.stdev([1, 0, 0, 0]) / math.sqrt(4), abs=1e-12)
    assert task["acc_official,none"] == 0.25
    assert task["alias"] == "avrt_dailyomni"
    assert results["n-samples"]["avrt_dailyomni"] == {"original": 4, "effective": 4}
    assert results["model_name"] == "org/model-3B"
    assert results["model_name_sanitized"] == "org__model-3B"
    assert results["system_instruction"] == PromptTemplate().system
    assert len(results["system_instruction_sha"]) == 64
    fingerprints = {task: results["configs"][task]["metadata"]["prompt_fingerprint"] for task in results["configs"]}
    assert len(fingerprints["avrt_dailyomni"]) == 64
    assert fingerprints["avrt_mmau"] is None  # not recorded
    # As the harness's readers find the date and the task in a name.
    stamp = paths[1].stem[paths[1].stem.rfind("_") + 1 :]
    assert datetime.strptime(stamp, "%Y-%m-%dT%H-%M-%S.%f") == date
    assert paths[1].name[len("samples_") : paths[1].name.rfind("_")] == "avrt_dailyomni"

    rows = [json.loads(line) for line in paths[1].read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == [0, 1, 2, 3]
    assert [row["acc"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert rows[0]["resps"] == [[reply("A")]]
    assert rows[0]["filtered_resps"] == ["A"]
    assert rows[0]["target"] == "A"
    assert set(rows[0]["metrics"]) <= set(rows[0])
    assert "A. cat" in rows[0]["arguments"]["gen_args_0"]["arg_0"]
    assert sum(row["acc"] for row in rows) / len(rows) == task["acc,none"]
    assert all(len(row[key]) == 64 for row in rows for key in ("doc_hash", "prompt_hash", "target_hash"))


def test_several_replies_and_the_date_of_the_start(make_run: RunMaker, tmp_path: Path) -> None:
    """A resumed run rewrites run.json, whose date is then not that of the start."""
    changes = {"decoding": {"repeats": 2}, "started": "2026-03-04T05:06:07+02:00"}
    run = make_run("run", "mmau", [reply("A"), reply("B")], **changes)
    (file,) = (run / "mmau").glob("records*.jsonl")
    second = [json.loads(line) | {"repeat": 1, "text": reply("C")} for line in file.read_text().splitlines()]
    with file.open("a") as lines:
        lines.write("".join(json.dumps(row) + "\n" for row in second))
    results, samples = write_harness_files(score_run(run), tmp_path / "out")
    assert results.name == "results_2026-03-04T03-06-07.000000.json"
    assert json.loads(results.read_text())["configs"]["avrt_mmau"]["repeats"] == 2
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["resps"] for row in rows] == [[[reply("A"), reply("C")]], [[reply("B"), reply("C")]]]
    assert [row["filtered_resps"] for row in rows] == [["A", "C"], ["B", "C"]]


def test_masks_are_tasks_of_their_own(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run("run", "omnibench", [reply("A")] * 2, modalities="A", subset="hard.txt")
    paths = write_harness_files(score_run(run), tmp_path / "out")
    assert list(json.loads(paths[0].read_text())["results"]) == ["avrt_omnibench_A_hard.txt"]


def test_by_command(make_run: RunMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("run", "mmau", [reply("A")])
    assert run_score(str(run), "--harness", str(tmp_path / "out")) == 0
    assert len(list((tmp_path / "out" / "tiny").glob("results_*.json"))) == 1
    assert "results_" in capsys.readouterr().out
    results = json.loads(next((tmp_path / "out" / "tiny").glob("results_*.json")).read_text())
    assert results["results"]["avrt_mmau"]["acc_stderr,none"] == "N/A"  # of one item there is none
