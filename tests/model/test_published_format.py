"""The folder of a saved student does not depend on the student's origin, and plain transformers reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)

from avrt.model.published_format import check_readable, write_published_format
from avrt.model.student import Student
from tests.tiny_student import load_plain, load_student, make_sample, plain_inputs


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def headers(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a folder's weights."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as content:  # type: ignore[no-untyped-call]
            found |= {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    return found


def load_as_stored(folder: Path) -> Student:
    """A student in the data type of its files: bfloat16 as published, float32 in the tiny student."""
    with safe_open(next(folder.glob("*.safetensors")), "pt") as content:  # type: ignore[no-untyped-call]
        stored = {content.get_tensor(name).dtype for name in content.keys() if "thinker" in name or "lm_" in name}  # noqa: SIM118
    return load_student(folder, dtype="bfloat16" if stored == {torch.bfloat16} else "float32")


@pytest.fixture(scope="module")
def saved(any_student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder that the student was loaded from, and the one it was saved to."""
    out = tmp_path_factory.mktemp("saved") / "once"
    load_as_stored(any_student_folder).save(out)
    return any_student_folder, out


def test_an_export_of_an_export_is_the_same_folder(saved: tuple[Path, Path], tmp_path: Path) -> None:
    _, once = saved
    before = {file.name: file.read_bytes() for file in once.iterdir()}
    for again in ("twice", "thrice"):
        load_as_stored(once).save(tmp_path / again)
        once = tmp_path / again
        assert {file.name: file.read_bytes() for file in once.iterdir()} == before


def test_names_are_the_published_ones(
    saved: tuple[Path, Path], published_folder: Path, published_experts_folder: Path
) -> None:
    source, folder = saved
    parts = {tuple(name.split(".")[:2]) for name in headers(published_folder) if name.startswith("thinker.")}
    assert {tuple(name.split(".")[:2]) for name in headers(folder)} == parts
    if source in (published_folder, published_experts_folder):
        published = {name: shape for name, shape in headers(source).items() if name.startswith("thinker.")}
        assert headers(folder) == published


def test_weights_are_the_students(saved: tuple[Path, Path]) -> None:
    source, folder = saved
    thinker = load_as_stored(source).thinker
    expected = thinker.state_dict()
    for loaded in (load_as_stored(folder).thinker, load_plain(folder, thinker.dtype)):
        weights = loaded.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_plain_transformers_runs_it(saved: tuple[Path, Path]) -> None:
    """By the automatic classes, on a prompt with both streams, against the folder that the student came from."""
    source, folder = saved
    student = load_student(source)
    inputs = plain_inputs(student, student.encoder.encode(make_sample()))
    model, info = student.family.thinker_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(model(**inputs).logits, load_plain(source, torch.float32, experts=None)(**inputs).logits)
    assert model.dtype == torch.float32
    text, expected = AutoConfig.from_pretrained(folder).thinker_config.text_config, student.thinker.config.text_config
    assert text.rope_parameters == {"type": "default", **expected.rope_parameters}
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.chat_template == student.processor.chat_template
    tokenizer, original = AutoTokenizer.from_pretrained(folder), student.processor.tokenizer
    assert tokenizer.get_vocab() == original.get_vocab()
    assert set(tokenizer.all_special_tokens) == set(original.all_special_tokens)
    assert (tokenizer.image_token, tokenizer.pad_token) == (student.family.media_tokens.image, "<|endoftext|>")
    prompt = student.encoder.encode(make_sample("audio_video", 2))
    again = load_student(folder).encoder.encode(make_sample("audio_video", 2))
    assert torch.equal(again.input_ids, prompt.input_ids)
    assert torch.equal(again.frames, prompt.frames)
    assert torch.equal(again.input_features, prompt.input_features)


def test_settings_hold_nothing_about_this_machine(saved: tuple[Path, Path]) -> None:
    source, folder = saved
    for file in folder.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert str(source) not in text, file.name
        assert str(folder) not in text, file.name
        for key in ("_name_or_path", "name_or_path", "local_files_only", "is_local", "_attn_implementation", "avrt"):
            assert f'"{key}' not in text, (file.name, key)


def test_end_tokens_and_padding_alone(saved: tuple[Path, Path]) -> None:
    """Without the published top_k, top_p and repetition_penalty, which servers would use as defaults."""
    source, folder = saved
    tokenizer = load_student(source).processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    settings = read_json(folder / "generation_config.json")
    del settings["transformers_version"]
    assert settings == {"eos_token_id": ids, "pad_token_id": ids[1]}
    if len(tokenizer) > 151_664:
        assert ids == [151645, 151643]
    assert GenerationConfig.from_pretrained(folder).top_k is None


