"""Files of JSON objects that others wrote: one JSON array, or one object per line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from avrt.files.json_text import decode_json

_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')
"""A string, to skip it, or a comma before a closing bracket."""


def read_json_rows(path: Path, *, trailing_commas: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSON array or of a JSON lines file, in order.

    Args:
        path: the file.
        trailing_commas: read an array also if it has commas before closing brackets, as some authors' files do.

    Raises:
        ValueError: the file is neither, or an entry is not an object; file and line or entry are named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if text.lstrip().startswith("["):
        rows = _array(_TRAILING_COMMA.sub(r"\1", text) if trailing_commas else text, path)
    else:
        rows = _lines(text, path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: entry {number} is not a JSON object")
    return rows


def _array(text: str, path: Path) -> list[Any]:
    try:
        return decode_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not valid JSON at line {error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _lines(text: str, path: Path) -> list[Any]:
    rows = []
    # Not splitlines(): it would also split at U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(decode_json(line))
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}: line {number} is not valid JSON ({error.msg}); expected a JSON array or one object per "
                    "line"
                ) from error
            except ValueError as error:
                raise ValueError(f"{path}: line {number}: {error}") from error
    return rows
