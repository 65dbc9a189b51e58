"""GRPO of every family under DeepSpeed: stopped, resumed, exported. The other tests here train the first one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avrt.families.registry import FAMILIES
from avrt.model.export import export
from tests.distributed.runs import Assets, Run, make_assets
from tests.programs import ForkServer
from tests.tiny_student import load_plain, load_student, save_student

SAVER = {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1, "keep": 1}}
FURTHER = {family.model_type: family for family in FAMILIES[1:]}
SETTINGS = {"grpo": {}, "lora": {"model.init_args.lora": {"rank": 4, "alpha": 8}}}


@pytest.fixture(scope="module", params=FURTHER)
def assets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Assets:
    folder = tmp_path_factory.mktemp("assets")
    return replace(make_assets(folder), student=save_student(folder / "further", family=FURTHER[request.param]))


@pytest.fixture(scope="module")
def runs(assets: Assets, tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Mapping[str, Run]:
    """Three steps at once, and two steps that are resumed to three, each on two processes."""
    found = {}
    for name, settings in SETTINGS.items():
        folder = tmp_path_factory.mktemp(name)
        run = Run(folder / "whole", assets, "grpo", "deepspeed", 2, 2, overrides=settings)
        run = replace(run, callbacks=[SAVER])
        found[name] = _finished(run, fork_server)
        stopped = replace(run, folder=folder / "stopped")
        _finished(replace(stopped, steps=2), fork_server)
        found[f"{name} resumed"] = _finished(stopped, fork_server, "--ckpt_path", "last")
    return found


def _finished(run: Run, server: ForkServer, *arguments: str) -> Run:
    program = run.begin(server, *arguments)
    output = program.wait()
    assert program.returncode == 0, output[-4000:]
    return run


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_is_as_if_never_stopped(runs: Mapping[str, Run], name: str) -> None:
    whole, resumed = runs[name].weights(), runs[f"{name} resumed"].weights()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(weight, resumed[key]) for key, weight in whole.items())
    assert runs[name].steps_of() == runs[f"{name} resumed"].steps_of()


@pytest.mark.parametrize("name", SETTINGS)
def test_an_export_holds_what_was_trained(runs: Mapping[str, Run], name: str, assets: Assets, tmp_path: Path) -> None:
    """Plain transformers loads it; what has no adapter or is frozen is as it was."""
    run = runs[name]
    export(run.folder, tmp_path / "out")
    found = load_plain(tmp_path / "out", torch.float32).state_dict()
    start = load_plain(assets.student, torch.float32).state_dict()
    trained = {key.removeprefix("student.thinker."): weight for key, weight in run.weights().items()}
    changed = {key for key, weight in start.items() if not torch.equal(found[key], weight)}
    assert changed
    assert not any("visual" in key or "audio_tower" in key for key in changed)
    if name == "lora":
        assert any("experts" in key for key in changed)
        assert not any("mlp.gate." in key for key in changed), "the router has no adapter"
    else:
        assert any("mlp.gate." in key for key in changed), "the router is trained"
        assert all(torch.equal(found[key], weight) for key, weight in trained.items())
    load_student(tmp_path / "out").save(tmp_path / "again")
    for file in ("model.safetensors", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()
