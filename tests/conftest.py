"""What tests of every room share."""

import os
from pathlib import Path

import pytest

# pytest runs a process per core, and some tests start more: thread pools as wide as the machine would only make them
# wait for each other. Set before anything imports torch, and inherited by what tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real clips and annotations, which are kept beside the checkout and never in it."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("real data not found: this test needs the folder `shared/real` beside the checkout")
    return folder.resolve()


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny random student of `tests.tiny_student`. Read only."""
    from tests.tiny_student import save_student

    return save_student(tmp_path_factory.mktemp("tiny_student"))
