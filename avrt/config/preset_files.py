"""The preset configs: the folder ``cli_configs`` of the source tree or of the installed package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = "cli_configs"

_OPTIONS = ("--config", "-c", "--traces")
"""Options whose value is a config file."""


def preset_folder() -> Path:
    """The folder with the presets, regardless of the working directory.

    Raises:
        FileNotFoundError: it is missing from the installation.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / FOLDER, package / FOLDER):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(2, "the presets are missing from the installation", f"{package / FOLDER}")


def with_preset_paths(words: Sequence[str], notify: Callable[[str], None]) -> list[str]:
    """A command line with the paths of installed presets that the working directory does not have.

    ``--config cli_configs/grpo_tiny.yaml`` is the working directory's file if there is one. Otherwise it becomes the
    path of the installed preset, and `notify` is called.

    Args:
        words: the command line after the command.
        notify: called with a line for each replacement.
    """
    result: list[str] = []
    expects_file = False
    for word in words:
        option, equals, value = word.partition("=")
        if expects_file:
            word = _preset_path(word, notify)
        elif equals and option in _OPTIONS:
            word = f"{option}={_preset_path(value, notify)}"
        expects_file = not expects_file and word in _OPTIONS
        result.append(word)
    return result


def _preset_path(value: str, notify: Callable[[str], None]) -> str:
    path = Path(value)
    if path.parts[:1] != (FOLDER,) or path.exists():
        return value
    preset = preset_folder().joinpath(*path.parts[1:])
    if preset.is_file():
        notify(f"{value} is not in the working directory; using {preset}")
        return str(preset)
    # If the working directory has no presets, the error should suggest names of installed ones.
    return value if Path(FOLDER).is_dir() else str(preset)
