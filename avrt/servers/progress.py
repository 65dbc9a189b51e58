"""The progress line of a run of calls: done, rate, time left, and how the calls ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

SHOW_SECONDS = 0.1
"""Least time between two updates of the line, which cost more than counting does."""


class CallProgress:
    """A progress bar on standard error. The total grows while the calls are still being collected.

    Args:
        title: its name.
        describe: returns a short text about how the calls ended so far.
    """

    def __init__(self, title: str, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._total = self._earlier = self._finished = 0
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
        self._task = self._progress.add_task(title, total=None, rate="", left="-:--:--", outcomes="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        self._progress.stop()

    def add_to_total(self, *, done: bool) -> None:
        """One more call is known. One that an earlier run made counts as progress but not into the rate."""
        self._total += 1
        self._earlier += done
        self._show_sometimes()

    def add_finished(self) -> None:
        """One more call is finished."""
        self._finished += 1
        self._show_sometimes()

    def _show_sometimes(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= SHOW_SECONDS:
            self._shown_at = now
            self._show()

    def _show(self) -> None:
        seconds = max(1e-9, time.monotonic() - self._begin)
        remaining = self._total - self._earlier - self._finished
        # When nothing remains, the elapsed time, as in rich's own columns.
        left = seconds if not remaining else remaining * seconds / self._finished if self._finished else None
        self._progress.update(
            self._task,
            total=self._total,
            completed=self._earlier + self._finished,
            rate=f"{self._finished / seconds:.1f}/s" if self._finished else "",
            left="-:--:--" if left is None else str(timedelta(seconds=int(left))),
            outcomes=self._describe(),
        )
