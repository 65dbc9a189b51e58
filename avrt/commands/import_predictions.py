"""Score replies that another program made, as a run.

The file has JSON lines {"id": ..., "text": ...}, or is a samples file of lm-evaluation-harness or lmms-eval, or
Video-MME's results template. Items without a reply count as wrong.

    python -m avrt import-predictions runs/other_7b --file replies.jsonl --benchmark mmau --model Other-7B
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run", metavar="RUN", help="folder of the new run; may have other benchmarks of the same model")
    parser.add_argument("--file", required=True, metavar="FILE", help="the replies")
    parser.add_argument("--benchmark", required=True, metavar="NAME", help="the benchmark of the replies")
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the model, for tables")
    parser.add_argument("--data", default="data", metavar="DIR", help="the benchmarks' data (default: data)")
    parser.add_argument("--annotations", metavar="FILE", help="the annotation file, if it is elsewhere")
    parser.add_argument("--fields", metavar="FIELD=KEY,...", help="keys of questions of your own, as for pack")
    parser.add_argument(
        "--answer-base",
        type=lambda word: word if word == "letter" else int(word),
        choices=(0, 1, "letter"),
        metavar="N",
        help="how answers of your own questions are written, as for pack",
    )
    parser.add_argument("--categories", metavar="KEY,...", help="keys of questions of your own that are categories")
    parser.add_argument("--subset", metavar="FILE", help="ids, one per line: import only these questions")
    parser.add_argument(
        "--repeat",
        type=int,
        metavar="N",
        help="if the file has several replies per question: import only the Nth (from 1); by default all",
    )
    parser.add_argument(
        "--format",
        choices=("tags", "letter"),
        default="letter",
        help="answer format of the prompt: reasoning and answer in tags, or the letter (default)",
    )
    parser.add_argument(
        "--profile",
        choices=("paper", "robust"),
        default="robust",
        help="answer parser: robust (default) accepts other models' formats, paper requires the tags",
    )
    parser.add_argument(
        "--require-complete", action="store_true", help="stop if the benchmark lacks questions that its authors state"
    )
    parser.add_argument("--name", metavar="NAME", help="the run's name in tables; by default its folder's")


def run(args: argparse.Namespace) -> int:
    """Import, score, and print the numbers."""
    from dataclasses import replace
    from pathlib import Path

    from avrt.evaluation.prediction_files import read_predictions
    from avrt.evaluation.predictions import import_predictions
    from avrt.evaluation.question_sets import QuestionsConfig, open_question_sets
    from avrt.evaluation.run_lifecycle import finish_run
    from avrt.evaluation.terminal_tables import score_console
    from avrt.files.folder_lock import FolderLock

    if args.benchmark == "all":
        raise ValueError("--benchmark: a file of predictions has one benchmark; name it")
    config = QuestionsConfig(
        args.benchmark,
        args.data,
        annotations=args.annotations,
        require_complete=args.require_complete,
        fields=args.fields,
        answer_base=args.answer_base,
        categories=None if args.categories is None else args.categories.split(","),
    )
    (every,) = open_question_sets(config)  # the file may have replies to all questions
    (questions,) = open_question_sets(replace(config, subset=args.subset)) if args.subset else (every,)
    file = read_predictions(args.file, every.items)
    if args.repeat is not None:
        file = file.only(args.repeat)
    folder = Path(args.run)
    with FolderLock(folder, "import-predictions"):
        without = import_predictions(
            folder,
            questions,
            file,
            name=args.name or folder.resolve().name,
            model=args.model,
            answer_format=args.format,
            profile=args.profile,
            source=Path(args.file).name,
        )
        console = score_console()
        if questions.count_note:
            console.print(questions.count_note, highlight=False, soft_wrap=True, markup=False)
        if without:
            console.print(
                f"{without} of {len(questions.items)} items have no reply in {args.file}; they count as wrong"
            )
        finish_run(folder, [questions], console, harness=False)
    return 0
