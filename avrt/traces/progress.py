"""The progress line of a stage: done, rate, time left, and how the calls ended."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from avrt.servers.status import Status
from avrt.traces.stage_report import StageReport

SHOW_SECONDS = 0.1
"""Between two changes of the line, which cost more than counting does."""


class StageProgress:
    """A bar for one stage, on standard error. The total grows while it is still being found out what there is to do.

    Args:
        stage: its name.
        report: counts its calls.
    """

    def __init__(self, stage: str, report: StageReport) -> None:
        self.report = report
        self._total = 0
        self._earlier = 0
        self._begin = time.monotonic()
        self._shown_at = 0.0
        columns = (
            TextColumn("{task.description:<6}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[outcomes]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(stage, total=None, rate="", left="-:--:--", outcomes="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        self._progress.stop()

    def found(self, *, done: bool) -> None:
        """The stage has one more call. One that an earlier run made counts as progress but not into the rate."""
        self._total += 1
        self._earlier += done
        self._show_now_and_then()

    def finished(self, status: Status, error: str) -> None:
        """One more call is done."""
        self.report.add_made(status, error)
        self._show_now_and_then()

    def _show_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= SHOW_SECONDS:
            self._shown_at = now
            self._show()

    def _show(self) -> None:
        here = self.report.made.total()
        seconds = max(1e-9, time.monotonic() - self._begin)
        remaining = self._total - self._earlier - here
        # When nothing remains, the time it took, as rich's own columns have it.
        left = seconds if not remaining else remaining * seconds / here if here else None
        self._progress.update(
            self._task,
            total=self._total,
            completed=self._earlier + here,
            rate=f"{here / seconds:.1f}/s" if here else "",
            left="-:--:--" if left is None else str(timedelta(seconds=int(left))),
            outcomes=", ".join(f"{count} {status.value}" for status, count in sorted(self.report.made.items())),
        )
