"""A plan's figures against torch's allocator in real steps, and against the published shapes."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from avrt.cli import main
from avrt.config.class_paths import ALLOWED_PREFIXES, enforce
from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss
from avrt.model.lora import LoRAConfig, add_lora
from avrt.model.student import Student
from avrt.model.token_logprobs import token_logprobs
from avrt.planning.dry_run import StepTrace, count_flops, trace_memory
from avrt.planning.hardware import Hardware
from avrt.planning.memory import device_memory, host_memory, kv_cache_bytes
from avrt.planning.plan import USABLE, make_plan, print_plan
from avrt.planning.settings import RunSettings, read_settings
from avrt.planning.shapes import count_parameters, load_config
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig
from tests.published_shapes import OMNI_3B, OMNI_7B, Published
from tests.published_shapes import count_parameters as count_in_memory
from tests.tiny_student import SIZES, load_student, make_sample, random_responses, save_student

CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"

SETTINGS = RunSettings(
    task="grpo",
    student="",
    devices=1,
    nodes=1,
    weight_bytes=4,
    stage=0,
    offload=False,
    batch_size=2,
    accumulate=2,
    gradient_checkpointing=False,
    chunk_rows=64,
    prompt_tokens=0,
    completion_tokens=128,
    mean_completion_tokens=128,
    num_generations=4,
    reference="device",
    kv_cache_tokens=10**6,
)


@pytest.fixture(scope="module", params=list(SIZES))
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_student(tmp_path_factory.mktemp(request.param), SIZES[request.param])


def allocated(work: Callable[[], Any]) -> int:
    """Most bytes that torch's CPU allocator had given out at one time during `work`, beyond those before it."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    live = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def prompts_of(student: Student, count: int) -> list[Any]:
    """Prompts of one length: the plan's batch holds the longest ones."""
    sample = make_sample("audio_video", 0)
    return student.embed([student.encoder.encode(sample)] * count)


def gradient_step(student: Student, prompts: Sequence[Any], settings: RunSettings) -> None:
    tokens = settings.completion_tokens
    flat = random_responses([tokens] * len(prompts) * settings.num_generations, 300)
    n = settings.num_generations
    groups = [flat[i : i + n] for i in range(0, len(flat), n)]
    scores = token_logprobs(student.language_model, prompts, groups, chunk_rows=settings.chunk_rows)
    if settings.task == "sft":
        (-(scores.logprobs * scores.mask).sum()).backward()
        return
    total = tokens * len(flat)
    grpo_loss(
        scores.logprobs,
        scores.mask,
        torch.randn(len(flat)),
        LossConfig(),
        Normalizer(len(flat), total, float(total), tokens),
        ref_logprobs=scores.logprobs.detach(),
        entropies=scores.entropies,
    ).loss.backward()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("task", ["sft", "grpo"])
def test_activations_agree_with_the_allocator(folder: Path, task: str, checkpointing: bool) -> None:
    student = load_student(folder, gradient_checkpointing=checkpointing)
    prompts = prompts_of(student, SETTINGS.batch_size)
    settings = replace(
        SETTINGS,
        task=task,
        num_generations=1 if task == "sft" else 4,
        gradient_checkpointing=checkpointing,
        prompt_tokens=len(prompts[0]),
    )
    gradient_step(student, prompts, settings)  # the first micro-batch makes the gradients
    measured = allocated(lambda: gradient_step(student, prompts, settings))
    planned = trace_memory(load_config(str(folder))[0], settings).activation_bytes
    assert planned == pytest.approx(measured, rel=0.1)


def test_weights_gradients_and_optimizer_agree_with_the_tensors(folder: Path) -> None:
    student = load_student(folder)
    prompts = prompts_of(student, 1)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    gradient_step(student, prompts, SETTINGS)
    optimizer.step()
    moments = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    reference = student.copy_language_model()
    config, _ = load_config(str(folder))
    settings = replace(SETTINGS, prompt_tokens=len(prompts[0]))
    plan = device_memory(config, settings, count_parameters(config), trace_memory(config, settings))

    def size(tensors: Any) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    assert plan.weights == size(student.parameters())
    assert plan.gradients == size(p.grad for p in trained)
    assert plan.optimizer == size(moments)
    assert plan.reference == size([*reference.text_model.parameters(), reference.head.weight])


