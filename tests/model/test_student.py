"""The student: published shapes, frozen encoders, saving and loading, media embedded once, positions in time."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.families.registry import family_of_path
from avrt.model.encoding import Prompt
from avrt.model.student import Student, StudentConfig, freeze_encoders
from avrt.model.tiny import tiny_processor
from avrt.model.token_logprobs import token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig
from tests.published_shapes import OMNI_3B, OMNI_7B, Published, count_parameters
from tests.tiny_student import (
    CORPUS,
    KINDS,
    load_plain,
    load_student,
    make_sample,
    mixed_samples,
    plain_inputs,
    plain_logits,
    random_responses,
)


@pytest.fixture(scope="module")
def student(layout_folder: Path) -> Student:
    return load_student(layout_folder)


def test_an_old_transformers_is_named() -> None:
    """Before 5.21 the text model is `thinker.model` itself, and the encoders are beside it."""
    thinker = SimpleNamespace(model=SimpleNamespace(layers=[]), visual=None, audio_tower=None)
    with pytest.raises(ValueError, match=rf"transformers {re.escape(transformers.__version__)} is too old.* 5\.21"):
        Student(thinker, None, StudentConfig())


@pytest.mark.parametrize(("published", "billions"), [(OMNI_3B, 4.7), (OMNI_7B, 8.9)], ids=["3B", "7B"])
def test_published_shapes(published: Published, billions: float) -> None:
    """Built on the meta device; trainable and frozen parameters are as counted by hand from the shapes."""
    thinker = published.meta_thinker()
    tokenizer = build_tiny_tokenizer(CORPUS)
    student = Student(thinker, tiny_processor(tokenizer), StudentConfig(gradient_checkpointing=True))
    assert all(p.is_meta for p in student.parameters())
    encoders = published.vision_parameters() + published.audio_parameters()
    assert count_parameters(student) == (published.language_parameters(), encoders)
    assert count_parameters(thinker.model.visual) == (0, published.vision_parameters())
    assert sum(count_parameters(student)) / 1e9 == pytest.approx(billions, abs=0.1)
    names = {name for name, _ in thinker.named_children()} | {name for name, _ in thinker.model.named_children()}
    assert names == {"model", "lm_head", "language_model", "visual", "audio_tower"}, "the thinker alone"


def test_only_the_language_model_is_trainable(student: Student) -> None:
    for name, parameter in student.thinker.named_parameters():
        encoder = name.startswith(("model.visual.", "model.audio_tower."))
        assert parameter.requires_grad is not encoder, name


def test_the_projections_are_frozen_with_their_encoders(student: Student) -> None:
    model = student.thinker.model
    names = {name: p for part in (model.visual, model.audio_tower) for name, p in part.named_parameters()}
    assert not any(p.requires_grad for p in names.values())
    assert any(name.startswith("merger.") for name in names)
    assert any(name.startswith("proj") for name in names), "of the audio encoder"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_folder_in_plain_transformers(student: Student, tmp_path: Path, kind: str) -> None:
    """Weights are changed, saved, and loaded by transformers alone, processor included: equal logits up to the rounding
    of attention in batches of windows."""
    changed = load_student(Path(student.config.path))
    with torch.no_grad():
        for parameter in changed.language_model.text_model.parameters():
            parameter.add_(0.01)
    changed.save(tmp_path)
    plain = load_plain(tmp_path, torch.float32)
    processor = changed.family.processor_class.from_pretrained(tmp_path)
    assert type(processor.tokenizer) is type(changed.processor.tokenizer)
    assert processor.chat_template == changed.processor.chat_template
    prompt = changed.encoder.encode(make_sample(kind))
    inputs = plain_inputs(changed, prompt)
    theirs = plain(**inputs, use_cache=False).logits
    torch.testing.assert_close(theirs, changed.thinker(**inputs, use_cache=False).logits, rtol=0, atol=1e-5)
    other = load_plain(Path(student.config.path), torch.float32)
    assert not torch.allclose(theirs, other(**inputs, use_cache=False).logits, rtol=0, atol=1e-3)
    again = Student.load(StudentConfig(path=str(tmp_path), dtype="float32"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), changed.parameters(), strict=True))


def test_saved_folder_names_no_local_attention(student: Student, tmp_path: Path) -> None:
    """Other programs do not know the name of our attention function."""
    student.save(tmp_path)
    for file in tmp_path.glob("*.json"):
        assert "avrt" not in file.read_text(), file.name


def test_a_folder_that_lacks_weights_is_refused(student_folder: Path, tmp_path: Path) -> None:
    """transformers would fill the gap with random numbers and only warn."""
    for file in student_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"student\.path.*up_proj"):
        Student.load(StudentConfig(path=str(tmp_path), dtype="float32"))


@pytest.mark.parametrize("path", ["no/such/folder", "./missing", "/missing", "missing", "~/missing", "a/b/c"])
def test_a_path_that_does_not_exist(path: str) -> None:
    with pytest.raises(ValueError, match=r"student\.path.*Qwen/Qwen2\.5-Omni"):
        Student.load(StudentConfig(path=path))


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"student\.path: cannot load 'nobody/nothing-at-all'"):
        Student.load(StudentConfig(path="nobody/nothing-at-all"))


def test_a_folder_that_holds_no_student(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"student\.path"):
        Student.load(StudentConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "half"}, r"dtype.*bfloat16.*'half'"),
        ({"encoder_batch_tokens": 0}, r"encoder_batch_tokens.*positive"),
        ({"attention_kernel": "flash"}, r"attention_kernel.*sdpa or flex.*'flash'"),
    ],
    ids=str,
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentConfig(**settings)


# ---- media ----------------------------------------------------------------------------------------------------------


def test_encoders_run_once_per_prompt(student: Student) -> None:
    calls = {"visual": 0, "audio_tower": 0}
    model = student.thinker.model

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    handles = [getattr(model, name).register_forward_pre_hook(count(name)) for name in calls]
    prompts = [student.encoder.encode(sample) for sample in mixed_samples()]
    before = student.encoder_runs
    embedded = student.embed(prompts)
    engine = TransformersRollout(
        student.language_model, SamplingConfig(max_completion_length=3), student.eos_token_ids, student.banned_tokens
    )
    groups = engine.generate(embedded, 4, [0] * 4)
    responses = [[response.token_ids for response in group] for group in groups]
    token_logprobs(student.language_model, embedded, responses)
    token_logprobs(student.copy_language_model(), embedded, responses)
    for handle in handles:
        handle.remove()
    assert student.encoder_runs - before == len(prompts)
    kinds = {student.family.audio_batch(p.input_features.shape[1]) for p in prompts if p.input_features is not None}
    assert calls == {"visual": 1, "audio_tower": len(kinds)}, "all prompts that may share a call together"


def many_prompts(student: Student) -> list[Prompt]:
    """Every combination of streams twice, images and audio of different sizes, and one prompt of text alone."""
    sizes = [(60, 80), (80, 60), (28, 140), (56, 56), (112, 28), (60, 80), (80, 60), (28, 140)]
    seconds, frames = (0.4, 1.0, 0.5, 1.015, 0.04, 1.0, 4.3, 0.9), (8, 2, 4, 8, 5, 6, 8, 1)
    samples = [
        make_sample(KINDS[i % 4], i, height=sizes[i][0], width=sizes[i][1], audio_seconds=seconds[i], frames=frames[i])
        for i in range(8)
    ]
    prompts = [student.encoder.encode(sample) for sample in samples]
    prompts.insert(3, Prompt(samples[0], torch.arange(7)))
    return prompts


@pytest.mark.parametrize("limit", [1, 28, 4096])
def test_prompts_go_through_the_encoders_together(layout_folder: Path, limit: int) -> None:
    """Each prompt gets the same features as alone, and the bound on tokens per call holds."""
    student = load_student(layout_folder, dtype="float64", encoder_batch_tokens=limit)
    prompts = many_prompts(student)
    alone = [student.embed([prompt])[0] for prompt in prompts]
    student.encoder_runs = 0
    seen: dict[str, list[int]] = {"visual": [], "audio_tower": []}
    model = student.thinker.model
    model.visual.register_forward_hook(lambda _, __, out: seen["visual"].append(len(out.pooler_output)))
    model.audio_tower.register_forward_hook(lambda _, __, out: seen["audio_tower"].append(len(out.last_hidden_state)))
    together = student.embed(prompts)
    assert student.encoder_runs == len(prompts) - 1, "the prompt of text has no media"
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.position_ids, other.position_ids)
        assert torch.equal(one.media_positions, other.media_positions)
        torch.testing.assert_close(one.media_features, other.media_features, rtol=0, atol=1e-10)
        torch.testing.assert_close(one.visual_layers, other.visual_layers, rtol=0, atol=1e-10)
    heard = [prompt.input_features.shape[1] for prompt in prompts if prompt.input_features is not None]
    fewest = {"visual": 1, "audio_tower": len({student.family.audio_batch(frames) for frames in heard})}
    token = student.thinker.config
    for name, ids in (
        ("visual", [token.image_token_id, token.video_token_id]),
        ("audio_tower", [token.audio_token_id]),
    ):
        counts = [int(torch.isin(prompt.input_ids, torch.tensor(ids)).sum()) for prompt in prompts]
        counts = [count for count in counts if count]
        assert sum(seen[name]) == sum(counts)
        assert max(seen[name]) <= max(limit, *counts)
        if limit == 1:
            assert sorted(seen[name]) == sorted(counts)
        elif limit == 4096:
            assert len(seen[name]) == fewest[name]
        else:
            assert fewest[name] < len(seen[name]) <= len(counts) - (fewest[name] == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_full_models(student: Student, kind: str) -> None:
    """Features and positions are those of the text model in transformers' own forward pass."""
    prompt = student.encoder.encode(make_sample(kind, 2))
    embedded = student.embed([prompt])[0]
    plain = load_plain(Path(student.config.path), torch.float32)
    seen: dict[str, Any] = {}

    def keep(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        seen.update(arguments)

    plain.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    inputs = plain_inputs(student, prompt)
    plain(**inputs)
    assert torch.equal(inputs["input_ids"][0], embedded.input_ids)
    assert torch.equal(seen["position_ids"][-3:, 0].to(embedded.position_ids.dtype), embedded.position_ids)
    layers = seen.get("deepstack_visual_embeds")
    if layers is None:
        assert embedded.visual_layers is None
    else:
        assert embedded.visual_layers is not None
        torch.testing.assert_close(embedded.visual_layers, torch.stack(list(layers)), rtol=0, atol=1e-5)
        assert torch.equal(seen["visual_pos_masks"][0].nonzero().squeeze(1), embedded.visual_positions)
    media = seen["inputs_embeds"][0, embedded.media_positions]
    torch.testing.assert_close(embedded.media_features, media, rtol=0, atol=1e-5)
    config = plain.config
    placeholders = torch.isin(
        embedded.input_ids, torch.tensor([config.image_token_id, config.video_token_id, config.audio_token_id])
    )
    assert torch.equal(embedded.media_positions.sort().values, placeholders.nonzero().squeeze(1))
    assert not embedded.media_features.requires_grad


def test_a_lost_placeholder_is_an_error_that_names_the_sample(student: Student) -> None:
    prompt = student.encoder.encode(make_sample("video"))
    video = student.thinker.config.video_token_id
    first = int((prompt.input_ids == video).nonzero()[0])
    cut = replace(prompt, input_ids=torch.cat([prompt.input_ids[:first], prompt.input_ids[first + 1 :]]))
    with pytest.raises((ValueError, RuntimeError), match="video-0"):
        student.embed([cut])


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_reference_is_a_frozen_copy(layout_folder: Path) -> None:
    student = load_student(layout_folder)
    reference = student.copy_language_model()
    embedded = student.embed([student.encoder.encode(make_sample())])
    responses = [random_responses([5], 300)]
    before = token_logprobs(student.language_model, embedded, responses).logprobs.detach()
    assert torch.equal(token_logprobs(reference, embedded, responses).logprobs, before)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    assert torch.equal(token_logprobs(reference, embedded, responses).logprobs, before)
    assert not torch.equal(token_logprobs(student.language_model, embedded, responses).logprobs, before)
    for module in (reference.text_model, reference.head):
        assert not any(p.requires_grad for p in module.parameters())


def test_gradient_checkpointing_is_on_in_a_loaded_student(layout_folder: Path) -> None:
    """A loaded model is in evaluation mode, in which transformers ignores checkpointing, and Lightning leaves it so."""
    student = load_student(layout_folder, gradient_checkpointing=True)
    assert student.language_model.text_model.training
    assert not student.thinker.model.visual.training
    assert not student.thinker.model.audio_tower.training
    calls = []
    student.language_model.text_model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    embedded = student.embed([student.encoder.encode(make_sample())])
    token_logprobs(student.language_model, embedded, [random_responses([5], 300)]).logprobs.sum().backward()
    assert len(calls) == 2


def test_decode_leaves_special_tokens_out(student: Student) -> None:
    text = "<think>I see red.</think>\n<answer>B</answer>"
    ids = student.processor.tokenizer(text + "<|im_end|>")["input_ids"]
    assert ids[-1] == student.eos_token_ids[0]
    assert student.decode(ids) == text
    assert student.decode(torch.tensor(ids)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_end_to_end(layout_folder: Path, kind: str) -> None:
    """Embedding, rollout, log-probs and backward in bfloat16, near the float32 numbers of the same weights."""
    half = load_student(layout_folder, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    embedded = half.embed([half.encoder.encode(make_sample(kind))])
    engine = TransformersRollout(
        half.language_model, SamplingConfig(max_completion_length=6), half.eos_token_ids, half.banned_tokens
    )
    groups = engine.generate(embedded, 3, [5])
    responses = [[response.token_ids for response in group] for group in groups]
    scores = token_logprobs(half.language_model, embedded, responses, banned=half.banned_tokens)
    scores.logprobs.sum().backward()
    assert scores.logprobs.dtype == torch.float32
    grad = half.thinker.lm_head.weight.grad
    assert grad is not None
    assert grad.isfinite().all()
    assert all(p.grad is None for p in half.thinker.model.visual.parameters())
    whole = load_student(layout_folder, dtype="float32")
    with torch.no_grad():
        for target, source in zip(whole.parameters(), half.parameters(), strict=True):
            target.copy_(source)
    exact = token_logprobs(
        whole.language_model,
        whole.embed([whole.encoder.encode(make_sample(kind))]),
        responses,
        banned=half.banned_tokens,
    )
    torch.testing.assert_close(scores.logprobs, exact.logprobs, rtol=0, atol=0.05)
    for i, response in enumerate(groups[0]):
        torch.testing.assert_close(response.logprobs, scores.logprobs[i][scores.mask[i]].detach(), rtol=0, atol=0.05)


def test_freeze_encoders_alone(layout_folder: Path) -> None:
    thinker = family_of_path(str(layout_folder)).thinker_class.from_pretrained(layout_folder)
    thinker.requires_grad_(True)
    freeze_encoders(thinker)
    trainable = {name.split(".")[1] for name, p in thinker.model.named_parameters(prefix="model") if p.requires_grad}
    assert trainable == {"language_model"}


def test_the_same_object_still_runs_plain_generate(student: Student) -> None:
    """Without a layout, the registered attention is plain attention: transformers' own calls work on the student."""
    prompt = student.encoder.encode(make_sample())
    inputs = plain_inputs(student, prompt)
    plain = load_plain(Path(student.config.path), torch.float32)
    settings = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(student.thinker.generate(**inputs, **settings), plain.generate(**inputs, **settings))
    response = random_responses([4], 300)[0]
    torch.testing.assert_close(
        plain_logits(student.thinker, student, prompt, response),
        plain_logits(plain, student, prompt, response),
        rtol=0,
        atol=1e-5,
    )
