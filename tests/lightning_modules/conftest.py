"""Shards for real training runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lightning_modules.training import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten samples of all combinations of streams. Read only."""
    return write_shards(tmp_path_factory.mktemp("train"))
