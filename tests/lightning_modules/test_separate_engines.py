"""Rollout engines with weights of their own: when they are updated, and what happens if they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avrt.grpo.sampling_correction import CorrectionMode, SamplingCorrectionConfig
from avrt.rollout.engine import EngineConfig
from tests.lightning_modules.callbacks.test_metrics_page import documented
from tests.lightning_modules.own_weights import OwnWeights
from tests.lightning_modules.training import fit, grpo_data, grpo_module, optimizer, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def run(
    engine: EngineConfig | None,
    student: Path,
    shards: Path,
    steps: int = 2,
    learning_rate: float = 0.5,
    **settings: Any,
) -> list[dict[str, float]]:
    if engine is not None:
        settings["rollout"] = engine
    module = grpo_module(student, optimizer=optimizer(learning_rate=learning_rate), **settings)
    return fit(module, grpo_data(shards), max_steps=steps).logged


def warned_steps(output: str) -> list[str]:
    return [line.partition(":")[0] for line in output.splitlines() if "sampled from other weights" in line]


def test_stale_weights(student_folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first step has the weights of sampling; each one after it is a warning, and the sixth of these the end."""
    with pytest.raises(ValueError, match=r"step 7: responses were sampled from other weights.*6 of the last 7 steps"):
        run(OwnWeights(forgets=True), student_folder, shards, steps=20)
    assert warned_steps(capsys.readouterr().out) == [f"step {step}" for step in range(2, 7)]


def test_a_missing_tensor(student_folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(OwnWeights(missing="embed_tokens.weight"), student_folder, shards)
    assert warned_steps(capsys.readouterr().out) == ["step 2"]


@pytest.mark.parametrize("engine", [OwnWeights(), None])
def test_the_same_weights(engine: OwnWeights | None, student_folder: Path, shards: Path) -> None:
    steps = run(engine, student_folder, shards)
    assert all(step["sampling/sampling_logp_difference/mean"] < 1e-4 for step in steps)
    assert len(steps) == 2


def test_weights_go_over_before_every_window(student_folder: Path, shards: Path) -> None:
    """Once for a window, however many optimizer steps it has had; and the run closes its engine."""
    engine = OwnWeights()
    plain = run(None, student_folder, shards, steps=4, num_iterations=2)
    steps = run(engine, student_folder, shards, steps=4, num_iterations=2)
    assert engine.calls == ["start", "update", "rest", "update", "rest", "close"]
    for step, expected in zip(steps, plain, strict=True):
        assert step["reward"] == expected["reward"]
        assert step["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert all(step["seconds/weights"] > 0 for step in steps)
    assert not any("seconds/weights" in step for step in plain)


def test_a_resumed_run_needs_the_same_engine(student_folder: Path, shards: Path) -> None:
    module = grpo_module(student_folder, rollout=OwnWeights())
    assert module.training_settings()["rollout"] == "OwnWeights"
    assert grpo_module(student_folder).training_settings()["rollout"] is None


def test_the_correction_masks_responses_of_other_weights(student_folder: Path, shards: Path) -> None:
    correction = SamplingCorrectionConfig(clip_min=0.5)
    first, second = run(
        OwnWeights(forgets=True), student_folder, shards, sampling_correction=correction, loss={"beta": 0.0}
    )
    assert first["rollout_corr/rollout_rs_masked_fraction"] == 0
    assert first["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
    assert first["rollout_corr/rollout_is_eff_sample_size"] == pytest.approx(1, abs=1e-3)
    assert abs(second["rollout_corr/kl"]) > 0.1
    assert second["rollout_corr/k3_kl"] > 0.1
    assert second["rollout_corr/rollout_rs_seq_masked_fraction"] == 1
    assert second["sampling/importance_sampling_ratio/max"] == 0
    assert (first["grad_norm"] > 0, second["grad_norm"]) == (True, 0)
    assert not any(name.endswith("mean_square") for name in second)


@pytest.mark.parametrize(
    ("mode", "num_iterations"), [("sequence_mask", 1), ("sequence_truncate", 2), ("token_mask", 1)]
)
def test_the_correction_does_nothing_to_the_built_in_engine(
    mode: CorrectionMode, num_iterations: int, student_folder: Path, shards: Path
) -> None:
    settings: dict[str, Any] = {"steps": 4, "learning_rate": 1e-3, "num_iterations": num_iterations}
    plain, corrected = (
        run(None, student_folder, shards, sampling_correction=correction, **settings)
        for correction in (None, SamplingCorrectionConfig(mode))
    )
    for before, after in zip(plain, corrected, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-3)
        assert after.keys() - before.keys() == documented()["With a sampling correction"]
        assert before.keys() <= after.keys()