def test_the_cache_agrees_with_a_real_rollout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avrt.rollout import builtin as rollout

    seen = []

    class Watched(rollout.DecodeLayout):
        def advance(self) -> None:
            super().advance()
            tensors = [*self._prefix.keys, *self._prefix.values, *self._keys, *self._values]
            seen.append(sum(t.untyped_storage().nbytes() for t in tensors))

    monkeypatch.setattr(rollout, "DecodeLayout", Watched)
    student = load_student(folder)
    prompts = prompts_of(student, 2)
    engine = TransformersRollout(
        student.language_model, SamplingConfig(100), student.eos_token_ids, student.banned_tokens
    )
    engine.eos_token_ids = (10**6,)  # nothing ends before the limit
    engine.generate(prompts, 4, seeds=[0, 1])
    settings = replace(SETTINGS, prompt_tokens=len(prompts[0]), batch_size=2, accumulate=1, completion_tokens=100)
    assert kv_cache_bytes(load_config(str(folder))[0], settings) == pytest.approx(max(seen), rel=0.1)


@pytest.mark.parametrize(("name", "shape"), [("Qwen2.5-Omni-3B", OMNI_3B), ("Qwen2.5-Omni-7B", OMNI_7B)])
def test_published_parameter_counts(name: str, shape: Published) -> None:
    config, source = load_config(f"Qwen/{name}")
    found = count_parameters(config)
    assert name in source
    assert found.language_model == shape.language_parameters()
    assert found.total == sum(p.numel() for p in shape.meta_thinker().parameters())


def test_parameters_of_a_saved_student(folder: Path) -> None:
    trained, frozen = count_in_memory(load_student(folder))
    found = count_parameters(load_config(str(folder))[0])
    assert (found.language_model, found.vision + found.audio) == (trained, frozen)


def test_the_config_of_a_loaded_student(folder: Path) -> None:
    """It names the attentions that the student was given; the figures are those of the folder's config."""
    plain, _ = load_config(str(folder))
    loaded = load_student(folder).thinker.config
    before = loaded.to_dict()
    assert count_parameters(loaded) == count_parameters(plain)
    settings = replace(SETTINGS, prompt_tokens=64)
    assert trace_memory(loaded, settings) == trace_memory(plain, settings)
    assert loaded.to_dict() == before


def test_flops_of_a_step_follow_from_the_weights() -> None:
    """Two operations per weight and token forward, four backward; attention on top."""
    config, _ = load_config("Qwen/Qwen2.5-Omni-3B")
    small: Any = config.text_config
    small.num_hidden_layers, small.layer_types = 2, ["full_attention"] * 2
    parameters = count_parameters(config)
    settings = replace(
        SETTINGS, batch_size=1, prompt_tokens=500, weight_bytes=2, mean_completion_tokens=101, chunk_rows=256
    )
    flops = count_flops(config, settings)
    tokens, predicted = 500 + 4 * 100, 4 * 101
    matrices = 2 * (parameters.layers * tokens + parameters.head * predicted)
    heads, size = small.num_attention_heads, small.hidden_size // small.num_attention_heads
    pairs = 500 * 500 + 4 * 100 * 600  # scores that the kernels compute, masked ones included
    assert flops.forward == pytest.approx(matrices + 2 * 4 * pairs * heads * size, rel=0.01)
    # The head's logits are computed again in the backward pass.
    assert flops.step == pytest.approx(3 * flops.forward + 2 * parameters.head * predicted, rel=0.05)


def test_adapters_agree_with_a_real_student(folder: Path) -> None:
    student = load_student(folder)
    add_lora(student, LoRAConfig(rank=4, alpha=8))
    prompts = prompts_of(student, SETTINGS.batch_size)
    settings = replace(SETTINGS, lora=LoRAConfig(rank=4, alpha=8), prompt_tokens=len(prompts[0]))
    gradient_step(student, prompts, settings)
    measured = allocated(lambda: gradient_step(student, prompts, settings))
    trace = trace_memory(load_config(str(folder))[0], settings)
    assert trace.trained == count_in_memory(student)[0]
    assert trace.activation_bytes == pytest.approx(measured, rel=0.1)


