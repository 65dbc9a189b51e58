"""Run ablations as experiments, and fill their tables: the paper's, or your own.

Each row of a table is an arm: a small file that says how its traces, SFT, GRPO or evaluation differ from the paper's
method. The base chooses the size: ``tiny`` (the demo's task, on a laptop), ``3b`` or ``7b``. Arms share the stages that
they have in common, complete stages are skipped, and an interrupted command continues when it is repeated. A stage that
fails does not stop the others.

    python -m avrt experiments --config cli_configs/experiments/paper.yaml --base tiny --quick
    python -m avrt experiments --config cli_configs/experiments/paper.yaml --base tiny --only T4,T5 --seeds 0,1,2
    python -m avrt experiments --config cli_configs/experiments/paper.yaml --base 3b --list
    python -m avrt experiments --config cli_configs/experiments/paper.yaml --base 3b --slurm jobs.sh
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from avrt.experiments.costs import Planner
    from avrt.experiments.plan import ExperimentPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", required=True, metavar="FILE", help="the tables to fill")
    parser.add_argument("--base", default="tiny", metavar="NAME", help="size of everything (default: tiny)")
    parser.add_argument("--only", action="append", default=[], metavar="TABLE", help="these tables only: T4,T5")
    parser.add_argument("--seeds", default="0", metavar="LIST", help="seeds of training: 0,1,2 (default: 0)")
    parser.add_argument("--quick", action="store_true", help="the base's shorter form: fewer arms and steps")
    parser.add_argument("--out", default="runs/experiments", metavar="DIR", help="folder for everything")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print the stages and what they cost, and run nothing")
    what.add_argument("--results", action="store_true", help="only write tables and page from what is complete")
    what.add_argument("--stage", metavar="NAME", help="run this stage only, for schedulers")
    what.add_argument("--slurm", metavar="FILE", help="write a script that queues all stages with Slurm instead")
    parser.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="options of sbatch for stages that train or evaluate: --sbatch='--gpus-per-node=4 --time=24:00:00'",
    )


def run(args: argparse.Namespace) -> int:
    """Run the stages, then write tables and page."""
    from pathlib import Path

    from rich.console import Console

    from avrt.config.errors import UsageError
    from avrt.experiments.plan import make_plan
    from avrt.files.folder_lock import FolderLock

    console = Console()
    only = [name for text in args.only for name in text.split(",") if name]
    if args.sbatch and not args.slurm:
        raise UsageError("--sbatch: needs --slurm")
    plan = make_plan(
        Path(args.config), args.base, only=only, seeds=_seeds(args.seeds), out=Path(args.out), quick=args.quick
    )
    if args.stage:
        return _run_stage(plan, args.stage)
    failed = False
    if not args.results:
        plan.show(console, _planner())
        if args.list:
            return 0
        if args.slurm:
            return _write_slurm(plan, args, console)
        with FolderLock(plan.folder, "experiments"):
            failed = _run_all(plan, console)
    _write_results(plan, console)
    return 1 if failed else 0


def _planner() -> Planner:
    """Computes the cost of a training run as ``avrt plan`` does, of equal settings once."""
    import tempfile
    from pathlib import Path

    from avrt.demo.paths import locate_demo_paths
    from avrt.experiments.costs import Cost
    from avrt.planning.plan import Plan
    from avrt.planning.plan import make_plan as plan_run
    from avrt.planning.settings import RunSettings, read_settings

    plans: dict[RunSettings, Plan] = {}

    def cost(configs: Sequence[str], student: str, samples: int | None) -> Cost:
        with tempfile.TemporaryDirectory() as folder:

            def prepare(config: dict[str, Any]) -> None:
                locate_demo_paths(config, Path(folder) / "student")

            settings = read_settings(configs, student=student, samples=samples, prepare=prepare)
            if settings not in plans:
                plans[settings] = plan_run(settings)
        hours = plans[settings].hours
        return Cost(None if hours is None else 60 * hours, settings.devices)

    return cost


def _seeds(text: str) -> list[int]:
    from avrt.config.errors import UsageError

    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds: expects different whole numbers from 0 on, such as 0,1,2; got {text!r}")
    return seeds


def _run_all(plan: ExperimentPlan, console: Console) -> bool:
    """Run all stages with a line for each; whether one failed."""
    import time

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from avrt.experiments.plan import duration
    from avrt.experiments.runner import Outcome, StageRunner
    from avrt.experiments.stages import Stage
    from avrt.experiments.state import LOG_FILE

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("stages", total=len(plan.stages))

        def started(stage: Stage) -> None:
            progress.update(task, description=stage.name)
            line = f"{time.strftime('%H:%M')} {stage.name}: {stage.folder / LOG_FILE}"
            progress.console.print(line, highlight=False, soft_wrap=True)

        def ended(outcome: Outcome) -> None:
            progress.advance(task)
            if outcome.status == "skipped":
                return
            line = f"{time.strftime('%H:%M')} {outcome.stage.name}: {outcome.status}"
            line += f" in {duration(outcome.seconds / 60)}" if outcome.status == "complete" else f": {outcome.error}"
            progress.console.print(line, highlight=False, soft_wrap=True, markup=False)

        outcomes = StageRunner(plan.stages, plan.base.service).run_all(started, ended)
    return any(outcome.status in ("failed", "left out") for outcome in outcomes)


def _run_stage(plan: ExperimentPlan, name: str) -> int:
    """Run one stage, for a scheduler: those that it needs have to be complete."""
    from avrt.config.errors import UsageError
    from avrt.experiments.runner import StageRunner
    from avrt.experiments.specs import suggestion
    from avrt.experiments.state import is_complete

    if name not in plan.stages:
        raise UsageError(f"--stage: there is no {name!r}; {suggestion(name, list(plan.stages))}")
    stage = plan.stages[name]
    missing = [other for other in stage.needs if not is_complete(plan.stages[other])]
    if missing:
        raise ValueError(f"--stage {name}: needs {missing[0]}, which is not complete")
    if is_complete(stage):
        return 0
    outcome = StageRunner(plan.stages, plan.base.service).run(stage)
    if outcome.status != "complete":
        raise ValueError(f"{name}: {outcome.error}; see {stage.folder}")
    return 0


def _write_slurm(plan: ExperimentPlan, args: argparse.Namespace, console: Console) -> int:
    from pathlib import Path

    from avrt.experiments.slurm import write_script

    words = ["experiments", "--config", args.config, "--base", args.base, "--seeds", args.seeds, "--out", args.out]
    words += [word for name in args.only for word in ("--only", name)]
    words += ["--quick"] if args.quick else []
    count = write_script(Path(args.slurm), list(plan.stages.values()), words, args.sbatch, plan.folder / "slurm")
    console.print(f"{count} jobs; queue them with: sh {args.slurm}", highlight=False, soft_wrap=True)
    return 0


def _write_results(plan: ExperimentPlan, console: Console) -> None:
    """Print the tables; write them as JSON, CSV, Markdown and LaTeX, and the page."""
    import json

    from avrt.evaluation.text_tables import as_latex, as_markdown, print_table
    from avrt.experiments.page import write_page
    from avrt.experiments.results import fill_tables, read_runs
    from avrt.experiments.text import as_csv, text_table
    from avrt.files.atomic import write_atomic

    out = plan.folder / "results"
    results = fill_tables(plan, read_runs(plan))
    tables = [text_table(result, plan.arms[result.reference].title) for result in results]
    for table in tables:
        print_table(table, console)
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "tables.json": json.dumps([result.as_dict() for result in results], indent=1) + "\n",
        "tables.csv": as_csv(results),
        "tables.md": "\n".join(map(as_markdown, tables)),
        "tables.tex": "\n".join(map(as_latex, tables)),
    }
    for name, text in texts.items():
        write_atomic(out / name, text.encode())
    page = write_page(plan, results, out)
    console.print(f"tables, curves and replies: {page}", highlight=False, soft_wrap=True)
