"""Settings of vLLM that do not depend on where it runs: what makes it sample as the trainer scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from avrt.families.family import StudentFamily
from avrt.rollout.engine import SamplingConfig


def check_family(family: StudentFamily) -> None:
    """Check that vLLM samples from the function that is scored.

    Raises:
        ValueError: it is known not to.
    """
    if family.vllm_differs:
        raise ValueError(
            f"model.rollout: for {family.title}, vLLM computes another function than the policy "
            f"({family.vllm_differs}); use the built-in engine (model.rollout: builtin)"
        )


def set_environment() -> None:
    """Variables that vLLM reads when it is imported."""
    # The second generation of its model runner does not take our processor of logits (vLLM 0.32).
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    for name, value in (("VLLM_LOGGING_LEVEL", "WARNING"), ("VLLM_NO_USAGE_STATS", "1")):
        os.environ.setdefault(name, value)


def shared_arguments(banned: list[int], media: int, enforce_eager: bool, on_cpu: bool) -> dict[str, Any]:
    """Arguments of an engine in process and of one in a server.

    Args:
        banned: tokens that are never sampled.
        media: most images, videos and sounds of one prompt, each.
        enforce_eager: no compilation and no CUDA graphs.
        on_cpu: vLLM is its CPU build.
    """
    arguments: dict[str, Any] = {
        "enforce_eager": enforce_eager or on_cpu,
        "load_format": "safetensors",  # no other format is ever read
        "limit_mm_per_prompt": dict.fromkeys(("audio", "image", "video"), media),
        # The profile's images are hundreds of times as large as a frame here.
        "skip_mm_profiling": True,
        "mm_processor_cache_gb": 0,  # no prompt comes twice within an epoch
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature, without the banned tokens
        "logits_processors": ["avrt.rollout.vllm.banned_tokens:BannedTokens"],
        "additional_config": {"avrt_banned_tokens": banned},
        "seed": 0,
    }
    if on_cpu:  # a seeded request whose prompt is computed in parts fails there ("CPU Generator does not use offset")
        arguments["enable_chunked_prefill"] = False
    return arguments


def sampling_parameters(n: int, sampling: SamplingConfig, seed: int, stop: Sequence[int], **more: Any) -> Any:
    """vLLM's ``SamplingParams`` for the responses to one prompt.

    Args:
        n: responses.
        sampling: temperature and longest response.
        seed: of the prompt's random stream.
        stop: tokens that end a response.
        more: what only one kind of engine sets.
    """
    from vllm import SamplingParams

    return SamplingParams(
        n=n,
        temperature=sampling.temperature,
        seed=seed,
        max_tokens=sampling.max_completion_length,
        stop_token_ids=list(stop),
        ignore_eos=True,  # the folder's own list of end tokens may be another
        logprobs=0,
        detokenize=False,
        **more,
    )
