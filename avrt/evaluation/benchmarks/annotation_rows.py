"""The rows of an annotation file: parquet, a JSON array, or JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avrt.files.json_rows import read_json_rows


def read_rows(path: Path, *, trailing_commas: bool = False) -> list[dict[str, Any]]:
    """All rows of a file, in order.

    Args:
        trailing_commas: see `avrt.files.json_rows.read_json_rows`.

    Raises:
        ValueError: the file is none of these, or parquet that cannot be read; names the file.
    """
    if path.suffix != ".parquet":
        return read_json_rows(path, trailing_commas=trailing_commas)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"{path}: reading parquet needs pyarrow (pip install pyarrow), or save its rows as JSON lines in "
            f"{path.with_suffix('.jsonl')}"
        ) from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: cannot be read as parquet: {error}") from error
