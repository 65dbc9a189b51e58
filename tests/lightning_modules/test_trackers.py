"""Loggers of W&B, MLflow and Trackio, each with its own library and without a network; skipped where one is absent."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger
from PIL import Image

from lightning_modules.loggers.trackers import Table, Tracker, tracker_of
from lightning_modules.loggers.trackio_logger import TrackioLogger
from tests.distributed.runs import write_shards
from tests.lightning_modules.evaluations import evaluate
from tests.programs import environment

TABLE = Table(
    ["scores", "reply"], [["best 1", "<think>a | b</think>\n<answer>B</answer>"], ["worst 1", "né"]], "clip 7"
)
ROWS = [["best 1", "<think>a | b</think>\n<answer>B</answer>"], ["worst 1", "né"], ["clip 7", ""]]
PIXELS = torch.arange(3 * 20 * 30).reshape(3, 20, 30).to(torch.uint8)
WAVEFORM = torch.sin(torch.arange(8000) / 20) * 0.5


def log_everything(tracker: Tracker | None) -> None:
    assert tracker is not None
    tracker.table("samples/completions", TABLE, 10)
    tracker.image("samples/frames", PIXELS, 10)
    tracker.audio("samples/audio", WAVEFORM, 10)


def assert_media(image: bytes, audio: bytes) -> None:
    assert (np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) == PIXELS.permute(1, 2, 0).numpy()).all()
    played, rate = soundfile.read(io.BytesIO(audio), dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(played, WAVEFORM.numpy(), atol=2 / 32767)


def only(folder: Path, pattern: str) -> bytes:
    (path,) = folder.rglob(pattern)
    return path.read_bytes()


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=str(tmp_path), project="avrt", offline=True)
    try:
        logger.log_metrics({"loss": 1.5}, step=3)
        log_everything(tracker_of(logger))
    finally:
        wandb.finish()
    table = json.loads(only(tmp_path, "*.table.json"))
    assert (table["columns"], table["data"]) == (list(TABLE.header), ROWS)
    assert_media(only(tmp_path, "*.png"), only(tmp_path, "*.wav"))
    deadline = time.monotonic() + 60  # a process of its own writes the file, on a busy machine after `finish`
    while b"samples/completions" not in only(tmp_path, "run-*.wandb"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    logger = MLFlowLogger("avrt", save_dir=str(tmp_path / "mlflow"))
    logger.log_metrics({"loss": 1.5}, step=3)
    log_everything(tracker_of(logger))
    client, run = mlflow.MlflowClient(f"file:{tmp_path / 'mlflow'}"), logger.run_id
    assert [(point.step, point.value) for point in client.get_metric_history(run, "loss")] == [(3, 1.5)]
    listed = json.loads(client.get_run(run).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": "samples/completions/step-000010.json", "type": "table"}]

    def artifact(path: str) -> bytes:
        return Path(client.download_artifacts(run, path, str(tmp_path))).read_bytes()

    assert json.loads(artifact(listed[0]["path"])) == {"columns": list(TABLE.header), "data": ROWS}
    assert_media(artifact("samples/frames/step-000010.png"), artifact("samples/audio/step-000010.wav"))


TRACKIO = """
import sys
from pathlib import Path
from lightning_modules.loggers.trackers import tracker_of
from lightning_modules.loggers.trackio_logger import TrackioLogger
from tests.lightning_modules.test_trackers import log_everything

for step in (3, 4):  # the second logger continues the run of the first
    logger = TrackioLogger(sys.argv[1])
    logger.log_hyperparams({"loss": {"beta": 0.5}})
    logger.log_metrics({"loss": step / 2}, step=step)
    if step == 3:
        log_everything(tracker_of(logger))
    logger.finalize("success")
"""


def test_trackio(tmp_path: Path) -> None:
    """In a process of its own: Trackio reads the place of its databases once."""
    pytest.importorskip("trackio")
    run = tmp_path / "grpo"
    place = {name: value for name, value in environment().items() if name != "TRACKIO_DIR"}
    root = str(Path(__file__).resolve().parents[2])
    words = [sys.executable, "-W", "error::UserWarning:trackio", "-c", TRACKIO, str(run)]
    done = subprocess.run(words, env=place | {"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = "import json, trackio; a = trackio.Api(); (r,) = a.runs('avrt'); print(json.dumps([r.name, r.config]))"
    env = place | {"TRACKIO_DIR": str(run / "trackio"), "PYTHONPATH": root}
    found = subprocess.run([sys.executable, "-c", read], env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    name, config = json.loads(found.stdout.splitlines()[-1])
    assert (name, config["loss/beta"]) == ("grpo", 0.5)
    import sqlite3

    with sqlite3.connect(run / "trackio" / "avrt.db") as database:
        logged = {}
        for step, metrics in database.execute("SELECT step, metrics FROM metrics ORDER BY id"):
            for key, value in json.loads(metrics).items():
                logged.setdefault(key, []).append((step, value))
    assert logged["loss"] == [(3, 1.5), (4, 2.0)]
    ((_, table),) = logged["samples/completions"]
    assert [list(row.values()) for row in table["_value"]] == ROWS
    assert_media(only(run, "*.png"), only(run, "*.wav"))


def test_a_logger_of_numbers_alone_has_no_tracker(tmp_path: Path) -> None:
    assert tracker_of(CSVLogger(str(tmp_path))) is None


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"docs/metrics\.md"):
        TrackioLogger(str(tmp_path))


@pytest.mark.parametrize("overlay", ["wandb", "mlflow"])
def test_an_evaluation_with_an_overlay(
    overlay: str, student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the shipped files: its summary, replies and a clip are in the run's own folder."""
    library = pytest.importorskip(overlay)
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    file = Path(__file__).resolve().parents[2] / "cli_configs" / "overlays" / f"{overlay}.yaml"
    questions = write_shards(tmp_path / "questions", samples=4)
    monkeypatch.chdir(tmp_path)
    try:
        assert evaluate(run, student_folder, config=file, benchmarks="mine", shards=questions) == 0
    finally:
        if overlay == "wandb":
            library.finish()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "questions"}
    assert list(run.glob("events.out.tfevents.*")), "TensorBoard stays"
    if overlay == "wandb":
        names = {path.name.partition("_")[0] for path in run.rglob("media/table/evaluation/*")}
        assert names == {"scores", "mine"}
        assert list(run.rglob("media/images/evaluation/mine/*")) or list(run.rglob("media/audio/evaluation/mine/*"))
    else:
        files = {str(path).partition("artifacts/")[2] for path in run.rglob("artifacts/evaluation/**/step-*")}
        assert {"evaluation/scores/step-000000.json", "evaluation/mine/step-000000.json"} <= files
        assert files & {"evaluation/mine/frames/step-000000.png", "evaluation/mine/audio/step-000000.wav"}
        assert list(run.rglob("metrics/test/mine/accuracy"))