def test_tokenizer_settings_are_those_that_transformers_4_reads(saved: tuple[Path, Path]) -> None:
    settings = read_json(saved[1] / "tokenizer_config.json")
    assert settings["extra_special_tokens"] == load_student(saved[0]).family.media_tokens.named
    assert settings["tokenizer_class"] == "Qwen2Tokenizer"
    assert isinstance(settings["additional_special_tokens"], list)


def test_rotary_settings_are_those_that_transformers_4_reads(saved: tuple[Path, Path]) -> None:
    source, folder = saved
    text = read_json(folder / "config.json")["thinker_config"]["text_config"]
    head_size = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
    assert sum(text["rope_scaling"]["mrope_section"]) == head_size // 2
    assert text["rope_theta"] == load_student(source).thinker.config.text_config.rope_parameters["rope_theta"]


@pytest.mark.parametrize("stated", [True, False, None])
def test_the_tie_of_head_and_embedding_is_that_of_the_weights(
    student_folder: Path, tmp_path: Path, stated: bool | None
) -> None:
    """transformers reads the flag at the thinker, vLLM at the text model, where an absent one means tied."""
    source = shutil.copytree(student_folder, tmp_path / "source")
    config = read_json(source / "config.json")
    config["text_config"].pop("tie_word_embeddings", None)
    if stated is not None:
        config["text_config"]["tie_word_embeddings"] = stated
    (source / "config.json").write_text(json.dumps(config))
    load_student(source).save(tmp_path / "out")
    thinker = read_json(tmp_path / "out" / "config.json")["thinker_config"]
    assert thinker["tie_word_embeddings"] is False
    assert thinker["text_config"]["tie_word_embeddings"] is False
    assert "thinker.lm_head.weight" in headers(tmp_path / "out")


def test_a_tied_student(student_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(student_folder, tmp_path / "source")
    config = read_json(source / "config.json")
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (source / "config.json").write_text(json.dumps(config))
    weights = load_file(source / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    student = load_student(source)
    student.save(tmp_path / "out")
    thinker = read_json(tmp_path / "out" / "config.json")["thinker_config"]
    assert thinker["tie_word_embeddings"] is thinker["text_config"]["tie_word_embeddings"] is True
    assert "thinker.lm_head.weight" not in headers(tmp_path / "out")
    again = load_student(tmp_path / "out").thinker
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(again.lm_head.weight, student.thinker.lm_head.weight)


def test_large_students_are_split(student_folder: Path, tmp_path: Path) -> None:
    student = load_student(student_folder)
    write_published_format(student.thinker, student.processor, tmp_path, shard_bytes=100_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["weight_map"].keys() == headers(tmp_path).keys()
    assert index["metadata"]["total_size"] == sum(w.nbytes for w in student.thinker.state_dict().values())
    again = load_student(tmp_path).thinker.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in student.thinker.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(student_folder: Path, tmp_path: Path, value: float) -> None:
    student = load_student(student_folder)
    with torch.no_grad():
        student.thinker.lm_head.weight[3, 3] = value
    with pytest.raises(ValueError, match=r"lm_head\.weight is NaN or infinite"):
        student.save(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def change_name(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[f"thinker.{name}"] = weights.pop(name)


def drop_one(weights: dict[str, torch.Tensor]) -> None:
    del weights["thinker.lm_head.weight"]


def cut_one(weights: dict[str, torch.Tensor]) -> None:
    weights["thinker.lm_head.weight"] = weights["thinker.lm_head.weight"][:5].clone()


def add_one(weights: dict[str, torch.Tensor]) -> None:
    weights["thinker.model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 2)


@pytest.mark.parametrize("damage", [change_name, drop_one, cut_one, add_one])
def test_a_folder_that_transformers_cannot_read_is_noticed(student_folder: Path, tmp_path: Path, damage: Any) -> None:
    load_student(student_folder).save(tmp_path)
    check_readable(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    damage(weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="transformers cannot read the written student"):
        check_readable(tmp_path)


def test_a_written_folder_is_checked(student_folder: Path, tmp_path: Path) -> None:
    """A weight that is missing in the settings would be lost silently."""
    student: Student = load_student(student_folder)
    student.thinker.model.language_model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"unexpected_keys.*extra"):
        student.save(tmp_path)
