"""The plan of a run: memory, cost and length, whether it fits, and settings to change if it does not."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from avrt.planning.cost import StepCost, crossing_bytes, step_cost
from avrt.planning.dry_run import count_flops, trace_memory
from avrt.planning.hardware import Hardware
from avrt.planning.memory import DeviceMemory, HostMemory, device_memory, host_memory
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import Parameters, count_parameters, load_config

GIB = 2**30

USABLE = 0.92
"""Usable share of a device's memory; the rest is lost to fragmentation."""


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only its size is read

BF16_SUMS = (
    "trainer.strategy: {class_path: lightning_modules.strategy.AVRTDeepSpeedStrategy, init_args: "
    "{grad_accum_dtype: bf16}}"
)


@dataclass(frozen=True)
class GradientSums:
    """Sums of gradients over micro-batches in float32 on the device, against sums in bfloat16.

    Attributes:
        device_bytes: what the former take more of one device's memory.
        seconds: what the latter take longer per optimizer step, because they cross between device and host.
    """

    device_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The figures that `python -m avrt plan` prints.

    Attributes:
        trained: number of trained parameters.
        sums: the two ways to sum gradients; None where there is no choice.
        shared_memory_here: size of this machine's `/dev/shm`, or None if it has none.
    """

    settings: RunSettings
    student: str
    parameters: Parameters
    trained: int
    device: DeviceMemory
    host: HostMemory
    cost: StepCost
    device_limit: int
    host_limit: int
    advice: tuple[str, ...]
    hardware: Hardware
    sums: GradientSums | None
    shared_memory_here: int | None

    @property
    def hours(self) -> float | None:
        steps = self.settings.total_steps
        return None if steps is None else steps * self.cost.total_seconds / 3600

    @property
    def most_hours(self) -> float | None:
        """`hours` of a run whose every step rolls out as many prompts as dynamic sampling allows."""
        steps = self.settings.total_steps
        return None if steps is None else steps * self.cost.most_seconds / 3600

    @property
    def fits(self) -> bool:
        return self.device.peak <= self.device_limit * USABLE and self.host.peak <= self.host_limit

    def as_dict(self) -> dict[str, Any]:
        device = asdict(self.device) | {"rollout": self.device.rollout, "training": self.device.training}
        return {
            "settings": asdict(self.settings),
            "student": self.student,
            "parameters": asdict(self.parameters) | {"total": self.parameters.total, "trained": self.trained},
            "device_bytes": device | {"peak": self.device.peak},
            "host_bytes": asdict(self.host) | {"peak": self.host.peak},
            "hardware": asdict(self.hardware),
            "gradient_sums": None if self.sums is None else asdict(self.sums),
            "shared_memory_here": self.shared_memory_here,
            "step": asdict(self.cost),
            "hours": self.hours,
            "most_hours": self.most_hours,
            "fits": self.fits,
            "advice": list(self.advice),
        }


def make_plan(
    settings: RunSettings,
    hardware: Hardware | None = None,
    device_gib: float = 80.0,
    host_gib: float = 1000.0,
    overhead_gib: float | None = None,
) -> Plan:
    """Plan a run.

    Args:
        device_gib, host_gib: memory of one device and of one machine.
        overhead_gib: memory of a device that tensors cannot use; None for the hardware's.
    """
    config, source = load_config(settings.student)
    parameters = count_parameters(config)
    longest = trace_memory(config, settings)
    hardware = hardware or Hardware()
    overhead = hardware.overhead_bytes if overhead_gib is None else int(overhead_gib * GIB)
    limits = int(device_gib * GIB), int(host_gib * GIB)

    def memory(s: RunSettings) -> tuple[DeviceMemory, HostMemory]:
        device = device_memory(config, s, parameters, longest, overhead, limits[0])
        return device, host_memory(s, parameters, longest, limits[1])

    device, host = memory(settings)
    advice = _advice(settings, device, host, *limits)
    sums = None
    if settings.stage == 2 and settings.weight_bytes < 4:
        fp32, bf16 = (replace(settings, grad_accum_dtype=dtype) for dtype in ("fp32", "bf16"))
        without, slower = memory(bf16)
        share = longest.trained / settings.devices
        sums = GradientSums(
            memory(fp32)[0].training - without.training,
            hardware.transfer(share * (crossing_bytes(bf16) - crossing_bytes(fp32)), slower.pinned),
        )
        if device.peak > limits[0] * USABLE >= without.peak and settings.fp32_sums:
            advice.insert(0, f"{BF16_SUMS} (then it fits, and a step takes {sums.seconds:.1f} s longer)")
    return Plan(
        settings=settings,
        student=source,
        parameters=parameters,
        trained=longest.trained,
        device=device,
        host=host,
        cost=step_cost(
            config,
            settings,
            parameters,
            longest.trained,
            count_flops(config, settings),
            hardware,
            host.pinned,
        ),
        device_limit=limits[0],
        host_limit=limits[1],
        advice=tuple(advice),
        hardware=hardware,
        sums=sums,
        shared_memory_here=_shared_memory_here(),
    )


def _shared_memory_here() -> int | None:
    """Size of this machine's `/dev/shm`, or None if it has none."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).total
    except OSError:
        return None


