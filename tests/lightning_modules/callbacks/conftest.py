"""Shards that the tests of this folder share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of 8 training and 4 validation samples. Read only."""
    from tests.lightning_modules.callbacks.tiny_runs import write_shards

    return write_shards(tmp_path_factory.mktemp("shards"))
