"""A run's output folder: one command at a time, the checkpoint to resume from, and no mixing with another run."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment

from avrt.files.folder_lock import FolderLock
from avrt.model.checkpoints import SUFFIX, complete_checkpoints, newest, step_of, what_is_missing
from lightning_modules.callbacks.checkpoint import RunCheckpoint, run_folder

SETTINGS = "config.yaml"
"""The settings that `fit` saves in its run's folder, there from the first start on."""

log = logging.getLogger(__name__)


@contextmanager
def opened(trainer: Any, command: str, ckpt_path: str | None) -> Iterator[str | None]:
    """Prepare the run's folder for a command, and keep other commands that write out of it meanwhile.

    Args:
        command: ``fit``, `validate`, `test` or `predict`.
        ckpt_path: a path, ``last``, ``best``, ``hpc`` or None.

    Yields:
        The checkpoint to load, or None.

    Raises:
        ValueError: another command is writing to the folder, there is no such checkpoint, or the folder of a checkpoint
            callback holds another run's checkpoints.
    """
    folder = run_folder(trainer)
    writes = command == "fit" and not trainer.fast_dev_run
    # Without a logger, other commands write nothing but what they are told to.
    locks = writes or (trainer.log_dir is not None and not trainer.fast_dev_run)
    with FolderLock(folder, command) if locks and trainer.is_global_zero else nullcontext():
        if writes:
            _check_checkpoint_folders(trainer, folder, ckpt_path)
        if ckpt_path in ("last", "best"):
            checkpoint = _find(trainer, command, ckpt_path)
        else:
            checkpoint = ckpt_path
            if ckpt_path is not None:
                _warn_if_older(trainer, Path(ckpt_path))
        if writes and trainer.is_global_zero and _is_new_run(trainer, folder, checkpoint):
            _set_aside(folder)
        yield checkpoint


def _find(trainer: Any, command: str, keyword: str) -> str | None:
    """The checkpoint that ``last`` or ``best`` means, whichever callbacks the run has now."""
    folder = run_folder(trainer)
    folders = _checkpoint_folders(trainer, folder)
    if keyword == "best":
        best = [path for place in folders for path in complete_checkpoints(place, f"best*{SUFFIX}")]
        if not best:
            raise ValueError(
                f"--ckpt_path best: there is no complete best{SUFFIX} in {folders[0]}; set it to last, or to a path"
            )
        return str(best[-1])
    found = newest(*folders, folder, check_content=trainer.is_global_zero)
    if found.path is not None:
        if found.passed_over and trainer.is_global_zero:
            log.warning("--ckpt_path last: skipped %s; using %s", found.describe_passed_over(), found.path)
        return str(found.path)
    if found.passed_over:
        raise ValueError(
            f"--ckpt_path last: {folders[0]} holds no checkpoint that can be loaded ({found.describe_passed_over()}); "
            "remove these to begin at step 0"
        )
    _check_other_versions(folder)
    if command != "fit":
        raise ValueError(f"--ckpt_path last: there is no checkpoint in {folders[0]}; set it to a path, or leave it out")
    earlier = [path for place in folder.glob("checkpoints.*") if (path := newest(place).path) is not None]
    if earlier and trainer.is_global_zero:
        # The user may mean the earlier run, but a queued job that never saved a checkpoint must start again.
        log.warning(
            "--ckpt_path last: %s holds no checkpoint, so the run begins at step 0; an earlier run's were set aside: "
            "to resume that run, set --ckpt_path to %s",
            folders[0],
            max(earlier, key=lambda path: path.stat().st_mtime_ns),
        )
    return None


def _checkpoint_folders(trainer: Any, folder: Path) -> list[Path]:
    """The run's own folder first, then those that callbacks name."""
    return [folder / "checkpoints", *(Path(c.dirpath).absolute() for c in _savers(trainer) if c.dirpath)]


def _savers(trainer: Any) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]


def _check_other_versions(folder: Path) -> None:
    """A logger without a fixed version gives every start a folder of its own, so no start finds the last one."""
    if not re.fullmatch(r"version_\d+", folder.name):
        return
    others = [p for p in folder.parent.glob("version_*/checkpoints") if newest(p).path is not None]
    if others:
        raise ValueError(
            f"--ckpt_path last: this start's folder is {folder}, and checkpoints of earlier starts are in "
            f"{max(others, key=lambda p: p.stat().st_mtime_ns)}; set trainer.logger.version to '' (one folder for all "
            "starts), or --ckpt_path to one of them"
        )


def _check_checkpoint_folders(trainer: Any, folder: Path, ckpt_path: str | None) -> None:
    """Warn of a callback's `dirpath` outside the run's folder, and refuse one with another run's checkpoints."""
    named: set[Path] = set()
    for saver in _savers(trainer):
        if not saver.dirpath:
            continue
        place = Path(saver.dirpath).absolute()
        if isinstance(saver, RunCheckpoint) and place in named:
            raise ValueError(f"trainer.callbacks: two RunCheckpoint write to {place}; give one of them another dirpath")
        if isinstance(saver, RunCheckpoint):
            named.add(place)
        if _is_in(place, folder) or not saver.save_top_k:
            continue
        key = f"trainer.callbacks: {type(saver).__name__}.dirpath"
        fresh = ckpt_path is None or not (folder / SETTINGS).is_file()
        if fresh and newest(place).path is not None:
            raise ValueError(
                f"{key} {place} holds checkpoints of another run than that in {folder}; remove dirpath, and "
                "checkpoints go to output_dir"
            )
        if trainer.is_global_zero:
            log.warning(
                "%s: checkpoints go to %s, everything else to %s; remove dirpath to have one folder", key, place, folder
            )


def _warn_if_older(trainer: Any, checkpoint: Path) -> None:
    """After a restart from an older checkpoint, ``last`` would still mean the highest step."""
    if not trainer.is_global_zero or checkpoint.suffix != SUFFIX or what_is_missing(checkpoint) is not None:
        return
    found = newest(checkpoint.parent).path
    if found is not None and step_of(found) > step_of(checkpoint):
        log.warning(
            "--ckpt_path %s: %s beside it has a higher step, and `last` and `export` take that one until this run has "
            "passed it; remove it if it is not wanted",
            checkpoint,
            found.name,
        )


def _is_new_run(trainer: Any, folder: Path, checkpoint: str | None) -> bool:
    """Whether the checkpoints that are in the run's folder now are not those of the resumed run."""
    if checkpoint is None:
        # Lightning by itself resumes a job that it has queued again.
        return not (SLURMEnvironment.detect() and any(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt")))
    own = (folder, *_checkpoint_folders(trainer, folder))
    return checkpoint != "hpc" and not any(_is_in(Path(checkpoint), place) for place in own)


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, also if it is written with ``..`` or through a link."""
    return path.resolve().is_relative_to(folder.resolve())


def _set_aside(folder: Path) -> None:
    """Rename an earlier run's checkpoints in the same folder, so that they are never taken for the new run's.

    That run's settings are copied beside them, for `export`.
    """
    old = folder / "checkpoints"
    if not old.is_dir() or not any(old.glob(f"*{SUFFIX}")):
        return
    number = 1
    while (target := folder / f"checkpoints.{number}").exists():
        number += 1
    old.rename(target)
    if (folder / SETTINGS).is_file():
        shutil.copyfile(folder / SETTINGS, target / SETTINGS)
    log.warning(
        "%s held the checkpoints of an earlier run, which are now in %s; to resume that run, set --ckpt_path to one of "
        "them",
        folder,
        target.name,
    )
