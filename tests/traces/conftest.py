from __future__ import annotations

from pathlib import Path

import pytest

from tests.traces.question_set import write_shards


@pytest.fixture(scope="session")
def question_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 questions about 20 clips."""
    return write_shards(tmp_path_factory.mktemp("questions") / "shards", 40)
