"""Students of the tests that need vLLM. `scripts/test_vllm.sh` builds and sets the environment that they run in."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def float32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student in the published layout, in float32: log-probabilities can agree to rounding."""
    from tests.published_student import save_published_student

    return save_published_student(tmp_path_factory.mktemp("published") / "float32", dtype="float32")
