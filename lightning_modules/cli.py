"""``fit``, `validate`, `test` and `predict`: LightningCLI in subclass mode, with short errors and an import policy.

Heavy: imported only when a training command runs.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from avrt.config.library_warnings import silence_libraries

silence_libraries()  # before the imports below, some of which warn

import lightning.pytorch as pl  # noqa: E402
import torch  # noqa: E402
from jsonargparse import ArgumentParser, Namespace, capture_parser  # noqa: E402
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI  # noqa: E402
from lightning.pytorch.strategies import StrategyRegistry  # noqa: E402
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # noqa: E402
from lightning.pytorch.utilities.model_helpers import is_overridden  # noqa: E402

from avrt.config.class_paths import enforce  # noqa: E402
from avrt.config.errors import UsageError, describe, distil  # noqa: E402
from avrt.config.key_paths import Refused, instantiate, locate  # noqa: E402
from avrt.config.numbers import PositiveInt  # noqa: E402
from avrt.config.strategies import check_strategy_name  # noqa: E402
from lightning_modules.run_lock import opened  # noqa: E402
from lightning_modules.trainer_defaults import TRAINER_DEFAULTS, check_loggers, complete_trainer, with_output_dir  # noqa: E402

NO_GPU = (
    "trainer.accelerator: is gpu, and torch finds no GPU here; set it to cpu, or try the whole run with a tiny student "
    "as cli_configs/overlays/laptop.yaml says"
)

Prepare = Callable[[Namespace], None]
"""Called with a run's parsed settings before anything is built; may change them in place."""


class TrainingCLI(LightningCLI):
    """LightningCLI with one-line errors. Config files and the command line alone decide what is built.

    Args:
        prepare: see `Prepare`.
    """

    def __init__(self, prepare: Prepare, *args: Any, **kwargs: Any) -> None:
        self._prepare = prepare
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings of the run as a whole."""
        parser.add_argument(
            "--output_dir",
            type=str | None,
            default=None,
            help="Folder of the run: checkpoints, curves, settings, exports, predictions, evaluation records.",
        )
        parser.add_argument(
            "--torch_threads",
            type=PositiveInt | None,
            default=None,
            help="Threads that torch computes with on the CPU; null leaves the choice to torch.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse `args`, a list of words with the subcommand first.

        Raises:
            UsageError: with one line that names the key.
        """
        assert isinstance(args, list)
        known = [action.dest for action in self._subcommand_parsers[args[0]]._actions if action.dest != "help"]
        self.config = _parse(parser, args, known)
        seed = self.config[args[0]].seed_everything
        if not isinstance(seed, bool) and not 0 <= (seed or 0) < 2**32:
            raise UsageError(f"seed_everything: must be a whole number from 0 to {2**32 - 1}, got {seed}")

    def before_instantiate_classes(self) -> None:
        """Prepare the run. A test run saves its settings under another name than the training run in its folder."""
        name = "config.yaml" if self.subcommand == "fit" else f"config_{self.subcommand}.yaml"
        settings = self.config[self.subcommand]
        self._prepare(settings)
        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        # A resumed run writes into the folder of the run it continues; Lightning refuses that by default.
        self.save_config_kwargs = {"config_filename": name, "overwrite": True}

    def instantiate_classes(self) -> None:
        """Build model, data and trainer. The saved settings stay as the user wrote them.

        Raises:
            UsageError: one of them refused a value of the config.
        """
        settings = self.config.clone()
        with_output_dir(settings[self.subcommand])
        try:
            self.config_init = self.parser.instantiate(settings, instantiators=[(instantiate, object, True)])
            self.datamodule = self._get(self.config_init, "data")
            self.model = self._get(self.config_init, "model")
            self.trainer = self.instantiate_trainer()
        except (ValueError, OSError, MisconfigurationException, ModuleNotFoundError) as error:
            raise self._usage_error(_cause(error)) from error

    def _usage_error(self, cause: BaseException) -> BaseException:
        """The one line for an error of a class that was built; other errors are faults of the program."""
        settings = self.config[self.subcommand]
        if isinstance(cause, Refused):
            return UsageError(locate(cause, settings.as_dict()))
        if isinstance(cause, (ValueError, OSError, MisconfigurationException)):
            line = describe(cause)
            return UsageError(NO_GPU if "No supported gpu backend found" in line else line)
        if isinstance(cause, ModuleNotFoundError) and str(cause).startswith("Requirement "):
            accelerator = settings.trainer.accelerator
            return UsageError(f"trainer.accelerator: {accelerator!r} cannot be used here ({cause})")
        return cause

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> pl.Trainer:
        output_dir = self._get(self.config_init, "output_dir")
        check_loggers(config.get("logger"), self._get(self.config, "output_dir"))
        added = complete_trainer(str(self.subcommand), config, output_dir, self.model, self.datamodule)
        return super()._instantiate_trainer(config, [*callbacks, *added])

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would read the whole checkpoint here and let it override files and command line."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        return arguments | {"ckpt_path": self._checkpoint}

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "test" and not is_overridden("test_step", self.model):
            raise UsageError(
                "model.class_path: `test` evaluates on benchmarks, for which lightning_modules.evaluate.EvaluateModule "
                "is needed (cli_configs/eval.yaml); `validate` and `predict` take a training config"
            )
        try:
            with opened(self.trainer, subcommand, self.config_init[subcommand].get("ckpt_path")) as checkpoint:
                self._checkpoint = checkpoint
                super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise ValueError(describe(error)) from error
        except SystemExit as error:
            # Lightning turns Ctrl-C into exit(1); the command line has a status of its own for it.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise


