"""The command line: ``avrt COMMAND ...``, or ``python -m avrt COMMAND ...``.

Imports nothing heavy until a command needs it, so that help and errors come at once.

Exit status: 0 success, 1 the run failed, 2 the command line or a config is wrong, 130 interrupted from the keyboard. A
run that exits with a status of its own (after preemption, for example) passes it on.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from avrt import __version__
from avrt.config.class_paths import allowed_prefixes, granted, parse_prefixes
from avrt.config.errors import UsageError, describe
from avrt.config.preset_files import with_preset_paths
from avrt.interrupts import INTERRUPTED, is_interrupted_import

PROGRAM = "python -m avrt"

TRAINING = {
    "fit": "train a model: --config cli_configs/grpo_tiny.yaml",
    "validate": "compute the validation metrics once",
    "test": "evaluate on benchmarks: --config cli_configs/eval.yaml",
    "predict": "write a student's answers to the validation questions",
}
"""LightningCLI's own subcommands."""

GROUPS = {
    "Before and after training": {
        "plan": ("avrt.commands.plan", "estimate a run's memory, time and length without loading the model"),
        "export": ("avrt.commands.export", "write a trained student as a folder that transformers and vLLM load"),
        "rollout-server": ("avrt.commands.rollout_server", "sample GRPO's responses on other GPUs, with vLLM"),
    },
    "Data": {
        "pack": ("avrt.commands.pack", "turn clips and annotations into shards"),
        "inspect": ("avrt.commands.inspect", "summarize shards, or write one sample's media as files"),
        "traces": ("avrt.commands.traces", "make reasoning traces with single-modality teachers"),
        "judge": ("avrt.commands.judge", "have a model that sees and hears the clips judge traces"),
    },
    "Evaluation": {
        "evaluate-server": ("avrt.commands.evaluate_server", "evaluate any model behind an OpenAI-compatible server"),
        "claims": ("avrt.commands.claims", "find what replies claim to have seen and heard without being given it"),
        "import-predictions": ("avrt.commands.import_predictions", "score replies that another program made"),
        "score": ("avrt.commands.score", "recompute a run's scores from its raw replies"),
        "compare": ("avrt.commands.compare", "print runs as in the paper's table, with their differences"),
        "subsets": ("avrt.commands.subsets", "split items into easy, medium and hard by two teachers' answers"),
        "report": ("avrt.commands.report", "write an HTML page of evaluation runs, or of a trace run"),
    },
    "Experiments": {
        "experiments": ("avrt.commands.experiments", "run the paper's ablations, or your own, and fill their tables"),
    },
    "Demo": {
        "demo": ("avrt.commands.demo", "run the whole pipeline on a small synthetic task, on a laptop"),
    },
}
"""Own commands by group: name to (module, help line). A module has ``add_arguments(parser)`` and ``run(args) -> int``,
and imports only the standard library at its top. ``args.settings`` holds the unknown options of a module that sets
``TAKES_SETTINGS``; ``args.main`` is `main`, for a command that runs others; ``args.allowed_classes`` is what
``--allow-classes`` names."""

COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}

REQUIRED_MODULES = (
    *("PIL", "aiohttp", "av", "braceexpand", "deepspeed", "fsspec", "httpx2", "huggingface_hub", "jsonargparse"),
    *("lightning", "ninja", "numpy", "openai", "pyarrow", "rich"),
    *("soundfile", "tensorboard", "tokenizers", "torch", "torchaudio", "torchmetrics", "torchvision", "transformers"),
    *("webdataset", "yaml"),
)
"""Import names of the project's dependencies. If one is missing, the interpreter is the wrong one."""

LONGEST_ERROR = 2000
"""Characters of an error that are shown: a config or a data file can have values of any length."""

OK, FAILED, USAGE, PIPE_CLOSED = 0, 1, 2, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every expected failure is one line on stderr.

    Args:
        argv: the words after ``python -m avrt``; those of the process by default.

    Raises:
        SystemExit: the run exits with a status of its own.
        Exception: a bug, with its traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("AVRT_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except BrokenPipeError:
        # The reader of our output (`| head`) is gone. Python would report it once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (Exception, KeyboardInterrupt) as error:
        if is_interrupted_import(error):
            cause, error = error, KeyboardInterrupt()
            error.__cause__ = cause
        if not _is_expected(error):
            raise
        if debug:
            traceback.print_exception(error)
        line = _line(error)
        print(f"avrt: error: {line if len(line) <= LONGEST_ERROR else f'{line[:LONGEST_ERROR]} ...'}", file=sys.stderr)
        return _status(error)


def _is_expected(error: BaseException) -> bool:
    if isinstance(error, ModuleNotFoundError):
        return error.name in REQUIRED_MODULES
    return isinstance(error, (ValueError, OSError, KeyboardInterrupt))


def _line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{sys.executable} has no package {error.name!r}, which avrt needs; in the source tree, run it with "
            f"`uv run {PROGRAM} ...`, elsewhere install avrt with its dependencies"
        )
    return describe(error)


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return USAGE if isinstance(error, (UsageError, ModuleNotFoundError)) else FAILED


