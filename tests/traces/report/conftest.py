"""A finished trace run, its page, and the browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.traces.report.page import PageOptions, write_trace_report
from tests.pages.browser_fixtures import browser, clean_page  # noqa: F401
from tests.traces.report.trace_pages import FinishedRun, finish_run


@pytest.fixture(scope="package")
def finished(question_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finish_run(question_shards, tmp_path_factory.mktemp("traces"))


@pytest.fixture(scope="package")
def page(finished: FinishedRun) -> Path:
    """The page with all samples."""
    return write_trace_report(finished.config, finished.root / "page", PageOptions(per_reason=100)).page
