"""Exported students against the weights in memory when the run ended, loaded by plain transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avrt.cli import main
from avrt.model.checkpoints import resolve
from avrt.model.export import export, read_trained
from avrt.model.token_logprobs import token_logprobs
from avrt.planning.shapes import load_config
from tests.distributed.runs import Assets, Run
from tests.tiny_student import load_plain, load_student, make_sample, plain_logits, random_responses, save_student

EXPORTED = {
    "plain": "sft plain saved",
    "zero2": "grpo whole",
    "lora": "sft lora",
    "bfloat16 lora": "grpo lora",
    "bfloat16": "grpo bfloat16",
    "zero3": "sft zero3",
}


@pytest.fixture(scope="module")
def runs(one_process: Mapping[str, Run], two_processes: Mapping[str, Run]) -> Mapping[str, Run]:
    return {name: (two_processes if name == "zero3" else one_process)[run] for name, run in EXPORTED.items()}


@pytest.fixture(scope="module")
def exported(runs: Mapping[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    out = tmp_path_factory.mktemp("exports")
    for name, run in runs.items():
        export(run.folder, out / name)
    return {name: out / name for name in runs}


def expected_weights(run: Run, assets: Assets) -> dict[str, torch.Tensor]:
    """The starting student's weights with the trained ones over them, adapters multiplied out by hand."""
    weights = load_plain(assets.student, torch.float32).state_dict()
    trained = {name.removeprefix("student.thinker."): value for name, value in run.weights().items()}
    for name, value in trained.items():
        if "lora_A" in name:
            b = trained[name.replace("lora_A", "lora_B")]
            target = name.replace(".lora_A.default.weight", ".weight")
            weights[target] = weights[target] + 8 / 4 * (b @ value)
        elif "lora_B" not in name:
            weights[name] = value
    return weights


@pytest.mark.parametrize("name", ["plain", "zero2", "lora", "bfloat16"])
def test_weights_are_those_that_were_trained(
    name: str, runs: Mapping[str, Run], exported: Mapping[str, Path], assets: Assets
) -> None:
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    expected = expected_weights(runs[name], assets)
    found = load_plain(exported[name], dtype).state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value.to(dtype), rtol=0, atol=1e-7 if name == "lora" else 0, msg=key)
    start = load_plain(assets.student, dtype).state_dict()
    changed = {key for key in found if not torch.equal(found[key], start[key])}
    assert any("layers.1" in key for key in changed)
    assert not any("visual" in key or "audio_tower" in key for key in changed)


def test_zero3_gathers_what_was_split(
    exported: Mapping[str, Path], assets: Assets, one_process: Mapping[str, Run]
) -> None:
    """Against the same steps on one device."""
    expected = expected_weights(one_process["sft plain 4x1"], assets)
    found = load_plain(exported["zero3"], torch.float32).state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("task", ["sft", "grpo"])
def test_a_run_in_two_processes_leaves_its_student(task: str, two_processes: Mapping[str, Run], assets: Assets) -> None:
    """By the callback, which works on one process while the other may have gone already."""
    run = two_processes[f"{task} deepspeed"]
    expected = expected_weights(run, assets)
    found = load_plain(run.folder / "student", torch.float32).state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", ["plain", "zero2", "lora", "zero3"])
def test_reload_gives_equal_logits(name: str, exported: Mapping[str, Path]) -> None:
    """Through the project's student and through transformers' own forward, on a clip with both streams."""
    student = load_student(exported[name])
    plain = load_plain(exported[name], torch.float32)
    (prompt,) = [student.encoder.encode(make_sample("audio_video", 5))]
    (response,) = random_responses([7], 300)
    expected = plain_logits(plain, student, prompt, response).log_softmax(-1)
    scores = token_logprobs(student.language_model, student.embed([prompt]), [[response]])
    torch.testing.assert_close(scores.logprobs[0], expected.gather(1, response[:, None])[:, 0], rtol=0, atol=2e-6)


def test_the_folder_is_in_the_published_format(exported: Mapping[str, Path]) -> None:
    folder = exported["plain"]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni"
    assert config["thinker_config"]["model_type"] == "qwen2_5_omni_thinker"
    with safe_open(folder / "model.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        names = set(file.keys())
    parts = {name.split(".")[1] for name in names}
    assert {name.split(".")[0] for name in names} == {"thinker"}
    assert parts == {"model", "lm_head", "visual", "audio_tower"}
    assert "thinker.model.layers.0.self_attn.q_proj.weight" in names
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    present = {p.name for p in folder.iterdir()}
    assert wanted <= present
    assert {"preprocessor_config.json", "processor_config.json"} & present
    assert {"chat_template.jinja", "chat_template.json"} & present
    assert load_config(str(folder))[0].text_config.hidden_size == 64  # type: ignore[union-attr]


def test_the_processor_comes_along(exported: Mapping[str, Path], assets: Assets) -> None:
    sample = make_sample("audio_video", 3)
    one, other = (load_student(f).encoder.encode(sample) for f in (assets.student, exported["zero2"]))
    assert torch.equal(one.input_ids, other.input_ids)
    assert one.frames is not None
    assert other.frames is not None
    assert torch.equal(one.frames, other.frames)


def test_the_model_card_tells_where_it_comes_from(exported: Mapping[str, Path], runs: Mapping[str, Run]) -> None:
    card = (exported["zero2"] / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert front["tags"] == ["audio-visual", "reasoning", "grpo"]
    assert "6 optimizer steps" in card
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert settings == yaml.safe_load((runs["zero2"].folder / "config.yaml").read_text())
    assert "| loss |" in card
    assert "| reward |" in card


def test_refusals(runs: Mapping[str, Run], exported: Mapping[str, Path], tmp_path: Path, capsys: Any) -> None:
    run = runs["plain"].folder
    with pytest.raises(ValueError, match="is not empty"):
        export(run, exported["plain"])
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        export(tmp_path, tmp_path / "out")
    other = save_student(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    changed = {key: value + 1 if "visual" in key else value for key, value in weights.items()}
    save_file(changed, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="other frozen weights"):
        export(run, tmp_path / "out", student_path=str(other))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacks", ["avrt", "global_step", "state_dict", "frozen"])
def test_a_checkpoint_of_something_else(lacks: str, tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": {}, "global_step": 1, "avrt": {"frozen": "", "metrics": {}}}
    del (content["avrt"] if lacks == "frozen" else content)[lacks]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="was not written by this project's training modules"):
        read_trained(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora": True}, "has True.*LoRAConfig"),
        ({"student": {"path": 3}}, r"has no model\.student\.path"),
        ({"student": {"path": "x", "template": {"sistem": "a"}}}, "unknown setting 'sistem' for PromptTemplate"),
    ],
)
def test_settings_that_do_not_fit(
    changed: dict[str, Any], message: str, runs: Mapping[str, Run], tmp_path: Path
) -> None:
    checkpoint = resolve(runs["plain"].folder)
    settings = {"model": {"init_args": {"student": {"path": "x"}, **changed}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=message):
        export(checkpoint, tmp_path / "out", config=tmp_path / "config.yaml")


def test_a_link_to_an_empty_folder(runs: Mapping[str, Run], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(runs["plain"].folder, tmp_path / "link")
    assert (tmp_path / "real" / "config.json").is_file()


def test_the_command(runs: Mapping[str, Run], tmp_path: Path) -> None:
    assert main(["export", str(runs["plain"].folder), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "config.json").is_file()
    assert main(["export", str(tmp_path / "nothing"), "--out", str(tmp_path / "more")]) == 1
