"""Arms expanded into stages: what is shared, what a fingerprint covers, what each command gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.config.errors import UsageError
from avrt.config.preset_files import preset_folder
from avrt.experiments.plan import ExperimentPlan, make_plan
from avrt.experiments.specs import Arm, Base, Row, StageBase, Table
from avrt.experiments.stages import Expansion, Stage, expand

PAPER = preset_folder() / "experiments" / "paper.yaml"

ARMS = {
    "base": Arm("no training", sft=None, grpo=None),
    "rl": Arm("RL", sft=None),
    "sft": Arm("SFT", grpo=None),
    "method": Arm("SFT + RL"),
    "audio": Arm("audio", traces={"variant": "audio_only"}),
    "short": Arm("no length", without_callbacks=["avrt.rewards.LengthReward"]),
}


def base(**changes: Any) -> Base:
    values: dict[str, Any] = {
        "title": "tiny",
        "student": "demo:student",
        "traces": StageBase("cli_configs/traces_demo.yaml"),
        "sft": StageBase(
            "cli_configs/sft_tiny.yaml", {"data": {"init_args": {"train": "{traces}/train"}}}, "{run}/student"
        ),
        "grpo": StageBase("cli_configs/grpo_tiny.yaml", student="{run}/student"),
        "evaluate": StageBase("cli_configs/eval_demo.yaml"),
    }
    return Base(**{**values, **changes})


def expanded(*arms: str, out: Path = Path("out"), seeds: tuple[int, ...] = (0,), **changes: Any) -> Expansion:
    table = Table("a table", [Row(arm) for arm in arms], modalities=["AV"])
    return expand({"T": table}, ARMS, base(**changes), "tiny", out=out, seeds=seeds)


def kinds(expansion: Expansion) -> list[str]:
    return [stage.kind for stage in expansion.stages.values()]


def only(expansion: Expansion, kind: str, arm: str = "") -> Stage:
    (found,) = (s for s in expansion.stages.values() if s.kind == kind and (not arm or arm in s.arms))
    return found


def test_the_method_is_a_chain() -> None:
    stages = expanded("method").stages
    assert [s.kind for s in stages.values()] == ["traces", "sft", "grpo", "evaluate"]
    traces, sft, grpo, evaluate = stages.values()
    assert [s.needs for s in (traces, sft, grpo, evaluate)] == [[], [traces.name], [sft.name], [grpo.name]]
    assert sft.overlay is not None
    assert grpo.overlay is not None
    assert evaluate.overlay is not None
    assert sft.overlay["data"]["init_args"]["train"] == f"{traces.folder}/shards/train"
    assert sft.overlay["model"]["init_args"]["student"]["path"] == "demo:student"
    assert grpo.overlay["model"]["init_args"]["student"]["path"] == f"{sft.folder}/run/student"
    assert evaluate.overlay["model"]["init_args"]["student"]["path"] == f"{grpo.folder}/run/student"
    assert grpo.commands == [
        [
            "fit",
            "--config",
            "cli_configs/grpo_tiny.yaml",
            "--config",
            f"{grpo.folder}/overlay.yaml",
            "--ckpt_path",
            "last",
        ]
    ]


def test_a_student_that_has_to_be_prepared() -> None:
    """Once for all arms, in a folder of its own fingerprint, which the arms' stages start from."""

    def prepared(steps: int) -> Expansion:
        commands = [
            "fit --config cli_configs/sft_tiny.yaml --output_dir {base}/run",
            f"export {{base}} --steps {steps}",
        ]
        return expanded("rl", "method", "base", prepare=commands, student="{base}/run/student")

    expansion = prepared(3)
    first = only(expansion, "prepare")
    assert f"{first.folder}/run" in first.commands[0]
    assert first.name in only(expansion, "traces").needs
    student = f"{first.folder}/run/student"
    for stage in (only(expansion, "grpo", "rl"), only(expansion, "sft", "method"), only(expansion, "evaluate", "base")):
        assert stage.overlay is not None
        assert stage.overlay["model"]["init_args"]["student"]["path"] == student
        assert first.name in stage.needs
    folders = [{stage.folder for stage in prepared(steps).stages.values()} for steps in (3, 4)]
    assert not folders[0] & folders[1], "another preparation is another student, and so another experiment"


