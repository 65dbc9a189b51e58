"""A run as its caller sees it: files, resuming, and exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.cli.runner import Runner, changed


def test_fit_runs_and_resumes_in_the_same_folder(run: Runner, config: dict, tmp_path: Path) -> None:
    status, err = run(config)
    assert status == 0, err
    assert "reward of weight 2.0" in run.out
    saved = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(saved.read_text())["trainer"]["max_steps"] == 1
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))

    # The config decides, not the checkpoint; and an existing folder is accepted.
    status, err = run(config, "--trainer.max_steps=2", f"--ckpt_path={checkpoint}")
    assert status == 0, err
    assert yaml.safe_load(saved.read_text())["trainer"]["max_steps"] == 2

    before = saved.read_bytes()
    status, err = run(config, command="test")
    assert status == 0, err
    assert saved.read_bytes() == before
    assert (tmp_path / "run" / "config_test.yaml").is_file()


def test_the_saved_config_is_a_config(run: Runner, config: dict, tmp_path: Path) -> None:
    assert run(config)[0] == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert run(saved)[0] == 0


def test_a_run_uses_as_many_threads_as_its_config_sets(run: Runner, config: dict) -> None:
    before = torch.get_num_threads()
    try:
        assert run(config, f"--torch_threads={before + 1}")[0] == 0
        assert torch.get_num_threads() == before + 1
        assert run(config)[0] == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("fault", "line"),
    [("value", "val_split: 'dev' is not a split"), ("file", "shards/000.tar: No such file or directory")],
)
def test_a_failure_in_the_run_is_one_line_and_status_1(run: Runner, config: dict, fault: str, line: str) -> None:
    status, err = run(changed(config, "model/init_args/fault", fault))
    assert status == 1
    assert err.splitlines()[-1] == f"avrt: error: {line}"
    assert "Traceback" not in err


def test_a_missing_checkpoint_is_named(run: Runner, config: dict) -> None:
    status, err = run(config, "--ckpt_path=nowhere.ckpt")
    assert status == 1
    assert "nowhere.ckpt" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(("fault", "error"), [("bug", RuntimeError), ("bug in init", TypeError)])
def test_a_bug_keeps_its_traceback(run: Runner, config: dict, fault: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="a fault of the program"):
        run(changed(config, "model/init_args/fault", fault))


def test_a_run_s_own_exit_status_is_passed_on(run: Runner, config: dict) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(changed(config, "model/init_args/fault", "preempted"))
    assert exit_info.value.code == 75


def test_ctrl_c_is_130(run: Runner, config: dict) -> None:
    import signal

    handler = signal.getsignal(signal.SIGINT)
    try:
        status, err = run(changed(config, "model/init_args/fault", "keyboard"))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert status == 130
    assert err.splitlines()[-1] == "avrt: error: interrupted"


def test_the_progress_bar_counts_optimizer_steps(run: Runner, config: dict) -> None:
    shown = changed(config, "trainer/enable_progress_bar", True)
    assert run(shown, "--trainer.max_steps=2")[0] == 0
    assert "step 2/2" in run.out
    assert "length: 24.4\n" in run.out  # the metric's name in the logs would take a line of its own
    assert "completions/" not in run.out
    assert "-2" not in run.out
    assert run(shown, "--trainer.max_steps=-1", "--trainer.max_epochs=1")[0] == 0
    assert "step 4/4" in run.out
    words = ["--trainer.max_steps=2", "--trainer.max_epochs=-1", "--trainer.accumulate_grad_batches=2"]
    assert run(shown, *words)[0] == 0
    assert " 4/4 " in run.out  # micro-batches
    bar = [{"class_path": "lightning.pytorch.callbacks.RichProgressBar"}]
    assert run(changed(shown, "trainer/callbacks", bar))[0] == 0
    assert "Epoch" in run.out
