"""The overview page names only curves that are documented, and a run writes it."""

from __future__ import annotations

import re
from pathlib import Path

from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from lightning_modules.callbacks import Overview
from lightning_modules.callbacks.overview import CHARTS
from tests.lightning_modules.callbacks.test_metrics_page import documented
from tests.lightning_modules.callbacks.tiny_runs import events, sft, trainer


def test_every_curve_of_the_page_exists() -> None:
    names = {name.replace("{name}", "accuracy") for section in documented().values() for name in section}
    for charts in CHARTS.values():
        for curves in charts.values():
            for curve in curves:
                assert any(re.search(curve, name) for name in names), curve


def test_a_run_writes_the_page(tmp_path: Path, student_folder: Path, shards: tuple[Path, Path]) -> None:
    module, data = sft(student_folder, shards)
    trainer(tmp_path, [Overview()], max_steps=1, limit_val_batches=0).fit(module, data)
    point = events(tmp_path).Tensors("custom_scalars__config__")[0]
    layout = Layout.FromString(point.tensor_proto.string_val[0])
    assert {category.title: [chart.title for chart in category.chart] for category in layout.category} == {
        category: list(charts) for category, charts in CHARTS.items()
    }
