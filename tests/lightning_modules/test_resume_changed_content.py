"""A run is not resumed with other data or other frozen weights, however alike their files are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.lightning_modules.test_resume import sft
from tests.lightning_modules.training import StopAfter, fit, write_shards
from tests.shard_files import swap_case_of_traces


def test_traces_that_were_changed_at_equal_size_are_refused(student_folder: Path, tmp_path: Path) -> None:
    """Beside the old manifest, which still states the old checksums."""
    shards, path = write_shards(tmp_path / "shards", count=9), tmp_path / "stop.ckpt"
    fit(*sft(student_folder, shards), StopAfter(1, path), max_steps=3)
    for shard in shards.glob("*.tar"):
        swap_case_of_traces(shard)
    with pytest.raises(ValueError, match=r"cannot resume.*data\.train.*resume_with_changes"):
        fit(*sft(student_folder, shards), ckpt_path=path, max_steps=3)
    fit(*sft(student_folder, shards, {"resume_with_changes": True}), ckpt_path=path, max_steps=3)


def test_a_frozen_weight_that_was_changed_far_inside_is_refused(
    student_folder: Path, shards: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stop.ckpt"
    fit(*sft(student_folder, shards), StopAfter(1, path), max_steps=3)
    changed = shutil.copytree(student_folder, tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    name = max((n for n in weights if "visual" in n), key=lambda n: weights[n].numel())
    weights[name].view(-1)[-1] += 1
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="other frozen weights"):
        fit(*sft(changed, shards), ckpt_path=path, max_steps=3)
