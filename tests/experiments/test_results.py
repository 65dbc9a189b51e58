"""The numbers of tables against hand-worked ones, from evaluation folders."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from avrt.experiments.page import write_page
from avrt.experiments.plan import ExperimentPlan
from avrt.experiments.results import TableResult, fill_tables, read_runs
from avrt.experiments.specs import Arm, Base, Row, StageBase, Table
from avrt.experiments.stages import expand
from avrt.experiments.state import StageState
from avrt.experiments.text import as_csv, text_table
from avrt.judging.claims import ReplyClaims
from avrt.traces.verdicts import digest_of
from tests.small_evaluations import write_evaluation

ARMS = {"base": Arm("no training", sft=None, grpo=None), "rl": Arm("RL", sft=None)}
SEEDS = (0, 1)

RIGHT = "<think>I see red A C.</think>\n<answer>A</answer>"
WRONG = "<think>I hear hum A B.</think>\n<answer>B</answer>"
BROKEN = "A"


def base(*, judge: bool = False) -> Base:
    with_claims: dict[str, Any] = (
        {"claims_judge": ["claims --run {run} --out {claims}"]}
        if judge
        else {"claims_rule": "avrt.demo.claims.claims_stream"}
    )
    return Base(
        title="tiny",
        student="demo:student",
        traces=StageBase("cli_configs/traces_demo.yaml"),
        sft=StageBase("cli_configs/sft_tiny.yaml", student="{run}/student"),
        grpo=StageBase("cli_configs/grpo_tiny.yaml", student="{run}/student"),
        evaluate=StageBase("cli_configs/eval_demo.yaml"),
        **with_claims,
    )


def plan_of(folder: Path, *, judge: bool = False, **tables: Table) -> ExperimentPlan:
    own = base(judge=judge)
    expansion = expand(tables, ARMS, own, "tiny", out=folder, seeds=SEEDS)
    return ExperimentPlan("a title", tables, ARMS, own, "tiny", SEEDS, folder, expansion, quick=False)


def finish(plan: ExperimentPlan, arm: str, seed: int, replies: list[str], modalities: str = "AV") -> None:
    """Write the evaluation of an arm: two questions about each clip."""
    (name,) = (e.stage for e in plan.expansion.evaluations if (e.arm, e.seed, e.modalities) == (arm, seed, modalities))
    stage = plan.stages[name]
    write_evaluation(stage.folder / "run", name, replies, modalities, gold="A")
    StageState(stage.fingerprint, "complete", 60.0, ["python -m avrt test"]).write(stage.folder)


def filled(plan: ExperimentPlan) -> TableResult:
    (result,) = fill_tables(plan, read_runs(plan))
    return result


def test_mean_over_seeds_and_difference(tmp_path: Path) -> None:
    table = Table("accuracy", [Row("base", [50.2]), Row("rl")], paper_columns=["OmniBench"])
    plan = plan_of(tmp_path, T=table)
    finish(
        plan, "base", 0, [RIGHT, WRONG, WRONG, WRONG, WRONG, WRONG, BROKEN, RIGHT]
    )  # the same for both seeds: 2 of 8
    finish(plan, "rl", 0, [RIGHT, RIGHT, RIGHT, RIGHT, WRONG, WRONG, BROKEN, RIGHT])  # 5 of 8
    finish(plan, "rl", 1, [RIGHT, RIGHT, RIGHT, WRONG, WRONG, WRONG, BROKEN, RIGHT])  # 4 of 8
    result = filled(plan)
    one, other = (row.cells[0] for row in result.rows)
    assert one is not None
    assert other is not None
    assert (one.share, one.by_seed, one.difference) == (0.25, (0.25, 0.25), None)
    assert (other.share, other.by_seed) == (0.5625, (0.625, 0.5))
    change = other.difference
    assert change is not None
    assert change.value == pytest.approx(0.3125)
    # Changes by clip over both seeds: clip 0 +2 (item 1, twice), clip 1 +3, clips 2 and 3 none. Of the four sign
    # patterns of 2 and 3, two have a sum of 5 or more in size.
    assert change.p_value == pytest.approx(0.5)
    assert change.p_holm == pytest.approx(0.5)
    assert change.interval[0] <= change.value <= change.interval[1]
    assert result.rows[0].paper == (50.2,)


def test_holms_correction_is_over_the_table(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, T=Table("by streams", [Row("base"), Row("rl")], modalities=["AV", "A"]))
    for modalities in ("AV", "A"):
        finish(plan, "base", 0, [WRONG] * 16, modalities)
        for seed in SEEDS:
            finish(plan, "rl", seed, [RIGHT] * 16, modalities)
    cells = filled(plan).rows[1].cells
    changes = [cell.difference for cell in cells if cell is not None and cell.difference is not None]
    assert [change.p_value for change in changes] == [pytest.approx(2 / 2**8)] * 2  # 8 clips, all one way
    assert [change.p_holm for change in changes] == [pytest.approx(4 / 2**8)] * 2


def test_a_row_that_is_not_finished_says_what_is_missing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, T=Table("accuracy", [Row("base"), Row("rl")]))
    finish(plan, "base", 0, [RIGHT, WRONG])
    finish(plan, "rl", 0, [RIGHT, RIGHT])
    result = filled(plan)
    assert result.rows[1].cells == (None,)
    assert "seed 1 AV" in result.rows[1].missing


def test_errors_claims_and_outcomes(tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "E": Table("errors", [Row("base")], kind="errors"),
        "O": Table("outcomes", [Row("base")], kind="outcomes"),
        "C": Table("claims", [Row("base")], kind="claims", modalities=["AV", "V", "A"]),
    }
    plan = plan_of(tmp_path, **tables)
    finish(plan, "base", 0, [RIGHT, WRONG, WRONG, BROKEN])
    finish(plan, "base", 0, [RIGHT, WRONG, WRONG, BROKEN], "V")
    finish(plan, "base", 0, [RIGHT, RIGHT, RIGHT, WRONG], "A")
    errors, outcomes, claims = fill_tables(plan, read_runs(plan))
    shares = [[cell.share if cell else None for cell in result.rows[0].cells] for result in (errors, outcomes, claims)]
    assert shares[0] == [0.25, 0.5]
    assert sum(share or 0 for share in shares[1]) == pytest.approx(1.0), "every reply has one outcome"
    assert claims.columns == ("AV claims images", "AV claims audio", "V claims audio", "A claims images")
    assert shares[2] == [0.25, 0.5, 0.5, 0.75], "with both; heard in silence; seen in black frames"


def test_claims_by_a_judge(tmp_path: Path) -> None:
    """A reply that the judge gave no verdict on counts in no arm; an arm whose judge is not done has no number."""
    table = Table("claims", [Row("base"), Row("rl")], kind="claims", modalities=["A"])
    plan = plan_of(tmp_path, judge=True, T=table)
    texts = [RIGHT, RIGHT, WRONG, BROKEN]
    for arm, seed in (("base", 0), ("rl", 0), ("rl", 1)):
        finish(plan, arm, seed, [f"{text} {arm} {seed}" for text in texts], "A")
    judge_replies(plan, "base", 0, texts, [["red"], ["red"], [], []])
    judge_replies(plan, "rl", 0, texts, [["red"], None, [], []])
    assert [row.cells[0] and row.cells[0].share for row in filled(plan).rows] == [pytest.approx(1 / 3), None]
    judge_replies(plan, "rl", 1, texts, [[], ["red"], ["blue"], []])
    one, other = (row.cells[0] for row in filled(plan).rows)
    assert one is not None
    assert other is not None
    assert (one.items, one.share) == (3, pytest.approx(1 / 3))
    assert other.by_seed == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert "without 1 items" in filled(plan).note


def judge_replies(plan: ExperimentPlan, arm: str, seed: int, texts: list[str], seen: list[list[str] | None]) -> None:
    """Write what a judge found in the replies of an arm."""
    (name,) = (e.claims for e in plan.expansion.evaluations if (e.arm, e.seed) == (arm, seed))
    stage = plan.stages[name]
    stage.folder.mkdir(parents=True)
    lines = [
        ReplyClaims(name, "demo", f"item-{index}", "A", digest_of(f"{text} {arm} {seed}"), found, found and [])
        for index, (text, found) in enumerate(zip(texts, seen, strict=True))
    ]
    text = "".join(json.dumps(asdict(line)) + "\n" for line in lines)
    (stage.folder / "claims.jsonl").write_text(text)
    StageState(stage.fingerprint, "complete", 60.0, ["python -m avrt claims"]).write(stage.folder)


def test_subsets(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, T=Table("subsets", [Row("base")], kind="difficulty"))
    finish(plan, "base", 0, [RIGHT, WRONG, RIGHT, RIGHT])
    lists = tmp_path / "difficulty" / "lists"
    lists.mkdir(parents=True)
    (lists / "easy.txt").write_text("item-0\nitem-1\n")
    (lists / "hard.txt").write_text("item-2\nitem-3\n")
    result = filled(plan)
    assert result.columns == ("easy", "hard")
    assert [cell.share for cell in result.rows[0].cells if cell] == [0.5, 1.0]


def test_arms_on_different_items_are_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, T=Table("accuracy", [Row("base"), Row("rl")]))
    finish(plan, "base", 0, [RIGHT, WRONG])
    for seed in SEEDS:
        finish(plan, "rl", seed, [RIGHT, RIGHT, RIGHT])
    with pytest.raises(ValueError, match="different items"):
        filled(plan)


def test_texts_and_page(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, T=Table("a <b>table</b>", [Row("base", [50.2]), Row("rl")], paper_columns=["OmniBench"]))
    finish(plan, "base", 0, [WRONG] * 8)
    for seed in SEEDS:
        finish(plan, "rl", seed, [RIGHT] * 8)
    result = filled(plan)
    table = text_table(result, "no training")
    assert table.heads == ("demo", "paper OmniBench")
    rows = {row.label: row.cells for group in table.groups for row in group}
    assert rows["no training"] == ("0.0", "50.2")
    assert rows["difference"][0] == "+100.0 (p = 0.125)"  # 4 clips: 2/2^4
    (line,) = (row for row in csv.DictReader(io.StringIO(as_csv([result]))) if row["arm"] == "rl")
    assert (float(line["share"]), float(line["difference"]), line["reference"]) == (1.0, 1.0, "base")
    json.dumps(result.as_dict(), allow_nan=False)
    page = write_page(plan, [result], tmp_path / "results").read_text()
    assert "a &lt;b&gt;table" in page
    assert "<b>table" not in page
    assert "+100.0" in page
    assert "replies-AV/index.html" in page
