"""The progress line of a stage: done, rate, time left, and how the calls ended."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avrt.traces.records import Status


class StageProgress:
    """A bar for one stage, on standard error.

    Args:
        stage: its name.
        total: calls of the whole stage.
        done: calls that earlier runs finished; they count as progress but not into the rate.

    Attributes:
        counts: calls of this run by how they ended.
    """

    def __init__(self, stage: str, total: int, done: int) -> None:
        self.counts: Counter[Status] = Counter()
        self._begin = time.monotonic()
        columns = (
            TextColumn("{task.description:<6}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[outcomes]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(stage, total=total, completed=done, rate="", outcomes="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def finished(self, status: Status) -> None:
        """One more call is done."""
        self.counts[status] += 1
        rate = sum(self.counts.values()) / max(1e-9, time.monotonic() - self._begin)
        outcomes = ", ".join(f"{count} {status.value}" for status, count in sorted(self.counts.items()))
        self._progress.update(self._task, advance=1, rate=f"{rate:.1f}/s", outcomes=outcomes)
