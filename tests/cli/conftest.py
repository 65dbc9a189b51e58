"""A user's own package, and a very short run with it."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from tests.cli.runner import Runner

PACKAGE = """
    import os
    from dataclasses import dataclass, field
    from typing import Any, Literal

    import lightning.pytorch as pl
    import torch


    @dataclass
    class Schedule:
        warmup_steps: int = 10

        def __post_init__(self):
            if self.warmup_steps < 0:
                raise ValueError(f"warmup_steps must be 0 or more, got {self.warmup_steps}")


    class Module(pl.LightningModule):
        def __init__(
            self,
            model: str,
            beta: float = 0.04,
            group_size: int = 8,
            loss_type: Literal["grpo", "dapo"] = "grpo",
            schedule: Schedule = Schedule(),
            second_schedule: Schedule | None = None,
            anything: Any = None,
            fault: str = "",
        ):
            super().__init__()
            if model != "tiny":
                raise ValueError(f"model: there is no model {model!r}; use 'tiny'")
            if beta < 0:
                raise ValueError(f"`beta` must be 0 or more, got {beta:g}")
            if fault == "bug in init":
                raise TypeError("a fault of the program")
            if fault == "chained in init":
                raise ValueError("fault: refused, because of a key") from KeyError("x")
            self.fault = fault
            self.anything = anything
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, index):
            faults = {
                "value": ValueError("val_split: 'dev' is not a split"),
                "file": FileNotFoundError(2, "No such file or directory", "shards/000.tar"),
                "bug": RuntimeError("a fault of the program"),
                "preempted": SystemExit(75),
                "keyboard": KeyboardInterrupt(),
            }
            if self.fault:
                raise faults[self.fault]
            self.log("completions/mean_length", 24.4, prog_bar=True)
            return self.layer(batch).sum()

        def test_step(self, batch, index):
            return None

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)


    class Untestable(Module):
        test_step = pl.LightningModule.test_step


    class Data(pl.LightningDataModule):
        def __init__(self, shards: str = "x"):
            super().__init__()

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.ones(4, 1))

        test_dataloader = train_dataloader


    class Reward(pl.Callback):
        def __init__(self, weight: float = 1.0):
            if weight <= 0:
                raise ValueError(f"weight must be positive, got {weight:g}")
            print(f"reward of weight {weight}")
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a user's own installed package."""
    # Lightning's log handler keeps the stderr of the moment it is imported: not that of one test, closed later.
    import lightning.pytorch  # noqa: F401

    folder = tmp_path_factory.mktemp("user")
    (folder / "users_package.py").write_text(textwrap.dedent(PACKAGE))
    sys.path.insert(0, str(folder))
    yield "users_package"
    sys.path.remove(str(folder))


@pytest.fixture
def config(package: str, tmp_path: Path) -> dict:
    """A complete and very short run."""
    return {
        "seed_everything": 1,
        "trainer": {
            "max_steps": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path / "run"),
            "callbacks": [{"class_path": f"{package}.Reward", "init_args": {"weight": 2.0}}],
        },
        "model": {"class_path": f"{package}.Module", "init_args": {"model": "tiny"}},
        "data": {"class_path": f"{package}.Data"},
    }


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], package: str) -> Runner:
    return Runner(tmp_path, capsys, package)
