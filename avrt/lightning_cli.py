"""``fit``, `validate`, `test` and `predict`: LightningCLI in subclass mode, with short errors and an import policy.

Heavy: imported only when a training command runs.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Sequence

from avrt.third_party_noise import quiet

quiet()  # before the imports below, some of which warn

import lightning.pytorch as pl  # noqa: E402
from jsonargparse import ArgumentParser, capture_parser  # noqa: E402
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI  # noqa: E402
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # noqa: E402

from avrt.class_paths import enforce  # noqa: E402
from avrt.config_errors import UsageError, describe, distil  # noqa: E402
from avrt.demo.paths import resolve_demo_paths  # noqa: E402


class TrainingCLI(LightningCLI):
    """LightningCLI whose mistakes are one line each, and whose config files alone say what is built."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses `args`, a list of words with the subcommand first.

        Raises:
            UsageError: with one line that names the key.
        """
        assert isinstance(args, list)
        command = args[0]
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            known = [action.dest for action in self._subcommand_parsers[command]._actions if action.dest != "help"]
            raise UsageError(distil(str(error), lambda name: _accepted(name, known))) from error

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would let a checkpoint's stored arguments override the files and the command line."""

    def before_instantiate_classes(self) -> None:
        """Names the saved settings after the command, so that a test run never overwrites those of the training.

        Also puts real paths for ``demo:`` paths, which may build what they name.
        """
        name = "config.yaml" if self.subcommand == "fit" else f"config_{self.subcommand}.yaml"
        resolve_demo_paths(self.config)
        # A resumed run writes into the folder of the run it continues; Lightning refuses that by default.
        self.save_config_kwargs = {"config_filename": name, "overwrite": True}

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer.

        Raises:
            UsageError: one of them refused a value of the config.
        """
        try:
            super().instantiate_classes()
        except (ValueError, OSError, MisconfigurationException) as error:
            cause = _root_cause(error)
            if isinstance(cause, (ValueError, OSError, MisconfigurationException)):
                raise UsageError(describe(cause)) from error
            raise cause from None  # a fault in the program, which jsonargparse had wrapped

    def _run_subcommand(self, subcommand: str) -> None:
        try:
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


def _start(words: Sequence[str]) -> None:
    raise_errors = {"exit_on_error": False}
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
            **raise_errors,
            **{name: dict(raise_errors) for name in LightningCLI.subcommands()},
        },
        args=list(words),
    )


def _accepted(name: str, keys: Iterable[str]) -> Iterable[str]:
    """See `avrt.config_errors.Lookup`; asked only for classes that the parser has already imported."""
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


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
