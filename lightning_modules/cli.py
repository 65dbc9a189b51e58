"""``fit``, `validate`, `test` and `predict`: LightningCLI in subclass mode, with short errors and an import policy.

Heavy: imported only when a training command runs.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from avrt.config.third_party_noise import quiet

quiet()  # before the imports below, some of which warn

import lightning.pytorch as pl  # noqa: E402
import torch  # noqa: E402
from jsonargparse import ArgumentParser, Namespace, capture_parser  # noqa: E402
from jsonargparse.typing import PositiveInt  # noqa: E402
from lightning.pytorch.callbacks import ProgressBar  # noqa: E402
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI  # noqa: E402
from lightning.pytorch.loggers import Logger  # noqa: E402
from lightning.pytorch.strategies import StrategyRegistry  # noqa: E402
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # noqa: E402
from lightning.pytorch.utilities.model_helpers import is_overridden  # noqa: E402

from avrt.config.class_paths import STRATEGY, enforce  # noqa: E402
from avrt.config.errors import UsageError, describe, distil, suggest  # noqa: E402
from avrt.demo.paths import resolve_demo_paths  # noqa: E402
from lightning_modules.callbacks.training_progress import TrainingProgress  # noqa: E402
from lightning_modules.run_folder import opened  # noqa: E402

LIGHTNINGS_COMPLAINTS = {
    "No supported gpu backend found": (
        "trainer.accelerator: is gpu, and torch finds no GPU here; set it to cpu, or try the whole run with a tiny "
        "student as cli_configs/overlays/laptop.yaml says"
    ),
}
"""What Lightning says without naming the key (a part of it), and what is said instead."""


class TrainingCLI(LightningCLI):
    """LightningCLI whose mistakes are one line each, and whose config files alone say what is built."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the settings of the process itself."""
        parser.add_argument(
            "--torch_threads",
            type=PositiveInt | None,
            default=None,
            help="Threads that torch computes with on the CPU; null leaves the choice to torch.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses `args`, a list of words with the subcommand first.

        Raises:
            UsageError: with one line that names the key.
        """
        assert isinstance(args, list)
        known = [action.dest for action in self._subcommand_parsers[args[0]]._actions if action.dest != "help"]
        self.config = _parse(parser, args, known)
        seed = self.config[args[0]].seed_everything
        if not isinstance(seed, bool) and not 0 <= (seed or 0) < 2**32:
            raise UsageError(f"seed_everything: must be a whole number from 0 to {2**32 - 1}, is {seed}")

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would let a checkpoint's stored arguments override the files and the command line."""

    def before_instantiate_classes(self) -> None:
        """Names the saved settings after the command, so that a test run never overwrites those of the training.

        Also puts real paths for ``demo:`` paths, which may build what they name.
        """
        name = "config.yaml" if self.subcommand == "fit" else f"config_{self.subcommand}.yaml"
        resolve_demo_paths(self.config)
        threads = self.config[self.subcommand].torch_threads
        if threads is not None:
            torch.set_num_threads(threads)
        # A resumed run writes into the folder of the run it continues; Lightning refuses that by default.
        self.save_config_kwargs = {"config_filename": name, "overwrite": True}

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer.

        Raises:
            UsageError: one of them refused a value of the config.
        """
        try:
            super().instantiate_classes()
        except (ValueError, OSError, MisconfigurationException, ModuleNotFoundError) as error:
            cause = _unwrapped(error)
            if isinstance(cause, (ValueError, OSError, MisconfigurationException)):
                line = describe(cause)
                key = next((key for text, key in LIGHTNINGS_COMPLAINTS.items() if text in line), "")
                raise UsageError(key or line) from error
            if isinstance(cause, ModuleNotFoundError) and str(cause).startswith("Requirement "):
                accelerator = self.config[self.subcommand].trainer.accelerator
                raise UsageError(f"trainer.accelerator: {accelerator!r} cannot be used here ({cause})") from error
            raise cause from None  # a fault in the program, which jsonargparse had wrapped

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> pl.Trainer:
        given = config.get("callbacks") or []
        listed = any(isinstance(callback, ProgressBar) for callback in (given if isinstance(given, list) else [given]))
        if self.subcommand == "fit" and config.get("enable_progress_bar") is not False and not listed:
            callbacks = [*callbacks, TrainingProgress()]
        loggers = config.get("logger")
        logger = loggers[0] if isinstance(loggers, list) and loggers else loggers
        if config.get("default_root_dir") is None and isinstance(logger, Logger):
            # What Lightning itself saves there belongs to the run's one folder too.
            config["default_root_dir"] = getattr(logger, "log_dir", None) or logger.save_dir
        return super()._instantiate_trainer(config, callbacks)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        return arguments | {"ckpt_path": self._checkpoint}

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "test" and not is_overridden("test_step", self.model):
            raise UsageError(
                "model.class_path: `test` answers benchmarks, which lightning_modules.evaluate.EvaluateModule does "
                "(cli_configs/eval_*.yaml); the validation split of a training config is for `validate` and `predict`"
            )
        try:
            with opened(self.trainer, subcommand, self.config_init[subcommand].get("ckpt_path")) as checkpoint:
                self._checkpoint = checkpoint
                super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise ValueError(describe(error)) from error
        except SystemExit as error:
            # Lightning turns Ctrl-C into exit(1); the roof has a status of its own for it.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise


def run(command: str, arguments: Sequence[str], prefixes: Iterable[str]) -> None:
    """Parses, builds and runs one training command.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: the words after it.
        prefixes: allowed class-path prefixes.

    Raises:
        UsageError: the command line or a config file is wrong.
        ValueError, OSError: the run failed.
        SystemExit: the run ended itself with a status.
    """
    enforce(prefixes)
    _start([command, *arguments])


def parser() -> ArgumentParser:
    """The parser of all training commands, to check a config without building anything."""
    return capture_parser(lambda: _start(["fit"]))


def read_settings(command: str, arguments: Sequence[str]) -> Namespace:
    """The merged settings of a training command, defaults filled in, without building anything.

    Raises:
        UsageError: the command line or a config file is wrong.
    """
    return _parse(parser(), [command, *arguments], ())[command]


def _parse(reader: ArgumentParser, words: list[str], known: Iterable[str]) -> Namespace:
    try:
        settings = reader.parse_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(distil(str(error), lambda name: _accepted(name, known))) from error
    _check_strategy_name(settings[words[0]].trainer.strategy)
    return settings


def _start(words: Sequence[str]) -> None:
    # An abbreviated option would be a typo that happens to fit.
    strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    TrainingCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        # The modules configure their optimizers from their own arguments.
        auto_configure_optimizers=False,
        # A checkpoint that names the class to build would be code in a data file.
        load_from_checkpoint_support=False,
        parser_kwargs={
            "prog": "python -m avrt",
            **strict,
            **{name: dict(strict) for name in LightningCLI.subcommands()},
        },
        args=list(words),
    )


def _accepted(name: str, keys: Iterable[str]) -> Iterable[str]:
    """See `avrt.config.errors.Lookup`; asked only for classes that the parser has already imported."""
    if not name:
        return keys
    if name in sys.modules:
        return [key for key, value in vars(sys.modules[name]).items() if inspect.isclass(value)]
    module, _, class_name = name.rpartition(".")
    owner = getattr(sys.modules.get(module), class_name, None)
    if not inspect.isclass(owner):
        return []
    arguments = ArgumentParser(add_help=False)
    arguments.add_class_arguments(owner, fail_untyped=False)
    return [action.dest for action in arguments._actions]


def _check_strategy_name(strategy: Any) -> None:
    """Refuse the name of no strategy now: Lightning looks at it only after ``demo:`` paths have been built.

    Why its FSDP and DeepSpeed are refused says `lightning_modules.strategy_checks.check_strategy`.

    Raises:
        UsageError: what is neither a class path nor one of Lightning's names.
    """
    if not isinstance(strategy, str):
        return
    known = {"auto", *StrategyRegistry.available_strategies()}
    name = strategy.lower()
    if name.startswith(("deepspeed", "fsdp")) and name in known:
        raise UsageError(
            f"trainer.strategy: {strategy} does not train these students rightly; set it to auto, to ddp, or to "
            f"{STRATEGY}"
        )
    if strategy == STRATEGY:
        raise UsageError(
            f"trainer.strategy: a class in a file needs its own key; write class_path: {STRATEGY} below it"
        )
    if name not in known:
        near = suggest(strategy, (*known, STRATEGY)) or f"; set it to auto, to ddp, or to {STRATEGY}"
        raise UsageError(f"trainer.strategy: there is no strategy {strategy!r}{near}")


def _unwrapped(error: BaseException) -> BaseException:
    """The error of the class that was to be built, which jsonargparse raises inside one or more of its own."""
    while error.__cause__ is not None and _raised_in(error).partition(".")[0] == "jsonargparse":
        error = error.__cause__
    return error


def _raised_in(error: BaseException) -> str:
    """Name of the module that raised it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return "" if place is None else str(place.tb_frame.f_globals.get("__name__", ""))