def test_arms_share_what_they_have_in_common() -> None:
    expansion = expanded("base", "rl", "sft", "method", "short")
    assert sorted(kinds(expansion)) == sorted(["evaluate"] * 5 + ["grpo"] * 3 + ["sft", "traces"])
    assert only(expansion, "sft").arms == ["sft", "method", "short"]


@pytest.mark.parametrize("first", [("sft", "method"), ("method", "sft"), ("method",)])
def test_what_is_there_is_found_whatever_tables_are_chosen(first: tuple[str, ...], tmp_path: Path) -> None:
    """A shared stage is called after one arm, and another choice of tables has another first one."""
    earlier = expanded(*first, out=tmp_path)
    for stage in earlier.stages.values():
        stage.folder.mkdir(parents=True)
    there = {stage.folder for stage in earlier.stages.values()}
    for arms in (("method",), ("sft", "method"), ("audio", "method", "sft")):
        method = {stage.folder for stage in expanded(*arms, out=tmp_path).stages.values() if "method" in stage.arms}
        assert method <= there, arms


def test_an_arm_with_other_traces_shares_only_the_ledger() -> None:
    expansion = expanded("method", "audio")
    first, second = (s for s in expansion.stages.values() if s.kind == "traces")
    assert first.overlay is not None
    assert second.overlay is not None
    assert first.overlay["ledger"] == second.overlay["ledger"]
    assert first.overlay["output"] != second.overlay["output"]
    assert second.overlay["variant"] == "audio_only"
    assert first.name in second.needs, "two runs would write the ledger at once"
    assert kinds(expansion).count("sft") == 2


def test_seeds_repeat_training_but_neither_traces_nor_what_is_not_trained() -> None:
    expansion = expanded("base", "method", seeds=(0, 1))
    assert kinds(expansion).count("traces") == 1
    assert kinds(expansion).count("grpo") == 2
    assert [s.name for s in expansion.stages.values() if s.arms == ["base"]] == ["evaluate-base-seed0-AV"]
    assert expansion.evaluation("base", 1, "AV") == expansion.evaluation("base", 0, "AV")
    second = expansion.stages["grpo-method-seed1"].overlay
    assert second is not None
    assert second["seed_everything"] == second["data"]["init_args"]["seed"] == 1
    assert second["model"]["init_args"]["sampling"]["seed"] == 1


def test_the_fingerprint_follows_everything_upstream_but_not_the_place() -> None:
    before, elsewhere = only(expanded("method"), "evaluate"), only(expanded("method", out=Path("/other")), "evaluate")
    assert before.fingerprint == elsewhere.fingerprint
    slower = StageBase("cli_configs/sft_tiny.yaml", {"trainer": {"max_steps": 7}}, "{run}/student")
    after = expanded("method", sft=slower)
    assert only(after, "traces").fingerprint == only(expanded("method"), "traces").fingerprint
    for kind in ("sft", "grpo", "evaluate"):
        assert only(after, kind).fingerprint != only(expanded("method"), kind).fingerprint
        assert only(after, kind).folder != only(expanded("method"), kind).folder


def test_the_text_of_a_config_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text("output_dir: a\n")
    before = only(expanded("base", evaluate=StageBase(str(config))), "evaluate").fingerprint
    config.write_text("output_dir: b\n")
    assert only(expanded("base", evaluate=StageBase(str(config))), "evaluate").fingerprint != before


def test_a_judge_reads_the_replies_without_a_stream() -> None:
    """Only of the tables that ask for it, once for each evaluation, and behind it."""
    tables = {
        "T": Table("accuracy", [Row("rl"), Row("sft")], modalities=["A", "AV"]),
        "C": Table("claims", [Row("rl")], kind="claims", modalities=["A"]),
    }
    own = base(claims_judge=["claims --config cli_configs/claims.yaml --run {run} --out {claims}"])
    expansion = expand(tables, ARMS, own, "tiny", out=Path("out"), seeds=[0])
    (stage,) = [stage for stage in expansion.stages.values() if stage.kind == "claims"]
    (evaluation,) = [e for e in expansion.evaluations if e.claims]
    assert (evaluation.arm, evaluation.modalities, evaluation.claims) == ("rl", "A", stage.name)
    assert stage.needs == [evaluation.stage]
    run = str(expansion.stages[evaluation.stage].folder / "run")
    words = ["claims", "--config", "cli_configs/claims.yaml", "--run", run, "--out", str(stage.folder)]
    assert stage.commands == [words]