def _dispatch(words: list[str]) -> int:
    words, extra_prefixes = _take_allowed_classes(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return OK if words else USAGE
    if words[0] == "--version":
        print(f"avrt {__version__}")
        return OK
    name, rest = words[0], with_preset_paths(words[1:], lambda line: print(f"avrt: {line}", file=sys.stderr))
    with granted(extra_prefixes):
        if name in TRAINING:
            return _train(name, rest)
        if name in COMMANDS:
            return _run_command(name, rest, extra_prefixes)
    if name.startswith("-"):
        raise UsageError(f"the command comes first, then {name}: {PROGRAM} COMMAND {name} ... (see {PROGRAM} --help)")
    near = difflib.get_close_matches(name, [*TRAINING, *COMMANDS], n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"see {PROGRAM} --help"
    raise UsageError(f"unknown command {name!r}; {fix}")


def help_text() -> str:
    """The grouped list of commands."""
    groups = {"Training": TRAINING} | {
        title: {name: line for name, (_, line) in commands.items()} for title, commands in GROUPS.items()
    }
    lines = [f"usage: {PROGRAM} COMMAND [options]", "", "Audio-visual reasoning transfer for small omni models.", ""]
    for title, commands in groups.items():
        lines.append(f"{title}:")
        lines.extend(f"  {name:<18} {line}" for name, line in commands.items())
        lines.append("")
    lines += [
        "Options of every command:",
        "  --help               list the command's options",
        "  --debug              show the traceback of an error (also AVRT_DEBUG=1)",
        "  --allow-classes PKG  allow classes of your own package (also AVRT_ALLOWED_CLASS_PREFIXES=PKG)",
        "",
        "Options of the training commands:",
        "  --config FILE        a run's settings; a second --config overrides the first",
    ]
    return "\n".join(lines)


def _take_allowed_classes(words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Take every ``--allow-classes PKG`` out of the command line, wherever it is."""
    rest: list[str] = []
    prefixes: tuple[str, ...] = ()
    flag = "--allow-classes"
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option != flag:
            rest.append(word)
            continue
        text = value if equals else next(remaining, "")
        try:
            found = parse_prefixes(text, flag)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not found:
            raise UsageError(f"{flag}: expects the name of a package, for example {flag} mypkg")
        prefixes += found
    return rest, prefixes


def _train(name: str, arguments: list[str]) -> int:
    from avrt.config.known_keys import check_keys
    from avrt.config.scan import scan_arguments

    try:
        prefixes = allowed_prefixes()
    except ValueError as error:
        raise UsageError(str(error)) from error
    scan_arguments(arguments)
    check_keys(name, arguments, prefixes)

    from avrt.demo.paths import build_demo_paths
    from lightning_modules.cli import run

    run(name, arguments, prefixes, build_demo_paths)
    return OK


def _run_command(name: str, arguments: list[str], extra_prefixes: Sequence[str]) -> int:
    module_name, line = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = _CommandParser(
        prog=f"{PROGRAM} {name}",
        description=module.__doc__ or line,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    if getattr(module, "TAKES_SETTINGS", False):
        args, settings = parser.parse_known_args(arguments)
        args.settings = settings
    else:
        _refuse_unknown_options(parser, arguments)
        args = parser.parse_args(arguments)
    args.main, args.allowed_classes = main, extra_prefixes
    return module.run(args)


def _refuse_unknown_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Checked before argparse, which would report missing options first and suggests no near names."""
    known = parser._option_string_actions
    for word in arguments:
        option = word.partition("=")[0]
        if option == "--":
            return
        if option.startswith("--") and option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            fix = f"did you mean {near[0]}?" if near else "see --help"
            raise UsageError(f"{parser.prog}: unknown option {option}; {fix}")


class _CommandParser(argparse.ArgumentParser):
    """argparse with errors of one line, without the usage text in front."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (see --help)")
