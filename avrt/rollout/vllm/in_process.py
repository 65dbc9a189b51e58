"""vLLM in the process that trains, one engine per device, beside the policy.

It loads the folder that the run started from, and takes over the policy's weights before every window that an optimizer
step precedes: tensor by tensor on the device, without a copy in host memory.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from avrt.config.numbers import PositiveFloat, PositiveInt
from avrt.families.family import StudentFamily
from avrt.model.student import DTYPES, Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.engine import EngineConfig, Response, SamplingConfig
from avrt.rollout.policy_weights import check_accounted, policy_weights, published_shapes
from avrt.rollout.transfer_check import LIMITS, MEDIA, TransferCheck
from avrt.rollout.vllm.arguments import check_family, sampling_parameters, set_environment, shared_arguments
from avrt.rollout.vllm.inputs import check_prompt, media_tokens_of, response, source_of, vllm_prompt, with_media
from avrt.rollout.vllm.weights import Totals, arrived_totals, reload_weights

OWN_ARGUMENTS = frozenset({"tokenizer", "trust_remote_code", "hf_overrides", "tensor_parallel_size", "load_format"})
"""Arguments of `vllm.LLM` that `VLLM.llm_args` must not hold, beside those that are set here."""


@dataclass
class VLLM(EngineConfig):
    """vLLM in the process that trains. See docs/rollout.md.

    Attributes:
        gpu_memory_utilization: share of the device's memory that vLLM may use for its weights and caches.
        max_model_len: longest prompt with its response, in tokens; None for the student's own limit.
        dtype: of vLLM's weights and computation; ``auto`` for the student's.
        sleep_level: 1: between rollouts vLLM's weights leave the device for host memory and its caches are freed; 0:
            both stay. (Level 2 of vLLM drops the weights and is not offered.) On CPUs nothing happens.
        enforce_eager: no CUDA graphs and no compilation: a faster start, slower sampling.
        media_per_prompt: most images, videos and audio clips of one prompt, each.
        max_logp_difference: limit of the check after each transfer of weights: mean difference of a token's
            log-probability from the policy's. None for 0.001 in float32 and 0.2 in bfloat16.
        llm_args: further arguments of `vllm.LLM`.
    """

    gpu_memory_utilization: PositiveFloat = 0.4
    max_model_len: PositiveInt | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    sleep_level: Literal[0, 1] = 1
    enforce_eager: bool = False
    media_per_prompt: PositiveInt = 4
    max_logp_difference: PositiveFloat | None = None
    llm_args: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ValueError("model.rollout: vLLM is not installed here; docs/rollout.md says how to install it")

    def check_family(self, family: StudentFamily) -> None:
        check_family(family)

    def start(self, student: Student, sampling: SamplingConfig) -> VLLMEngine:
        return VLLMEngine(self, student, sampling)


class VLLMEngine:
    """Samples with vLLM.

    Args:
        config: its settings.
        student: the policy.
        sampling: settings of sampling.

    Raises:
        ValueError: vLLM is not installed, cannot load the student, or computes another function.
    """

    def __init__(self, config: VLLM, student: Student, sampling: SamplingConfig) -> None:
        check_family(student.family)
        self.config = config
        self.student = student
        self.sampling = sampling
        dtype = DTYPES[student.config.dtype if config.dtype == "auto" else config.dtype]
        if dtype not in LIMITS:
            raise ValueError(f"model.student.dtype: vLLM does not compute in {dtype}; set float32 or bfloat16")
        self.dtype = dtype
        self._shapes = published_shapes(student.config)
        self._check = TransferCheck(student, sampling, dtype, config.max_logp_difference)
        self._media_tokens = media_tokens_of(student)
        self._asleep = False
        self._shares_processes = torch.distributed.is_initialized()
        with _own_random_state():
            self._llm = _start(config, student, dtype)
        self._sleeps = config.sleep_level > 0 and self.student.device.type == "cuda"

    def update_weights(self) -> float:
        self._wake_up()
        weights, totals = policy_weights(self.student, self._shapes), Totals(self.dtype)
        check_accounted(weights, self._shapes)
        reload_weights(self._llm, totals.noted((weight.name, weight.tensor()) for weight in weights))
        for arrived in self._llm.apply_model(arrived_totals):
            totals.check(arrived)
        return self._check.run(lambda prompt, sampling: self._generate([prompt], 1, [0], sampling)[0][0])

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        self._wake_up()
        return self._generate(prompts, num_generations, seeds, self.sampling)

    def _generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int], sampling: SamplingConfig
    ) -> list[list[Response]]:
        from vllm.exceptions import VLLMClientError

        sources = [source_of(prompt) for prompt in prompts]
        settings = [sampling_parameters(num_generations, sampling, seed, self.student.eos_token_ids) for seed in seeds]
        requests = [with_media(vllm_prompt(source, self._media_tokens)) for source in sources]
        # The precision is vLLM's own, not that of the training step around this call.
        try:
            with torch.autocast(self.student.device.type, enabled=False), _own_random_state():
                outputs = self._llm.generate(requests, settings, use_tqdm=False)
        except VLLMClientError as error:
            longest = max(sources, key=lambda source: len(source.input_ids)).sample.id
            raise ValueError(f"vLLM refuses a prompt (the longest is sample {longest!r}): {error}") from error
        groups = []
        for source, output in zip(sources, outputs, strict=True):
            check_prompt(source, output.prompt_token_ids)
            groups.append([response(completion, source.sample.id) for completion in output.outputs])
        return groups

    def rest(self) -> None:
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def _wake_up(self) -> None:
        if self._asleep:
            torch.cuda.empty_cache()  # torch's own reserve is no memory that vLLM could take
            self._llm.wake_up()
            self._asleep = False

    def close(self) -> None:
        if not self._shares_processes:  # its shutdown ends the process group, which would be the trainer's
            self._llm.llm_engine.engine_core.shutdown()
        del self._llm


def _start(config: VLLM, student: Student, dtype: torch.dtype) -> Any:
    """A `vllm.LLM` with the student's folder."""
    # The engine has to be in this process: the policy's tensors are handed over as they are.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    set_environment()
    distributed = torch.distributed.is_initialized()
    _check_device(student.device, distributed)
    try:
        from vllm import LLM
    except ImportError as error:
        raise ValueError(
            f"model.rollout: vLLM cannot be imported ({error}); docs/rollout.md names the versions that fit"
        ) from error
    on_cpu = student.device.type == "cpu"
    if on_cpu:  # it warns of every call that sets torch's threads, several per prompt
        logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
    banned: list[int] = student.banned_tokens.nonzero().flatten().tolist()
    arguments: dict[str, Any] = {
        "model": student.config.path,
        "revision": student.config.revision,
        "dtype": str(dtype).removeprefix("torch."),
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_model_len": config.max_model_len,
        "enable_sleep_mode": config.sleep_level > 0 and not on_cpu,
        "distributed_executor_backend": "external_launcher" if distributed else "uni",
        **shared_arguments(banned, max(MEDIA, config.media_per_prompt), config.enforce_eager, on_cpu),
    }
    if taken := sorted(config.llm_args.keys() & (arguments.keys() | OWN_ARGUMENTS)):
        raise ValueError(f"model.rollout.llm_args: {taken[0]} cannot be given here")
    if not on_cpu:
        torch.cuda.empty_cache()
    try:
        return LLM(**arguments, **config.llm_args)
    except (ValueError, RuntimeError, OSError, TypeError) as error:
        raise ValueError(f"model.rollout: vLLM cannot load {student.config.path!r}: {error}") from error


def _check_device(device: torch.device, distributed: bool) -> None:
    """Check that vLLM will take the policy's own device, and tell it which process this is.

    Raises:
        ValueError: it would take another one.
    """
    number = 0
    if distributed:
        number = int(os.environ.get("LOCAL_RANK", device.index or 0))
        os.environ.setdefault("RANK", str(torch.distributed.get_rank()))  # Lightning's launchers leave it out
        os.environ.setdefault("LOCAL_RANK", str(number))
    if device.type == "cuda" and device.index != number:
        raise ValueError(
            f"model.rollout: vLLM takes device {number} in this process, and training is on {device}; choose devices "
            "with CUDA_VISIBLE_DEVICES, and set trainer.devices to their number"
        )


@contextmanager
def _own_random_state() -> Iterator[None]:
    """vLLM seeds the generators of the whole process; inside they are its own."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