def _advice(s: RunSettings, device: DeviceMemory, host: HostMemory, device_limit: int, host_limit: int) -> list[str]:
    """Settings to change, the largest saving first."""
    found: list[tuple[int, str]] = []
    if device.training > device_limit * USABLE:
        if not s.gradient_checkpointing:
            found.append((device.activations, "model.student.gradient_checkpointing: true"))
        elif s.batch_size > 1:
            found.append((device.activations, "data.batch_size: lower"))
        else:
            found.append((device.activations, "model.student.max_pixels: lower (shorter prompts)"))
        if device.optimizer:
            found.append((device.optimizer, "trainer.strategy: avrt_zero2_offload"))
    if device.rollout_engine and device.peak > device_limit * USABLE:
        found.append((device.rollout_engine, "model.rollout.gpu_memory_utilization: lower, or model.rollout: builtin"))
    elif device.kv_cache and device.rollout > device_limit * USABLE:
        found.append((device.kv_cache, "model.sampling.kv_cache_tokens: lower (the window is sampled in parts)"))
    if device.peak > device_limit * USABLE:
        if device.reference:
            found.append((device.reference, "model.reference_device: cpu"))
        if s.lora is None:
            saved = device.gradients + device.optimizer + device.reference
            found.append((saved, "--config cli_configs/overlays/lora.yaml"))
        if s.task == "sft" and s.stage in (1, 2) and s.devices > 1:
            found.append((device.weights, "--config cli_configs/overlays/zero3.yaml"))
        if device.weights + device.overhead > device_limit * USABLE and s.stage != 3:
            found.append((0, "the GPUs: the frozen and trained weights alone do not fit"))
    if host.peak > host_limit:
        if host.optimizer:
            found.append((host.optimizer, "more machines, or --config cli_configs/overlays/no_offload.yaml"))
        if host.loading == host.peak:
            found.append((host.loading, "fewer --devices on one machine (every process loads the weights)"))
        if host.pinned and s.pin_memory:
            found.append((0, "trainer.strategy.init_args.pin_memory: auto (pinned buffers are rounded up)"))
    return [text for saved, text in sorted(found, key=lambda entry: -entry[0])]


def print_plan(plan: Plan, console: Console) -> None:
    """Print the plan as tables."""
    s, p = plan.settings, plan.parameters
    console.print(
        f"{s.task.upper()} of {plan.student}: {p.total / 1e9:.2f} billion parameters "
        f"(language model {p.language_model / 1e9:.2f}, vision {p.vision / 1e9:.2f}, audio {p.audio / 1e9:.2f}), "
        f"{plan.trained / 1e9:.3f} billion trained",
        highlight=False,
        soft_wrap=True,
    )
    where = f"ZeRO-{s.stage}{', optimizer in host memory' if s.offload else ''}" if s.stage else "plain"
    console.print(
        f"{s.devices} devices on {s.nodes} machine{'s' if s.nodes > 1 else ''}, {where}, {s.weight_bytes * 8}-bit "
        f"weights; prompts of {s.prompt_tokens}, responses of up to {s.completion_tokens} tokens",
        highlight=False,
        soft_wrap=True,
    )
    for title, parts, peak, limit in (
        ("One device", plan.device, plan.device.peak, plan.device_limit * USABLE),
        ("One host", plan.host, plan.host.peak, plan.host_limit),
    ):
        table = Table("memory", "GiB", title=title, title_justify="left", min_width=44)
        for name, value in asdict(parts).items():
            if value and not isinstance(value, bool):
                table.add_row(name.replace("_", " "), f"{value / GIB:.2f}")
        if isinstance(parts, DeviceMemory):
            table.add_row("rollout", f"{parts.rollout / GIB:.2f}")
            table.add_row("training", f"{parts.training / GIB:.2f}")
        table.add_row("peak", f"{peak / GIB:.2f} of {limit / GIB:.0f} usable")
        console.print(table)
    _print_notes(plan, console)
    _print_cost(plan, console)
    for line in plan.advice:
        console.print(f"does not fit; change {line}", highlight=False, soft_wrap=True, style="bold")


