"""Training on several sources: from a config, with a curve of each source's samples that continues after a resume."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.planning.settings import count_samples
from datamodules.sources import DataSource
from tests.lightning_modules.training import StopAfter, fit, sft_data, sft_module, write_shards
from tests.programs import REPOSITORY, environment


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return write_shards(folder / "large", 10), write_shards(folder / "small", 4, first=20)


def curves(logged: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(step["data/samples/large"], step["data/samples/small"]) for step in logged]


@pytest.mark.parametrize("weights", [(3.0, 1.0), (None, None)])
def test_counts_of_each_source_are_logged(
    student_folder: Path, two: tuple[Path, Path], tmp_path: Path, weights: tuple[Any, Any]
) -> None:
    def make() -> tuple[Any, Any]:
        train = [DataSource(str(folder), weight) for folder, weight in zip(two, weights, strict=True)]
        return sft_module(student_folder), sft_data(two[0], train=train, batch_size=2)

    whole = fit(*make(), max_steps=4)
    seen = curves(whole.logged)
    assert [sum(counts) for counts in seen] == [4, 8, 12, 16]
    ids = [key for step in whole.ids for key in step]
    for step, (large, _) in enumerate(seen, 1):
        assert large == sum(int(key.rpartition("-")[2]) < 20 for key in ids[: 4 * step])
    if weights[0] is not None:
        assert seen == [(3, 1), (6, 2), (9, 3), (12, 4)]
    fit(*make(), StopAfter(2, tmp_path / "stop.ckpt"), max_steps=4)
    resumed = fit(*make(), ckpt_path=tmp_path / "stop.ckpt", max_steps=4)
    assert curves(resumed.logged) == seen[2:]
    assert [key for step in resumed.ids for key in step] == ids[8:]


def test_a_single_source_has_no_such_curve(student_folder: Path, two: tuple[Path, Path]) -> None:
    run = fit(sft_module(student_folder), sft_data(two[0], batch_size=2), max_steps=1)
    assert not any(name.startswith("data/samples") for name in run.logged[0])


def test_sources_in_a_config(two: tuple[Path, Path], tmp_path: Path) -> None:
    large, small = map(str, two)
    sources = [{"shards": large, "weight": 0.7}, {"shards": [small], "weight": 0.3, "name": "few", "split": "train"}]
    config = tmp_path / "sources.yaml"
    config.write_text(yaml.safe_dump({"data": {"init_args": {"train": sources, "shuffle_shards": 4, "cache_gb": 2}}}))
    command = [sys.executable, "-m", "avrt", "fit", "--config", "cli_configs/sft_tiny.yaml", "--config", str(config)]
    done = subprocess.run(
        [*command, "--print_config"], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = yaml.safe_load(done.stdout)["data"]["init_args"]
    assert [(s["shards"], s["weight"], s["name"], s["split"]) for s in printed["train"]] == [
        (large, 0.7, None, None),
        ([small], 0.3, "few", "train"),
    ]
    assert (printed["shuffle_shards"], printed["cache_gb"]) == (4, 2)
    assert count_samples(printed["train"]) == 14
    assert count_samples([{"shards": "http://127.0.0.1:9/shards/{000..001}.tar"}]) is None
