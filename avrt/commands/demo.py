"""Run the whole pipeline on a small synthetic task, on a laptop.

Renders short clips whose questions need video and audio, packs them, has two teachers and a merger write traces,
fine-tunes a tiny student on these, trains it with GRPO, and evaluates it after each stage with both streams and with
either one. Ends with a page that shows every answer. Every step is a command of its own, printed before it runs. Takes
some minutes on 2 CPU cores; with --quick about one, which is too short to learn the task.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--out", default="runs/demo", metavar="DIR", help="new folder for everything (default: runs/demo)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a first look: every stage, with less data and fewer steps"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the accuracies and the time taken as JSON")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for everything random (default: 0)")
    parser.add_argument(
        "--make", choices=("clips", "student"), help="make only the clips, or only the base student, in --out"
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="only serve teachers, merger and judge (traces_demo.yaml, judge_demo.yaml) until interrupted",
    )
    parser.add_argument(
        "--student", metavar="DIR", help="also serve this exported student, as avrt-student (with --serve)"
    )
    parser.add_argument("--port", type=int, metavar="N", help="port of --serve (default: 8790)")


def run(args: argparse.Namespace) -> int:
    """Run the demo, or make one part of it."""
    from pathlib import Path

    from avrt.demo.settings import demo_settings
    from avrt.files.folder_lock import FolderLock

    if args.port is not None and not args.serve:
        raise ValueError("--port: needs --serve")
    if args.student is not None and not args.serve:
        raise ValueError("--student: needs --serve")
    if args.serve:
        return _serve(args.port, args.student)
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {args.seed}")
    out = Path(args.out)
    settings = demo_settings(seed=args.seed, quick=args.quick)
    if args.make == "clips":
        from avrt.demo.build import build_demo_clips

        with FolderLock(out / "clips", "demo", beside=True):
            build_demo_clips(out / "clips", **settings.clip_settings())
        return 0
    if args.make == "student":
        from avrt.demo.student import build_student

        with FolderLock(out / "student", "demo", beside=True):
            build_student(out / "student", seed=settings.seed, reading_steps=settings.reading_steps)
        return 0

    from rich.console import Console

    from avrt.demo.walkthrough import Walkthrough, print_result
    from avrt.files.atomic import write_atomic

    json_path = None if args.json is None else Path(args.json)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)  # an error now rather than after the last stage
    with FolderLock(out, "demo", beside=True):
        result = Walkthrough(out, seed=args.seed, quick=args.quick, run_command=args.main).run()
    print_result(result, out, Console())
    if json_path is not None:
        write_atomic(json_path, result.to_json().encode())
    return 0


def _serve(port: int | None, student: str | None) -> int:
    from rich.console import Console

    from avrt.demo.servers import DEFAULT_PORT, MODELS, STUDENT_MODEL, serve_demo_models

    def announce(url: str) -> None:
        line = f"serving {', '.join(names)} at {url}; stop with Ctrl-C"
        Console().print(line, highlight=False, markup=False, soft_wrap=True)

    port = DEFAULT_PORT if port is None else port
    if not 0 <= port < 2**16:
        raise ValueError(f"--port must be 0 (any free one) to 65535, got {port}")
    names: tuple[str, ...] = MODELS
    served = None
    if student is not None:
        from avrt.config.library_warnings import silence_libraries
        from avrt.demo.served_student import ServedStudent

        silence_libraries()
        names = (*MODELS, STUDENT_MODEL)
        try:
            served = ServedStudent(student)
        except ValueError as error:
            raise ValueError(f"--student: {error}") from error
    try:
        serve_demo_models(port, announce, served)
    except KeyboardInterrupt:
        pass  # the expected end
    except OSError as error:
        raise ValueError(f"--port {port}: {error.strerror}; choose another one, or 0 for any that is free") from error
    return 0