def _print_notes(plan: Plan, console: Console) -> None:
    """How gradients are summed and moved, and what the data workers need."""
    s, notes = plan.settings, []
    if s.engine != "builtin":
        notes.append("the time of sampling is computed for the built-in engine, on as many devices")
    if plan.cost.samples_ahead:
        notes.append(
            f"sampling takes {plan.cost.sampling_seconds:.1f} s beside {plan.cost.other_seconds:.1f} s of the rest: a "
            "step takes the longer of the two"
        )
    if plan.sums is not None:
        more = f"{abs(plan.sums.device_bytes) / GIB:.1f} GiB {'more' if plan.sums.device_bytes > 0 else 'less'}"
        slower = f"{plan.sums.seconds:.1f} s longer per step"
        if s.fp32_sums:
            notes.append(
                f"gradients are summed in float32 on the device: {more} of each device's memory than with "
                f"grad_accum_dtype: bf16, which would round them after every micro-batch and take {slower}"
            )
        else:
            notes.append(
                "gradients are rounded to bfloat16 after every micro-batch; grad_accum_dtype: fp32 would sum them in "
                f"float32 with {more} of each device's memory, and saves the {slower} that they take now"
            )
    if s.offload:
        notes.append(
            f"{plan.cost.crossed} bytes per trained weight and step cross between device and "
            f"{'pinned' if plan.host.pinned else 'pageable'} host memory"
        )
    if plan.host.shared_memory:
        here = plan.shared_memory_here
        notes.append(
            f"the data workers need up to {plan.host.shared_memory / 1e9:.1f} GB of /dev/shm on each machine"
            + ("" if here is None else f" (this machine has {here / 1e9:.1f} GB; a Docker container 0.06)")
        )
        if here is not None and here < plan.host.shared_memory:
            notes.append(
                "this machine's /dev/shm is too small for that: start the container with --shm-size or --ipc=host, or "
                "lower data.num_workers, data.prefetch or data.val_batch_size"
            )
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)


def _print_cost(plan: Plan, console: Console) -> None:
    c, s = plan.cost, plan.settings
    table = Table(
        "phase", "TFLOP", "seconds", title="One optimizer step (computed)", title_justify="left", min_width=44
    )
    for name in {**c.flops, **c.seconds}:
        table.add_row(name, f"{c.flops.get(name, 0) / 1e12:.0f}", f"{c.seconds.get(name, 0):.1f}")
    table.add_row("all", f"{c.total_flops / 1e12:.0f}", f"{c.total_seconds:.1f}")
    console.print(table)
    if c.decoding:
        bound = max(c.decoding, key=lambda name: c.decoding[name])
        console.print(
            f"decoding is bound by {bound} ("
            + ", ".join(f"{name} {value:.1f} s" for name, value in c.decoding.items())
            + f"), to the longest response of {s.longest_tokens} tokens",
            highlight=False,
            soft_wrap=True,
        )
    h = plan.hardware
    measured = ", ".join(name.replace("_", " ") for name in h.measured)
    console.print(
        f"measured on {h.device}: {measured}; everything else is assumed" if measured else "all speeds are assumed",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{s.prompts_per_step} prompts, {c.prompt_tokens:,} prompt tokens, {c.response_tokens:,} response tokens, "
        f"{c.encoder_runs} encoder runs per step",
        highlight=False,
        soft_wrap=True,
    )
    if s.max_num_gen_batches > 1:
        console.print(
            f"dynamic sampling rolls out up to {s.max_num_gen_batches} times as many prompts: up to "
            f"{c.most_seconds:.1f} seconds per step",
            highlight=False,
            soft_wrap=True,
        )
    if plan.hours is None or plan.most_hours is None:
        console.print(
            "length of the run unknown: the training shards are not on this machine; add --samples", highlight=False
        )
    else:
        most = f" to {plan.most_hours:.1f}" if s.max_num_gen_batches > 1 else ""
        console.print(f"{s.total_steps:,} steps, about {plan.hours:.1f}{most} hours", highlight=False)
