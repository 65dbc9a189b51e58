"""One rendered demo set for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.demo.build import DemoFiles, build_demo_clips


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    """64 train and 64 val clips with two questions each, seed 0. Read only."""
    out_dir: Path = tmp_path_factory.mktemp("demo")
    return build_demo_clips(out_dir, train_clips=64, val_clips=64, questions_per_clip=2, seed=0, workers=2)
