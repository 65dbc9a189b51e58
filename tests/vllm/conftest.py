"""Settings and students of the tests that need vLLM. `scripts/test_vllm.sh` builds the environment that they run in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before vLLM is imported. Its CPU build binds threads to cores and compiles otherwise, and keeps 4 GB for caches.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}.items():
    os.environ.setdefault(_name, _value)


@pytest.fixture(scope="session")
def float32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student in the published layout, in float32: log-probabilities can agree to rounding."""
    from tests.published_student import save_published_student

    return save_published_student(tmp_path_factory.mktemp("published") / "float32", dtype="float32")