def run(
    command: str,
    arguments: Sequence[str],
    prefixes: Iterable[str],
    prepare: Prepare = lambda settings: None,
) -> None:
    """Parse, build and run one training command.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: the words after it.
        prefixes: allowed class-path prefixes.
        prepare: see `Prepare`; not called by ``--print_config`` and ``--help``.

    Raises:
        UsageError: the command line or a config file is wrong.
        ValueError, OSError: the run failed.
        SystemExit: the run ended itself with a status.
    """
    enforce(prefixes)
    _start([command, *arguments], prepare)


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
    trainer = settings[words[0]].trainer
    if not isinstance(trainer, Namespace):
        raise UsageError("trainer: must be a mapping of settings, such as max_steps: 10")
    _check_groups(settings[words[0]])
    strategy = trainer.strategy
    if isinstance(strategy, str):
        # Lightning's own check comes after everything else is built.
        check_strategy_name(strategy, StrategyRegistry.available_strategies())
    return settings


def _check_groups(settings: Namespace) -> None:
    """Refuse an empty group, such as ``loss:`` with nothing below it, where a class needs its settings."""
    for section in ("model", "data"):
        given = settings.get(section)
        if not isinstance(given, Namespace) or not isinstance(given.get("init_args"), Namespace):
            continue
        module, _, name = given.class_path.rpartition(".")
        for argument, hint in get_type_hints(getattr(sys.modules[module], name).__init__).items():
            value = given.init_args.get(argument)
            if is_dataclass(hint) and not isinstance(value, Namespace):
                shown = "is empty" if value is None else f"is {value!r}"
                raise UsageError(
                    f"{section}.{argument}: {shown}; put its settings below it, or leave the key out for the defaults"
                )


def _start(words: Sequence[str], prepare: Prepare = lambda settings: None) -> None:
    # An abbreviated option would be a typo that happens to fit.
    strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    TrainingCLI(
        prepare,
        pl.LightningModule,
        pl.LightningDataModule,
        trainer_defaults=TRAINER_DEFAULTS,
        subclass_mode_model=True,
        subclass_mode_data=True,
        # The modules configure their optimizers from their own arguments.
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,  # modules are built from config files only
        parser_kwargs={
            "prog": "python -m avrt",
            **strict,
            **{name: dict(strict) for name in LightningCLI.subcommands()},
        },
        args=list(words),
    )


def _accepted(name: str, keys: Iterable[str]) -> Iterable[str]:
    """See `avrt.config.errors.Lookup`; called only for classes that the parser has already imported."""
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


def _cause(error: BaseException) -> BaseException:
    """The error of the class that was to be built, which jsonargparse raises inside one or more of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Refused):
            return cause
        cause = cause.__cause__
    while error.__cause__ is not None and _raised_in(error).partition(".")[0] == "jsonargparse":
        error = error.__cause__
    return error


def _raised_in(error: BaseException) -> str:
    """Name of the module that raised it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return "" if place is None else str(place.tb_frame.f_globals.get("__name__", ""))