def test_an_export_where_the_run_writes_no_student() -> None:
    expansion = expanded("method", sft=StageBase("cli_configs/sft_3b.yaml"))
    sft, export = only(expansion, "sft"), only(expansion, "export")
    assert export.commands == [["export", f"{sft.folder}/run", "--out", f"{export.folder}/student"]]
    grpo = only(expansion, "grpo")
    assert grpo.needs == [export.name]
    assert grpo.overlay is not None
    assert grpo.overlay["model"]["init_args"]["student"]["path"] == f"{export.folder}/student"


def test_a_callback_is_left_out_and_the_others_stay() -> None:
    stage = only(expanded("short"), "grpo")
    assert stage.overlay is not None
    left = [callback["class_path"] for callback in stage.overlay["trainer"]["callbacks"]]
    preset = yaml.safe_load(Path("cli_configs/grpo_tiny.yaml").read_text())["trainer"]["callbacks"]
    assert left == [c["class_path"] for c in preset if c["class_path"] != "avrt.rewards.LengthReward"]
    assert "lightning_modules.callbacks.RunCheckpoint" in left


def test_a_callback_that_is_not_there_is_refused() -> None:
    arms = {"x": Arm("x", without_callbacks=["avrt.rewards.Lenght"])}
    with pytest.raises(UsageError, match=r"without_callbacks.*avrt\.rewards\.Lenght.*LengthReward"):
        expand({"T": Table("t", [Row("x")])}, arms, base(), "tiny", out=Path("out"), seeds=[0])


def test_an_arm_that_a_base_does_not_have() -> None:
    arms = {"x": Arm("x", not_with={"tiny": "no speech"}), "base": ARMS["base"]}
    expansion = expand({"T": Table("t", [Row("x"), Row("base")])}, arms, base(), "tiny", out=Path("out"), seeds=[0])
    assert expansion.left_out == {"x": "no speech"}
    assert kinds(expansion) == ["evaluate"]


@pytest.mark.parametrize("name", ["tiny", "3b", "7b"])
def test_the_shipped_arms_expand_with_every_base(name: str, tmp_path: Path) -> None:
    plan: ExperimentPlan = make_plan(PAPER, name, only=[], seeds=[0, 1], out=tmp_path, quick=False)
    seen: set[str] = set()
    for stage in plan.stages.values():
        assert set(stage.needs) <= seen, f"{stage.name} comes before what it needs"
        seen.add(stage.name)
    arms = {row.arm for table in plan.tables.values() for row in table.rows}
    assert arms == {e.arm for e in plan.expansion.evaluations} | set(plan.expansion.left_out)
    names = {path.stem for path in (PAPER.parent / "arms").glob("*.yaml")}
    assert arms == names, "an arm that no table has, or the reverse"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"only": ["T44"]}, "--only.*T44.*T4"),
        ({"base_name": "tinny"}, "--base.*tinny.*tiny"),
    ],
)
def test_wrong_names_are_refused_with_a_suggestion(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"base_name": "tiny", "only": [], "seeds": [0], "out": tmp_path, "quick": False}
    with pytest.raises(UsageError, match=words):
        make_plan(PAPER, **{**settings, **change})


def test_a_set_of_ones_own_uses_the_shipped_arms(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "title: mine\ntables:\n  X:\n    title: x\n    rows:\n      - {arm: avrt}\n      - {arm: mine}\n"
    )
    with pytest.raises(UsageError, match=r"arm: there is no .*mine\.yaml"):
        make_plan(tmp_path / "mine.yaml", "tiny", only=[], seeds=[0], out=tmp_path, quick=False)
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "mine.yaml").write_text("title: mine\ngrpo:\n  trainer:\n    max_steps: 5\n")
    plan = make_plan(tmp_path / "mine.yaml", "tiny", only=[], seeds=[0], out=tmp_path, quick=False)
    assert sum(stage.kind == "grpo" for stage in plan.stages.values()) == 2
    assert sum(stage.kind == "sft" for stage in plan.stages.values()) == 1


def test_numbers_of_the_paper_must_fit_their_columns(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "title: mine\ntables:\n  X:\n    title: x\n    paper_columns: [A, V]\n    rows:\n"
        "      - {arm: avrt, paper: [1]}\n"
    )
    with pytest.raises(UsageError, match=r"tables\.X.*avrt.*paper_columns"):
        make_plan(tmp_path / "mine.yaml", "tiny", only=[], seeds=[0], out=tmp_path, quick=False)
