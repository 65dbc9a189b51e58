"""What is known about a stage that ran: ``stage.json`` in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from avrt.experiments.stages import Stage
from avrt.files.atomic import write_atomic

STATE_FILE = "stage.json"
LOG_FILE = "stage.log"

Status = Literal["complete", "failed", "interrupted"]


@dataclass(frozen=True)
class StageState:
    """How a stage ended.

    Attributes:
        fingerprint: the stage's, which its folder's name shortens.
        status: how it ended.
        seconds: duration, over all attempts.
        commands: what ran, as a user would type it.
        error: the last line of the log of a stage that failed.
    """

    fingerprint: str
    status: Status
    seconds: float
    commands: list[str]
    error: str = ""

    def write(self, folder: Path) -> None:
        """Write ``stage.json``."""
        write_atomic(folder / STATE_FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_state(stage: Stage) -> StageState | None:
    """How the stage ended, or None if it never did, or if the file is not this stage's."""
    try:
        state = StageState(**json.loads((stage.folder / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.fingerprint == stage.fingerprint else None


def is_complete(stage: Stage) -> bool:
    """Whether the stage need not run."""
    state = read_state(stage)
    return state is not None and state.status == "complete"
