"""Split items into easy, medium and hard by two teachers' answers.

Easy: both teachers are right; medium: one of them; hard: none. The lists are files of ids that an evaluation or a
source of training data can be limited to.

    python -m avrt subsets --vision runs/kimi --audio runs/flamingo --benchmark omnibench --out subsets/omnibench
    python -m avrt subsets --traces cli_configs/traces_avqa.yaml --out subsets/avqa_train
"""

from __future__ import annotations

import argparse

TAKES_SETTINGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    source = "a run folder, its records.jsonl, or JSON lines of {id, correct}"
    parser.add_argument("--vision", metavar="PATH", help=f"the vision teacher's answers: {source}")
    parser.add_argument("--audio", metavar="PATH", help="the audio teacher's answers, likewise")
    parser.add_argument(
        "--traces",
        metavar="FILE",
        help="config of a trace run instead; its ledger has both. Its keys are options too: --ledger DIR",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for easy.txt, medium.txt and hard.txt")
    parser.add_argument("--benchmark", metavar="NAME", help="the benchmark, if a run has several")


def run(args: argparse.Namespace) -> int:
    """Write the lists and print their sizes."""
    from avrt.config.errors import UsageError

    given = [name for name in ("traces", "vision", "audio") if getattr(args, name) is not None]
    if given not in (["traces"], ["vision", "audio"]):
        raise UsageError("subsets: give --vision and --audio, or --traces")
    if args.settings and not args.traces:
        raise UsageError(f"subsets: unknown option {args.settings[0]}; see --help")

    from rich.console import Console

    from avrt.evaluation.difficulty_subsets import difficulty_subsets, read_outcomes, write_subsets
    from avrt.files.folder_lock import FolderLock

    if args.traces:
        from avrt.demo.paths import build_demo_paths
        from avrt.traces.config import load_config
        from avrt.traces.teacher_outcomes import read_ledger_outcomes

        config = load_config([args.traces], args.settings)
        build_demo_paths(config)
        vision, audio = read_ledger_outcomes(config)
        sources = {"traces": str(args.traces)}
    else:
        vision, audio = (read_outcomes(path, args.benchmark) for path in (args.vision, args.audio))
        sources = {"vision": str(args.vision), "audio": str(args.audio)}
    with FolderLock(args.out, "subsets"):
        summary = write_subsets(difficulty_subsets(vision, audio), args.out, sources)
    counts = ", ".join(f"{count} {name}" for name, count in summary["counts"].items())
    Console().print(
        f"{summary['items']} items: {counts}; lists in {args.out}", highlight=False, soft_wrap=True, markup=False
    )
    return 0
