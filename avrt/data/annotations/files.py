"""Rows of annotation files: JSON, JSON lines, CSV, TSV, parquet, and folders of the `datasets` library.

Parquet and Arrow files are read in batches, so a file with media in it never lies in memory whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from avrt.files.json_rows import read_json_rows
from avrt.files.json_text import decode_json

Row = dict[str, Any]

BATCH_ROWS = 2048
BATCH_ROWS_WITH_MEDIA = 32
"""Rows in memory at once; few where a column has the bytes of images or audio."""

TABLES = {".csv": ",", ".tsv": "\t"}
"""Extensions of text tables, with their separators."""

_SHARD = re.compile(r"(?P<split>.+?)(?:-\d+-of-\d+)?\.parquet")
"""`datasets` names a hub folder's files ``train-00000-of-00001.parquet``."""


def is_untyped(path: Path) -> bool:
    """Whether a file's cells are all texts, so that ``2`` may be meant as a number."""
    return path.suffix.lower() in TABLES


def iterate_rows(path: Path, dataset_split: str | None = None) -> Iterator[Row]:
    """The rows of a file or folder, in order.

    Args:
        path: a JSON array, JSON lines, CSV (``.csv``), TSV (``.tsv``), parquet (``.parquet``) or Arrow (``.arrow``)
            file; or a folder: one that `datasets` wrote with `save_to_disk`, or one of parquet files as on the hub.
        dataset_split: which split of a folder that has several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read; file and place are named.
    """
    if path.is_dir():
        yield from _folder_rows(path, dataset_split)
        return
    if not path.exists():
        raise FileNotFoundError(f"annotations: there is no file {path}")
    if dataset_split is not None:
        raise ValueError(f"dataset_split: {path} is a file, which has no splits; give it only for a folder")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        yield from _table_rows(path, TABLES[suffix])
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix == ".arrow":
        yield from _arrow_rows(path)
    else:
        yield from read_json_rows(path)


def _table_rows(path: Path, separator: str) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"{path}: line {reader.line_num} has another number of cells than the header")
                yield {name: cell or None for name, cell in row.items()}
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num} is not valid CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            size = _batch_rows(file.schema_arrow)
            # One row group at a time: asked for all, pyarrow reads them ahead.
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=size, row_groups=[group]):
                    yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        _reraise(error, path, "parquet file")


def _arrow_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import ipc

    try:
        with pyarrow.memory_map(str(path)) as file, ipc.open_stream(file) as reader:
            size = _batch_rows(reader.schema)
            for batch in reader:
                for begin in range(0, batch.num_rows, size):
                    yield from batch.slice(begin, size).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        _reraise(error, path, "Arrow stream")


def _batch_rows(schema: Any) -> int:
    import pyarrow

    def has_bytes(kind: Any) -> bool:
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            return True
        return any(has_bytes(kind.field(index).type) for index in range(kind.num_fields))

    return BATCH_ROWS_WITH_MEDIA if any(has_bytes(field.type) for field in schema) else BATCH_ROWS


def _reraise(error: Exception, path: Path, kind: str) -> NoReturn:
    """Raise an error of the disk as it is; pyarrow's about the content have no number, and become a ValueError."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    first_line = str(error).partition("\n")[0]
    raise ValueError(f"{path}: is not a complete {kind}: {first_line}") from error


def _folder_rows(folder: Path, split: str | None) -> Iterator[Row]:
    if (folder / "state.json").exists():
        yield from _saved_rows(folder)
        return
    if (folder / "dataset_dict.json").exists():
        splits = _read_json(folder / "dataset_dict.json", "splits")
        yield from _saved_rows(folder / _choose(folder, [str(name) for name in splits], split))
        return
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        match = _SHARD.fullmatch(path.name)
        inside = path.parent.relative_to(folder).parts
        # On the hub, `data` holds the only configuration; other folders are one configuration each.
        prefix = "/".join(part for part in inside if part != "data")
        name = match["split"] if match else path.stem
        files.setdefault(f"{prefix}/{name}" if prefix else name, []).append(path)
    if not files:
        raise ValueError(
            f"annotations: {folder} is neither a folder that `datasets` saved nor one with parquet files; give the "
            "annotation file itself"
        )
    for path in files[_choose(folder, list(files), split)]:
        yield from _parquet_rows(path)


def _choose(folder: Path, splits: list[str], wanted: str | None) -> str:
    if wanted is None and len(splits) == 1:
        return splits[0]
    if wanted not in splits:
        problem = f"has no split {wanted!r}" if wanted is not None else "has several splits"
        raise ValueError(f"dataset_split: {folder} {problem}; choose one of {', '.join(splits) or 'none'}")
    return wanted


def _saved_rows(folder: Path) -> Iterator[Row]:
    """Rows of one dataset as `datasets` saves it: Arrow streams, listed in ``state.json``."""
    for entry in _read_json(folder / "state.json", "_data_files"):
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{folder / 'state.json'}: lists {name!r}, which is not a file of this folder")
        if not (folder / name).exists():
            raise ValueError(f"{folder}: is incomplete: it has no {name}, which its state.json lists")
        yield from _arrow_rows(folder / name)


def _read_json(path: Path, key: str) -> list[Any]:
    try:
        content = decode_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent}: is incomplete: it has no {path.name}") from error
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON: {error}") from error
    values = content.get(key) if isinstance(content, dict) else None
    if not isinstance(values, list):
        raise ValueError(f"{path}: has no list `{key}`, as `datasets` writes it")
    return values
