"""Checkpoints on disk: written atomically, found by step, and loaded without running code.

A checkpoint is a file (plain training) or a folder that several processes write (DeepSpeed). Both take their name by a
rename when they are complete. A folder also has a marker that lists its files with their checksums, written last; a
file has its checksum at its end. So a checkpoint that was copied in part or has changed on disk is recognized. One that
is still being written ends in ``.partial`` and is never chosen.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import shutil
import stat
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avrt.files import atomic_folder
from avrt.files.atomic import PARTIAL_SUFFIX
from avrt.files.checksums import checksums, stated_checksum

MARKER = "complete.json"
"""Lists the files of a checkpoint folder with sizes and checksums; its presence says that the folder is complete."""

SUFFIX = ".ckpt"

DEEPSPEED_TAG = "checkpoint"
"""Lightning's name for the one DeepSpeed checkpoint in a folder."""

DEEPSPEED_WEIGHTS = "mp_rank_00_model_states.pt"
"""DeepSpeed's file with the trained weights (stages 1 and 2) and everything that Lightning saves."""

DEEPSPEED_WEIGHTS_SHARD = "zero_pp_rank_0_mp_rank_00_model_states.pt"
"""The same file at stage 3, with the first device's share of the weights."""

STEP_IN_NAME = re.compile(r"(?:^|[-_])step=(\d+)(?![\d.])")
"""The optimizer step in a name, as `RunCheckpoint` and Lightning write it; without the suffix."""

REGULAR_NAME = re.compile(rf"step=(\d+)\.ckpt((\.old)?{re.escape(PARTIAL_SUFFIX)})?")
"""Name of a regular checkpoint of `RunCheckpoint`, complete or being written or replaced."""

log = logging.getLogger(__name__)


# ---- writing a folder -----------------------------------------------------------------------------------------------


def start_folder(path: Path) -> Path:
    """An empty folder to write the checkpoint `path` into; called by one process before the others begin."""
    return atomic_folder.start_folder(path)


def finish_folder(path: Path) -> None:
    """Give a written folder its name; called by one process when all have written their parts."""
    atomic_folder.finish_folder(path, marker=MARKER, with_checksums=True, remove=remove)


def remove(path: Path) -> None:
    """Delete a checkpoint if it exists, marker first: after an interrupted deletion it does not count as complete."""
    if path.is_dir():
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def save_tensors(content: Any, file: Path, name: Path) -> None:
    """`torch.save` with the reason of a failed write, which torch itself does not tell.

    Args:
        file: the file to write.
        name: its name in errors.

    Raises:
        OSError: it cannot be written, because the disk is full for example.
    """
    try:
        torch.save(content, file)  # by its path: through a Python file it takes three times as long
    except RuntimeError as error:
        if "inline_container" not in str(error):  # torch's writer
            raise
        try:
            with open(file, "ab") as probe:
                probe.write(bytes(1 << 20))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as reason:
            raise OSError(reason.errno, reason.strerror, str(name)) from error
        raise OSError(errno.EIO, "could not be written completely", str(name)) from error


# ---- finding --------------------------------------------------------------------------------------------------------


def what_is_missing(path: Path) -> str | None:
    """The reason why a checkpoint is incomplete, or None; contents are not read, see `what_is_damaged`."""
    if path.is_file():
        with suppress(FileNotFoundError):  # a run that prunes its checkpoints may remove this one meanwhile
            if path.stat().st_size == 0:
                return "it is empty"
            # torch writes zip archives, whose directory is at the end.
            try:
                if not zipfile.is_zipfile(path):
                    return "it is truncated, or not a file of torch.save"
                stated_checksum(path)
            except (ValueError, zipfile.BadZipFile) as error:
                return f"its end is damaged ({error})"
            return None
    if not path.is_dir():
        return "there is no such file or folder"
    try:
        files, _ = atomic_folder.read_marker(path / MARKER)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return f"it has no {MARKER}: its save was interrupted, or it is not a checkpoint of this project"
    except ValueError as error:
        return str(error)
    for name, size in files.items():
        try:
            found = (path / name).stat()
        except FileNotFoundError:
            return f"{name} is missing"
        if not stat.S_ISREG(found.st_mode):
            return f"{name} is missing"
        if found.st_size != size:
            return f"{name} has {found.st_size} bytes, not {size}"
    return None


