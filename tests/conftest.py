"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from avrt.model.student import Student
    from tests.programs import ForkServer

# pytest runs a process per core, and some tests start more, so thread pools as wide as the machine would compete. Set
# before anything imports torch, and inherited by programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TOGETHER = ("tests/distributed/", "tests/lightning_modules/callbacks/test_preemption.py")
"""Files whose tests share runs, or start programs from the same server."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled modules for the many processes that tests start, even if Python is told not to write any.

    Otherwise each would compile some 2,000 files again, which takes longer than the test itself.
    """
    cache = getattr(config, "cache", None)
    if sys.dont_write_bytecode and cache is not None and os.access(config.rootpath, os.W_OK):
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(cache.mkdir("bytecode"))
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": sys.pycache_prefix}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Like ``--dist loadfile``, with the files of `TOGETHER` as one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER[0] if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real clips and annotations, beside the checkout and never in it."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("real data not found: this test needs the folder `shared/real` beside the checkout")
    return folder.resolve()


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny random student of `tests.tiny_student`. Read only."""
    from tests.tiny_student import save_student

    return save_student(tmp_path_factory.mktemp("tiny_student"))


@pytest.fixture(scope="session")
def published_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in the published layout of Qwen2.5-Omni at tiny width, see `tests.published_student`. Read only."""
    from tests.published_student import save_published_student

    return save_published_student(tmp_path_factory.mktemp("published") / "Qwen2.5-Omni-tiny")


@pytest.fixture(scope="session")
def experts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny student whose language model is a mixture of experts. Read only."""
    from tests.tiny_student import EXPERTS, save_student

    return save_student(tmp_path_factory.mktemp("tiny_experts"), family=EXPERTS)


@pytest.fixture(scope="session")
def published_experts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in the published layout of Qwen3-Omni at tiny width, see `tests.published_experts`. Read only."""
    from tests.published_experts import save_published_experts

    return save_published_experts(tmp_path_factory.mktemp("published") / "Qwen3-Omni-tiny")


FOLDERS = {
    "tiny": "student_folder",
    "experts": "experts_folder",
    "published": "published_folder",
    "published experts": "published_experts_folder",
}


@pytest.fixture(scope="session", params=FOLDERS)
def any_student_folder(request: pytest.FixtureRequest) -> Path:
    """A tiny student of each family, then those in the published layouts: for tests of the layout. Read only."""
    return request.getfixturevalue(FOLDERS[request.param])


SLOW_LAYOUTS = [pytest.param(name, marks=pytest.mark.slow) for name in ("published", "published experts")]


@pytest.fixture(scope="session", params=["tiny", "experts", *SLOW_LAYOUTS])
def layout_folder(request: pytest.FixtureRequest) -> Path:
    """Like `any_student_folder`, with the published layouts in the slow tier. Read only."""
    return request.getfixturevalue(FOLDERS[request.param])


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Starts programs in processes that have imported the training stack already."""
    from tests.programs import ForkServer

    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def student64(layout_folder: Path) -> Student:
    """The tiny student in float64, norms included. Tests must not change its weights."""
    from tests.tiny_student import load_student, widen_norms

    student = load_student(layout_folder, dtype="float64")
    widen_norms(student.thinker.model.language_model)
    return student


@pytest.fixture(scope="session")
def student32(layout_folder: Path) -> Student:
    """The tiny student in float32. Tests must not change its weights."""
    from tests.tiny_student import load_student

    return load_student(layout_folder, dtype="float32")


@pytest.fixture(scope="session")
def plain64(layout_folder: Path) -> Any:
    """The same weights as plain transformers loads them, float64, norms included."""
    import torch

    from tests.tiny_student import load_plain, widen_norms

    model = load_plain(layout_folder, torch.float64)
    widen_norms(model.model.language_model)
    return model


@pytest.fixture(scope="session")
def plain32(layout_folder: Path) -> Any:
    """The same weights as plain transformers loads them, float32."""
    import torch

    from tests.tiny_student import load_plain

    return load_plain(layout_folder, torch.float32)


@pytest.fixture(scope="session")
def question_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 questions about 20 clips."""
    from tests.traces.question_set import write_shards

    return write_shards(tmp_path_factory.mktemp("questions") / "shards", 40)
