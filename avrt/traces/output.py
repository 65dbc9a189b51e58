"""The output folder of a trace run: one complete set of shards per split.

Layout::

    <output>/train/traces-000000.tar, ...    the samples of one split
    <output>/train/manifest.json             written last: a folder without one is an unfinished set
    <output>/val/...
    <output>/statistics.json                 over all splits, written after the last manifest

Every manifest has the fingerprint of the whole output, so sets of two different runs are never mixed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from avrt.data.manifest import MANIFEST_NAME, read_manifest
from avrt.files.atomic import PARTIAL_SUFFIX
from avrt.traces.statistics import SPLITS

STATISTICS_NAME = "statistics.json"
SETTINGS_KEY = "traces"
"""Key of the traces' own settings in a manifest."""

_SHARD = re.compile(rf"traces-\d+\.tar(?:{re.escape(PARTIAL_SUFFIX)})?")
_MANIFESTS = (MANIFEST_NAME, MANIFEST_NAME + PARTIAL_SUFFIX)


def shard_path(out: Path, split: str, number: int) -> Path:
    """The path of shard `number` of a split."""
    return out / split / f"traces-{number:06d}.tar"


def check_output(out: Path, shards: str | Path | Sequence[str | Path], splits: Collection[str] = ()) -> None:
    """Check that traces may be written to a folder.

    Args:
        out: the folder; may be absent.
        shards: the input, which must not be inside it.
        splits: names of the splits that will be written.

    Raises:
        ValueError: the folder has the input, traces of an earlier version, or other files in it.
    """
    for item in [shards] if isinstance(shards, str | Path) else shards:
        if Path(item).resolve().is_relative_to(out.resolve()):
            raise ValueError(f"output: {out} contains the input ({item}); choose another folder")
    if (out / MANIFEST_NAME).exists() and SETTINGS_KEY not in read_manifest(out).settings:
        raise ValueError(f"output: {out} contains shards that are not traces; choose another folder")
    if (out / MANIFEST_NAME).exists() or any(_SHARD.fullmatch(path.name) for path in out.glob("traces-*")):
        raise ValueError(
            f"output: {out} contains traces of an earlier version, which wrote all splits into one folder; remove its "
            f"{MANIFEST_NAME} and traces-*.tar, or choose another folder (the ledger keeps every call: nothing is "
            "called again)"
        )
    for split in splits:
        if Path(split).name != split or split in (".", ".."):
            raise ValueError(f"output: split {split!r} of the input cannot be the name of a folder")
        if (out / split).exists() and not _is_trace_folder(out / split):
            raise ValueError(f"output: {out / split} contains files that are not traces; choose another folder")


def is_written(out: Path, split: str, fingerprint: str) -> bool:
    """Whether a split's set is complete and belongs to the output with this fingerprint."""
    folder = out / split
    if _fingerprint(folder) != fingerprint:
        return False
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.tar")}
    return all(sizes.get(shard.name) == shard.bytes for shard in read_manifest(folder).shards)


def remove_outdated(out: Path, splits: Collection[str], fingerprint: str) -> None:
    """Remove the sets of this folder's splits that belong to another output, or are unfinished.

    A folder whose name is not the split of its samples (a copy such as ``train_before``) is kept.
    The statistics are removed first and then all manifests, so that complete sets of two outputs never exist together.
    """
    folders = [path for path in sorted(out.glob("*")) if _is_trace_folder(path) and _is_of_its_split(path, splits)]
    outdated = [path for path in folders if path.name not in splits or not is_written(out, path.name, fingerprint)]
    if outdated:
        (out / STATISTICS_NAME).unlink(missing_ok=True)
    for folder in outdated:
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for folder in outdated:
        for path in list(folder.iterdir()):
            path.unlink()
        if folder.name not in splits:
            folder.rmdir()


def _is_trace_folder(folder: Path) -> bool:
    """Whether a folder contains only files that a trace run writes into a split's folder; true for an empty one."""
    if not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    if not all(name in _MANIFESTS or _SHARD.fullmatch(name) for name in names):
        return False
    return MANIFEST_NAME not in names or SETTINGS_KEY in read_manifest(folder).settings


def _is_of_its_split(folder: Path, splits: Collection[str]) -> bool:
    """Whether a trace folder that is not empty was written by a trace run, or will be."""
    if folder.name not in splits and (folder / MANIFEST_NAME).exists():
        return list(read_manifest(folder).splits) == [folder.name]
    return folder.name in {*splits, *SPLITS} and any(folder.iterdir())


def _fingerprint(folder: Path) -> str | None:
    if not (folder / MANIFEST_NAME).exists():
        return None
    settings = read_manifest(folder).settings.get(SETTINGS_KEY)
    return settings.get("fingerprint") if isinstance(settings, dict) else None