_intact: dict[Path, list[tuple[int, int, int, int]]] = {}
"""States of the files of checkpoints whose contents this process has checked: `last` is checked when it is chosen, and
would be read once more when it is loaded."""


def what_is_damaged(path: Path) -> str | None:
    """The reason why a checkpoint is incomplete or differs from what was saved, or None. Reads all of it.

    Checkpoints of earlier versions and files of other tools have no checksum and are checked for completeness only.
    """
    missing = what_is_missing(path)
    if missing is not None:
        return missing
    sums = _stated_checksums(path)
    files = [path if path.is_file() else path / name for name in sums]
    state = [(s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in (file.stat() for file in files)]
    if _intact.get(path) == state:
        return None
    sizes = [size for _, size in sums.values()]
    for (name, (stated, _)), found in zip(sums.items(), checksums(files, sizes), strict=True):
        if found != stated:
            return f"{name} is damaged: its checksum is not the one that was saved with it"
    _intact[path] = state
    return None


def _stated_checksums(path: Path) -> dict[str, tuple[str, int | None]]:
    """The checksums of a complete checkpoint's files, each with the number of bytes it covers; None for all of them."""
    if path.is_file():
        stated = stated_checksum(path)
        return {} if stated is None else {path.name: stated}
    _, sums = atomic_folder.read_marker(path / MARKER)
    return {name: (stated, None) for name, stated in (sums or {}).items()}


def check_complete(path: Path) -> None:
    """Refuse a checkpoint that is incomplete or has changed since it was saved.

    Raises:
        ValueError: the message says what is missing or damaged.
    """
    reason = what_is_damaged(path)
    if reason:
        raise ValueError(f"checkpoint {path} cannot be loaded: {reason}; use the one before it (--ckpt_path last)")
    if not _stated_checksums(path):
        log.warning("checkpoint %s has no checksum (saved by an earlier version); it is not checked for damage", path)


def complete_checkpoints(folder: Path, pattern: str = f"*{SUFFIX}") -> list[Path]:
    """The complete checkpoints in a folder, by the optimizer step in their names, those without one first."""
    found = []
    for path in folder.glob(pattern) if folder.is_dir() else ():
        if what_is_missing(path) is None:
            with suppress(FileNotFoundError):  # removed meanwhile
                step = step_in_name(path)
                found.append((-1 if step is None else step, path.stat().st_mtime_ns, path.name, path))
    return [path for *_, path in sorted(found)]


def step_in_name(path: Path) -> int | None:
    """The optimizer step that a checkpoint's name gives, or None."""
    found = STEP_IN_NAME.search(path.stem)
    return int(found[1]) if found else None


def step_of(path: Path) -> int:
    """The optimizer step of a complete checkpoint: in its name, or else in it.

    Raises:
        ValueError: it cannot be read, or holds none.
    """
    step = step_in_name(path)
    if step is None:
        files = [path] if path.is_file() else sorted(path.glob(f"*/*{DEEPSPEED_WEIGHTS}"))
        content = load_without_code(files[0], mmap=True) if files else None
        step = content.get("global_step") if isinstance(content, dict) else None
    if not isinstance(step, int):
        raise ValueError(f"checkpoint {path} does not say its optimizer step")
    return step


@dataclass(frozen=True)
class Newest:
    """The newest checkpoint of some folders.

    Attributes:
        path: the complete one of the highest optimizer step; None if there is none.
        passed_over: checkpoints that are or may be newer and cannot be used, each with the reason.
    """

    path: Path | None
    passed_over: tuple[tuple[Path, str], ...] = ()

    def describe_passed_over(self) -> str:
        """One line, or nothing."""
        return "; ".join(f"{path}: {reason}" for path, reason in self.passed_over)


def newest(*folders: Path, check_content: bool = False) -> Newest:
    """Find the checkpoint to resume from: the one with the highest optimizer step.

    File times do not matter; a copy or a wrong clock changes them.

    Args:
        check_content: pass over checkpoints whose content has changed since they were saved. Reads them.
    """
    usable: list[tuple[int, bool, str, Path]] = []
    broken: list[tuple[int | None, Path, str]] = []
    for path in sorted({path for folder in folders if folder.is_dir() for path in folder.glob(f"*{SUFFIX}")}):
        try:
            reason = what_is_missing(path)
            if reason is None and check_content and step_in_name(path) is None:
                reason = what_is_damaged(path)  # before anything in it is believed
            if reason is None:
                # Of two with the same step, prefer the one of the regular saves.
                usable.append((step_of(path), step_in_name(path) is not None, path.name, path))
                continue
        except FileNotFoundError:  # removed meanwhile by the run that owns it
            continue
        except ValueError as error:
            reason = str(error)
        broken.append((step_in_name(path), path, reason))
    usable.sort()
    while check_content and usable:
        *_, path = usable[-1]
        try:
            reason = what_is_damaged(path)
        except FileNotFoundError:
            usable.pop()
            continue
        if reason is None:
            break
        broken.append((usable.pop()[0], path, reason))
    best = usable[-1] if usable else None
    over = [(p, r) for step, p, r in broken if best is None or step is None or step >= best[0]]
    return Newest(best[-1] if best else None, tuple(over))


def resolve(run_or_checkpoint: Path) -> Path:
    """The checkpoint at a path: the path itself, or the newest undamaged one of a run's folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if run_or_checkpoint.suffix == SUFFIX:
        check_complete(run_or_checkpoint)
        return run_or_checkpoint
    found = newest(run_or_checkpoint / "checkpoints", run_or_checkpoint, check_content=True)
    if found.path is not None:
        if found.passed_over:
            log.warning("skipped: %s; using %s", found.describe_passed_over(), found.path)
        return found.path
    more = f"; cannot be used: {found.describe_passed_over()}" if found.passed_over else ""
    raise ValueError(
        f"{run_or_checkpoint}: holds no complete checkpoint (looked for *{SUFFIX} there and in its checkpoints folder)"
        f"{more}"
    )


def superseded(folder: Path, step: int, keep: int) -> list[Path]:
    """Checkpoints named after a step, and remains of killed saves, that a run no longer needs after it saved `step`.

    The newest `keep` complete ones up to `step` stay, and all of higher steps (the run may have been resumed from an
    earlier one). Nothing is deleted before `keep` are complete, so a run keeps the one it was resumed from until then.
    """
    found = [(int(name[1]), path) for path in folder.iterdir() if (name := REGULAR_NAME.fullmatch(path.name))]
    complete = sorted(s for s, path in found if s <= step and path.suffix == SUFFIX and what_is_missing(path) is None)
    if len(complete) < keep:
        return []
    return sorted(path for s, path in found if s < complete[-keep])


# ---- reading --------------------------------------------------------------------------------------------------------


def load_without_code(path: Path, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Read a file of `torch.save` that holds tensors and plain values only.

    A few record types of DeepSpeed's optimizer state are allowed; constructing them runs nothing else.

    Raises:
        ValueError: the file names other classes or functions (it could run any code), or is damaged.
    """
    try:
        return _read(path, map_location, mmap)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
        raise ValueError(
            f"checkpoint {path} is refused: it holds more than tensors and plain values, and reading it could run any "
            f"code ({reason.strip() or 'not a checkpoint'})"
        ) from error
    except (RuntimeError, EOFError, LookupError, TypeError, AttributeError) as error:
        # A text file runs the unpickler's stack empty; a changed byte may leave it with values of other types.
        said = str(error).splitlines() or ["it is truncated"]
        raise ValueError(f"checkpoint {path} is damaged: {said[0]}") from error


def _read(path: Path, map_location: Any, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "deepspeed." not in str(error):
            raise
    with torch.serialization.safe_globals(_deepspeed_records()):
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)


def check_no_instantiator(checkpoint: Any, path: Path) -> None:
    """Refuse a checkpoint that names the class to build: that would be code in a data file.

    Raises:
        ValueError: it has such an entry.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(f"checkpoint {path} is not of a training run: it holds a {type(checkpoint).__name__}")
    for key, value in checkpoint.items():
        if isinstance(value, dict) and "_instantiator" in value:
            raise ValueError(
                f"checkpoint {path} is refused: its entry {key!r} names a function that builds the module "
                "(_instantiator); settings come from --config files only"
            )


def _deepspeed_records() -> list[Any]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