def test_zero_divides_gradients_and_optimizer_state() -> None:
    config, _ = load_config("Qwen/Qwen2.5-Omni-7B")
    parameters = count_parameters(config)
    trained = parameters.language_model
    trace = StepTrace(activation_bytes=0, trained=trained)
    base = replace(SETTINGS, devices=4, weight_bytes=2, prompt_tokens=100, stage=2, reference="none")
    two = device_memory(config, base, parameters, trace)
    assert two.optimizer == trained * 12 // 4
    assert two.weights == parameters.total * 2
    offloaded = replace(base, offload=True)
    assert device_memory(config, offloaded, parameters, trace).optimizer == 0
    assert host_memory(offloaded, parameters, trace).optimizer == trained * 16
    assert host_memory(replace(offloaded, nodes=2, devices=8), parameters, trace).optimizer == trained * 16 // 2
    three = device_memory(config, replace(base, stage=3), parameters, trace)
    assert three.weights == (trained // 4 + parameters.vision + parameters.audio) * 2
    assert device_memory(config, replace(base, reference="host"), parameters, trace).reference == 0


@pytest.mark.parametrize("file", sorted(p.name for p in CONFIGS.glob("*.yaml") if p.name.startswith(("sft", "grpo"))))
def test_plans_every_shipped_run(file: str, student_folder: Path) -> None:
    settings = read_settings([str(CONFIGS / file)], devices=2, student=str(student_folder), samples=40_127)
    enforce(ALLOWED_PREFIXES)
    assert settings.task == file.split("_")[0]
    plan = make_plan(settings)
    assert plan.fits
    assert plan.hours is not None
    assert plan.hours > 0
    json.dumps(plan.as_dict())
    if "7b" in file or "3b" in file:
        assert (settings.stage, settings.offload, settings.devices) == (2, True, 2)
        assert (settings.prompts_per_step, settings.accumulate) == (32, 16)
        # 8 frames are 4 pairs of at most 768 tokens; 10 s of audio are 250
        assert settings.prompt_tokens == 4 * 768 + 250 + 160
        assert settings.total_steps == 40_127 // settings.prompts_per_step


def test_advice_names_the_settings_to_change(student_folder: Path) -> None:
    settings = replace(SETTINGS, student=str(student_folder), prompt_tokens=400)
    tight = make_plan(settings, device_gib=0.001, overhead_gib=0.0)
    assert not tight.fits
    assert any("gradient_checkpointing" in line for line in tight.advice)
    assert any("reference_device: cpu" in line for line in tight.advice)
    assert any("kv_cache_tokens" in line for line in tight.advice)
    assert make_plan(settings, device_gib=8, overhead_gib=0.0).advice == ()
    supervised = make_plan(replace(settings, task="sft", num_generations=1), device_gib=0.001, overhead_gib=0.0)
    assert not any("kv_cache_tokens" in line for line in supervised.advice)


def test_sums_in_bfloat16_where_those_in_float32_do_not_fit(
    student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan says which switch would do, and what it costs."""
    changes = {"stage": 2, "offload": True, "weight_bytes": 2, "grad_accum_dtype": "fp32", "prompt_tokens": 400}
    settings = replace(SETTINGS, student=str(student_folder), **changes)
    roomy = make_plan(settings, device_gib=8, overhead_gib=0.0)
    assert roomy.fits
    assert roomy.sums is not None
    assert roomy.sums.device_bytes == roomy.trained * 4
    # Two micro-batches: 2 + 4 bytes more per weight cross, at 25 GB/s.
    assert roomy.sums.seconds == pytest.approx(roomy.trained * 6 / 25e9)
    between = (roomy.device.peak - roomy.trained) / USABLE / 2**30
    tight = make_plan(settings, device_gib=between, overhead_gib=0.0)
    assert not tight.fits
    assert "grad_accum_dtype: bf16" in tight.advice[0]
    other = replace(settings, grad_accum_dtype="bf16")
    assert make_plan(other, device_gib=between, overhead_gib=0.0).fits
    for plan, words in ((roomy, "summed in float32 on the device"), (make_plan(other), "rounded to bfloat16 after")):
        print_plan(plan, Console())
        assert words in capsys.readouterr().out


def test_small_shared_memory_is_named(
    student_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(SETTINGS, student=str(student_folder), prompt_tokens=400, num_workers=4)
    for size, small in ((64 * 10**6, True), (10**12, False)):
        monkeypatch.setattr("avrt.planning.plan._shared_memory_here", lambda size=size: size)
        print_plan(make_plan(settings), Console())
        assert ("--shm-size" in capsys.readouterr().out) is small


def test_the_optimizer_is_moved_by_the_strategy_that_can(student_folder: Path) -> None:
    settings = replace(SETTINGS, student=str(student_folder), prompt_tokens=400, reference="none")
    plain, zero = (make_plan(replace(settings, stage=n), device_gib=0.001, overhead_gib=0.0).advice for n in (0, 2))
    assert "trainer.strategy: avrt_zero2_offload" in plain
    assert "trainer.strategy: avrt_zero2_offload" in zero


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval.yaml"], "has no model.optimizer"),
        (["traces_avqa.yaml"], "has no model.optimizer"),
        (["grpo_7b.yaml", "--config", "endless.yaml", "--samples", "99"], "the run has no end: set trainer.max_steps"),
        (["grpo_7b.yaml", "--samples", "31"], "one optimizer step takes 32 prompts, and there are 31"),
        (["grpo_7b.yaml", "--config", "batch.yaml"], "data.batch_size: must be a whole number above 0"),
        (["grpo_7b.yaml", "--config", "steps.yaml"], "trainer.accumulate_grad_batches must be positive, got 0"),
        (["grpo_7b.yaml", "--config", "fsdp.yaml"], "trainer.strategy: 'fsdp' is not supported"),
        (
            ["grpo_7b.yaml", "--config", "misspelt.yaml"],
            "trainer.strategy: 'dddp' is not supported; did you mean 'ddp'?",
        ),
        (["grpo_7b.yaml", "--config", "auto.yaml"], "trainer.devices is 'auto', which depends on the machine"),
        (["grpo_7b.yaml", "--student", "no/such"], "'no/such'"),
        (["grpo_7b.yaml", "--bandwidth", "0"], "--bandwidth must be positive, got 0.0"),
        (["grpo_7b.yaml", "--gpu-memory", "nan"], "--gpu-memory must be positive, got nan"),
        (
            ["grpo_7b.yaml", "--config", str(CONFIGS / "overlays" / "zero3.yaml")],
            "trainer.strategy: ZeRO-3 does not support GRPO",
        ),
        (["grpo_7b.yaml", "--devices", "3"], "data.prompts_per_step is 32"),
    ],
)
def test_refusals(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "endless": "trainer: {max_epochs: -1}",
        "batch": "data: {init_args: {batch_size: 0}}",
        "steps": "trainer: {accumulate_grad_batches: 0}",
        "fsdp": "trainer: {strategy: fsdp}",
        "misspelt": "trainer: {strategy: dddp}",
        "auto": "trainer: {devices: auto}",
    }.items():
        Path(f"{name}.yaml").write_text(text)
    assert main(["plan", "--config", str(CONFIGS / words[0]), *words[1:]]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("avrt: error: ")]
    assert message in line


def test_a_wrong_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model:\n  class_path: lightning_modules.grpo.GRPOModule\n  init_args:\n    num_generation: 8\n")
    assert main(["plan", "--config", str(CONFIGS / "grpo_7b.yaml"), "--config", str(wrong)]) == 2
    assert "num_generation" in capsys.readouterr().err


def test_time_scales_with_the_hardware(student_folder: Path) -> None:
    settings = replace(SETTINGS, student=str(student_folder), prompt_tokens=400, total_steps=100)
    slow = make_plan(settings, Hardware(peak_tflops=1, bandwidth_gb=1, launch_us=8))
    fast = make_plan(settings, Hardware(peak_tflops=2, bandwidth_gb=2, launch_us=4))
    assert slow.hours == pytest.approx(2 * fast.hours)  # type: ignore[operator]


def test_unknown_students_are_named() -> None:
    with pytest.raises(ValueError, match=r"student\.path.*'no/such'.*--student"):
        load_config("no/such")
    assert "does not exist" in load_config("exports/sft_7b")[1]
