"""`cli_configs/overlays/judge.yaml` on a GRPO run from the command line, with its addresses and model replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from avrt.cli import main
from avrt.config.preset_files import preset_folder
from avrt.demo.servers import JUDGE_MODEL, server_url
from avrt.demo.trace_run import demo_server
from avrt.model.checkpoints import load_without_code
from avrt.servers.local_server import free_port
from tests.lightning_modules.callbacks.tiny_runs import events, scalars
from tests.lightning_modules.training import write_shards

KEY = "sk-secret-0123456789"


def judged(folder: Path, url: str) -> Path:
    """The overlay, with a judge that also sees the clip and grades what the random student writes."""
    overlay = yaml.safe_load((preset_folder() / "overlays" / "judge.yaml").read_text(encoding="utf-8"))
    (callback,) = overlay["trainer"]["callbacks+"]
    server = callback["init_args"]["server"]
    assert server["base_urls"]
    assert server["model"]
    server |= {"base_urls": [url], "model": JUDGE_MODEL, "api_key_env": "JUDGE_KEY"}
    rubric = folder / "answers.yaml"
    rubric.write_text("prompt: |\n  {options}\n  {thinking}\nscale: [0, 4]\nneeds_thinking: false\nmedia: both\n")
    callback["init_args"] |= {"cache": str(folder / "cache"), "rubric": str(rubric)}
    path = folder / "judge.yaml"
    path.write_text(yaml.safe_dump(overlay, sort_keys=False))
    return path


def test_a_run_with_the_overlay(student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    out, shards = tmp_path / "run", write_shards(tmp_path / "shards", 4, kinds=("audio_video",))
    port = free_port()
    with demo_server(port):
        words = [
            *("fit", "--config", str(preset_folder() / "grpo_tiny.yaml")),
            *("--config", str(judged(tmp_path, server_url(port)))),
            *("--model.student.path", str(student_folder), "--data.train", str(shards), "--data.val", "null"),
            *("--data.batch_size", "2", "--data.num_workers", "0", "--trainer.max_steps", "2"),
            *("--trainer.limit_val_batches", "0", "--model.num_generations", "2"),
            *("--model.sampling.max_completion_length", "4", "--output_dir", str(out)),
        ]
        assert main(words) == 0
    assert [value for _, value in scalars(events(out), "rewards/answers/failed")] == [0.0, 0.0]
    assert [value for _, value in scalars(events(out), "rewards/answers/called")] == [0.5, 0.5]  # one for each prompt
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 4
    for file in [*out.rglob("*"), *(tmp_path / "cache").rglob("*")]:
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    (checkpoint,) = (out / "checkpoints").glob("*.ckpt")
    assert load_without_code(checkpoint)
