"""Commands run in this process on a written config, and their output."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from avrt.cli import main


class Runner:
    """Writes a config, runs a command on it in this process, and keeps its output."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], package: str) -> None:
        self.path = folder / "run.yaml"
        self.capsys = capsys
        self.allow = ("--allow-classes", package)

    def __call__(self, config: dict, *words: str, command: str = "fit") -> tuple[int, str]:
        self.path.write_text(yaml.safe_dump(config, sort_keys=False))
        self.capsys.readouterr()
        status = main([command, "--config", str(self.path), *self.allow, *words])
        captured = self.capsys.readouterr()
        self.out = captured.out
        return status, captured.err

    def error(self, config: dict, *words: str) -> str:
        """The one line of a refused config."""
        status, err = self(config, *words)
        assert status == 2, err
        lines = [line for line in err.splitlines() if line.startswith("avrt: error: ")]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        return lines[0].removeprefix("avrt: error: ")


def changed(config: dict, path: str, value: object) -> dict:
    """A copy with the entry at `path` (parts joined by ``/``) set to `value`."""
    result = copy.deepcopy(config)
    *parents, last = path.split("/")
    place = result
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return result
