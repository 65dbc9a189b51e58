"""Refusal of model folders with Python code: transformers would ask on the terminal whether to run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def check_no_remote_code(folder: Path) -> None:
    """Refuse a folder whose settings name code (``auto_map``).

    Loading with ``trust_remote_code=False`` already prevents that it runs; this error names the file.

    Raises:
        ValueError: a settings file names code, or is not valid JSON.
    """
    for file in sorted(folder.glob("*config.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise ValueError(f"{file} is not valid JSON ({reason}); download or save the folder again") from error
        if _names_code(content):
            raise ValueError(
                f"{file} names Python code to load the model with (auto_map), which is never run; use a folder of "
                "plain transformers, or remove the entry if transformers has the class itself"
            )


def _names_code(content: Any) -> bool:
    if isinstance(content, dict):
        return bool(content.get("auto_map")) or any(_names_code(value) for value in content.values())
    return isinstance(content, list) and any(_names_code(value) for value in content)
