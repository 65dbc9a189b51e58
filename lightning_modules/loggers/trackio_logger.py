"""Trackio as a logger of Lightning, which has none of its own."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

FOLDER = "TRACKIO_DIR"
"""Environment variable with the folder of Trackio's databases; Trackio reads it when it is imported."""

MISSING = "TrackioLogger needs Trackio: install it as docs/metrics.md says, or remove it from trainer.logger"


class TrackioLogger(Logger):
    """Curves, tables, images and audio in a local Trackio database, or in a Space of the Hub.

    ``TRACKIO_DIR=<save_dir>/trackio trackio show`` opens its page. A run that is resumed continues its curves.

    Args:
        save_dir: folder of the run; the database is in its folder ``trackio``, unless TRACKIO_DIR names another.
        project: the project in Trackio.
        name: the run's name; None takes the name of `save_dir`.
        version: not used; other loggers have it.
        space_id: send everything to this Space of the Hub, ``owner/name``, instead of the local database.

    Raises:
        ValueError: Trackio is not installed.
    """

    def __init__(
        self,
        save_dir: str = ".",
        project: str = "avrt",
        name: str | None = None,
        version: str | None = None,
        space_id: str | None = None,
    ) -> None:
        super().__init__()
        self._folder = save_dir
        self._project = project
        self._name = name or Path(save_dir).resolve().name
        self._space_id = space_id
        self._run: Any = None
        self._params: dict[str, Any] = {}
        try:
            self._trackio()
        except ModuleNotFoundError as error:
            raise ValueError(MISSING) from error

    def _trackio(self) -> ModuleType:
        os.environ.setdefault(FOLDER, str(Path(self._folder).resolve() / "trackio"))
        import trackio

        return trackio

    @property
    def name(self) -> str:
        """The run's name."""
        return self._name

    @property
    def version(self) -> str:
        """Empty: a run has one folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return self._folder

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run, opened at its first use; on other processes than the first, one that does nothing."""
        if self._run is None:
            self._run = self._trackio().init(
                project=self._project,
                name=self._name,
                space_id=self._space_id,
                config=self._params,
                resume="allow",
                embed=False,
            )
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keep the settings, which Trackio takes when the run is opened."""
        flat = _flatten_dict(_convert_params(params))
        self._params |= {
            name: value if isinstance(value, str | int | float | bool | None) else str(value)
            for name, value in flat.items()
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_media(self, tag: str, kind: str, step: int, **values: Any) -> None:
        """Log one of Trackio's media.

        Args:
            kind: class in Trackio: ``Table``, ``Image`` or ``Audio``.
            values: its arguments.
        """
        run = self.experiment  # media need an open run
        run.log({tag: getattr(self._trackio(), kind)(**values)}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits in memory."""
        if self._run is not None:
            self._run.finish()
            self._run = None
