"""The samples, losses and tokens of every optimizer step, written by the run that takes it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from tests.soak.tally import Problem


class StepRecorder(Callback):
    """Appends a line per optimizer step to ``<number>.jsonl`` in a folder, one file for each start of the run.

    Args:
        folder: not inside the run's folder, whose disk may be full.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._step: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"{len(list(self._folder.iterdir())):03d}.jsonl"
        self._append({"resumed_at": trainer.global_step})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self._step or {"ids": [], "losses": [], "tokens": []}
        step["ids"] += [prompt.sample.id for prompt in batch.prompts]
        step["losses"].append(float(outputs["loss"]).hex())
        responses = pl_module.rollout.responses[batch.start : batch.stop]
        tokens = [response.token_ids.tolist() for group in responses for response in group]
        step["tokens"].append(hashlib.sha256(json.dumps(tokens).encode()).hexdigest())
        self._step = step
        if batch.last:
            self._append({"step": trainer.global_step, **step})
            self._step = {}

    def _append(self, line: dict[str, Any]) -> None:
        # One write: a kill leaves all of the line or nothing.
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class History:
    """What a run did over all its starts.

    Attributes:
        steps: of the weights at the end, by step: those that a start took after its last checkpoint and lost are not
            among them.
        repeated: steps that were taken again after a kill.
        changed: repeated steps that did not come out as the first time.
        starts: starts that reached training.
    """

    steps: dict[int, dict[str, Any]]
    repeated: int
    changed: list[int]
    starts: int


def read_history(folder: Path) -> History:
    """Fold the files of all starts.

    Raises:
        Problem: a start resumed at a step that no start before it had reached.
    """
    steps: dict[int, dict[str, Any]] = {}
    taken: dict[int, dict[str, Any]] = {}
    repeated, changed, starts = 0, [], 0
    for path in sorted(folder.glob("*.jsonl")):
        starts += 1
        for line in map(json.loads, path.read_text().splitlines()):
            if "resumed_at" in line:
                start = line["resumed_at"]
                if start and start not in steps:
                    raise Problem(f"{path.name}: resumed at step {start}, which no earlier start has recorded")
                steps = {number: step for number, step in steps.items() if number <= start}
                continue
            number = line["step"]
            if number in taken:
                repeated += 1
                if taken[number] != line:
                    changed.append(number)
            steps[number] = taken[number] = line
    return History(steps, repeated, changed, starts)


def last_step(folder: Path) -> int:
    """The newest start's newest step; where it resumed, if it has taken none."""
    paths = sorted(folder.glob("*.jsonl"))
    lines = paths[-1].read_text().splitlines() if paths else []
    if not lines:
        return 0
    line = json.loads(lines[-1])
    return int(line.get("step", line.get("resumed_at")))
