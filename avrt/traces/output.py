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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from avrt.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from avrt.files.atomic import PARTIAL_SUFFIX
from avrt.storage.locations import join, shown
from avrt.storage.uploads import OutputFolder
from avrt.traces.statistics import SPLITS

STATISTICS_NAME = "statistics.json"
SETTINGS_KEY = "traces"
"""Key of the traces' own settings in a manifest."""

_SHARD = re.compile(rf"traces-\d+\.tar(?:{re.escape(PARTIAL_SUFFIX)})?")
_MANIFESTS = (MANIFEST_NAME, MANIFEST_NAME + PARTIAL_SUFFIX)


def shard_name(split: str, number: int) -> str:
    """The name of shard `number` of a split in the output folder."""
    return f"{split}/traces-{number:06d}.tar"


def check_output(out: OutputFolder, shards: str | Path | Sequence[str | Path], splits: Collection[str] = ()) -> None:
    """Check that traces may be written to a folder.

    Args:
        out: the folder; may be absent.
        shards: the input, which must not be inside it.
        splits: names of the splits that will be written.

    Raises:
        ValueError: the folder has the input, traces of an earlier version, or other files in it.
    """
    for item in [shards] if isinstance(shards, str | Path) else shards:
        if out.contains(item):
            raise ValueError(f"output: {out.location} contains the input ({shown(item)}); choose another folder")
    names = out.names()
    if MANIFEST_NAME in names and SETTINGS_KEY not in _manifest(out, "").settings:
        raise ValueError(f"output: {out.location} contains shards that are not traces; choose another folder")
    if MANIFEST_NAME in names or any(_SHARD.fullmatch(name) for name in names):
        raise ValueError(
            f"output: {out.location} contains traces of an earlier version, which wrote all splits into one folder; "
            f"remove its {MANIFEST_NAME} and traces-*.tar, or choose another folder (the ledger keeps every call: "
            "nothing is called again)"
        )
    folders = _folders(names)
    for split in splits:
        if Path(split).name != split or split in (".", ".."):
            raise ValueError(f"output: split {split!r} of the input cannot be the name of a folder")
        if split in names or not _is_trace_folder(out, split, folders.get(split, [])):
            place = join(out.location, split)
            raise ValueError(f"output: {place} contains files that are not traces; choose another folder")


def is_written(out: OutputFolder, split: str, fingerprint: str, names: Mapping[str, int]) -> bool:
    """Whether a split's set is complete and belongs to the output with this fingerprint; `names` are those of `out`."""
    if f"{split}/{MANIFEST_NAME}" not in names:
        return False
    manifest = _manifest(out, split)
    settings = manifest.settings.get(SETTINGS_KEY)
    if not isinstance(settings, dict) or settings.get("fingerprint") != fingerprint:
        return False
    return all(names.get(f"{split}/{shard.name}") == shard.bytes for shard in manifest.shards)


def remove_outdated(out: OutputFolder, splits: Collection[str], fingerprint: str) -> set[str]:
    """Remove the sets of this folder's splits that belong to another output, or are unfinished.

    A folder whose name is not the split of its samples (a copy such as ``train_before``) is kept.
    The statistics are removed first and then all manifests, so that complete sets of two outputs never exist together.
    Shards of an unfinished set that is to be written are left to `remove_extra`: they may be the same again.

    Returns:
        The splits that are complete already.
    """
    names = out.names()
    folders = {
        folder: inner
        for folder, inner in sorted(_folders(names).items())
        if _is_trace_folder(out, folder, inner) and _is_of_its_split(out, folder, inner, splits)
    }
    complete = {split for split in splits if split in folders and is_written(out, split, fingerprint, names)}
    outdated = [folder for folder in folders if folder not in complete]
    if outdated:
        out.remove(STATISTICS_NAME)
    for folder in outdated:
        out.remove(f"{folder}/{MANIFEST_NAME}")
    for folder in outdated:
        for name in folders[folder]:
            if folder not in splits or not _SHARD.fullmatch(name):
                out.remove(f"{folder}/{name}")
    return complete


def remove_extra(out: OutputFolder, split: str, written: Collection[str]) -> None:
    """Remove a split's shards of an earlier output that the new one does not replace; before its manifest is written.

    Args:
        written: names of the new shards, without the split.
    """
    for name in _folders(out.names()).get(split, []):
        if name not in written:
            out.remove(f"{split}/{name}")


def _folders(names: Collection[str]) -> dict[str, list[str]]:
    """The names in each folder of an output folder."""
    found: dict[str, list[str]] = {}
    for name in names:
        folder, mark, inner = name.partition("/")
        if mark:
            found.setdefault(folder, []).append(inner)
    return found


def _is_trace_folder(out: OutputFolder, folder: str, names: Collection[str]) -> bool:
    """Whether a folder contains only files that a trace run writes into a split's folder; true for an empty one."""
    if not all(name in _MANIFESTS or _SHARD.fullmatch(name) for name in names):
        return False
    return MANIFEST_NAME not in names or SETTINGS_KEY in _manifest(out, folder).settings


def _is_of_its_split(out: OutputFolder, folder: str, names: Collection[str], splits: Collection[str]) -> bool:
    """Whether a trace folder that is not empty was written by a trace run, or will be."""
    if folder not in splits and MANIFEST_NAME in names:
        return list(_manifest(out, folder).splits) == [folder]
    return folder in {*splits, *SPLITS}


def _manifest(out: OutputFolder, folder: str) -> Manifest:
    return read_manifest(out.local(f"{folder}/{MANIFEST_NAME}".lstrip("/")).parent)
