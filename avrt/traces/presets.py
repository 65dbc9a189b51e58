"""The paper's teachers and mergers: sampling, token limits, markers and server commands.

A preset fills in what a stage's config leaves out. Values come from the models' own cards and generation configs;
`docs/traces.md` explains the common pitfalls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One model as a teacher or merger.

    Attributes:
        model: name under which the server offers it.
        stages: stages that it can be used for: ``vision``, ``audio``, ``merge``.
        sampling: parameters of every call. ``max_tokens`` is always sent: servers' own defaults may be as low as 16.
        suffix: sentence that must end the prompt, or nothing.
        serve: command that starts a server for it; `docs/traces.md` explains its options.
    """

    model: str
    stages: tuple[str, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    serve: str = ""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "kimi-vl-a3b-thinking-2506": Preset(
            model="moonshotai/Kimi-VL-A3B-Thinking-2506",
            stages=("vision",),
            sampling={"temperature": 0.8, "max_tokens": 32768},
            serve=(
                "vllm serve moonshotai/Kimi-VL-A3B-Thinking-2506 --revision COMMIT --code-revision COMMIT "
                "--trust-remote-code --max-model-len 65536 --max-num-seqs 64 --limit-mm-per-prompt '{\"image\": 8}' "
                "--generation-config vllm"
            ),
        ),
        "audio-flamingo-3-think": Preset(
            model="audio-flamingo-3-think",
            stages=("audio",),
            sampling={"temperature": 0.0, "max_tokens": 2048},
            suffix="Please think and reason about the input audio before you respond.",
            serve=(
                "vllm serve audio-flamingo-3-think-merged --served-model-name audio-flamingo-3-think "
                "--max-model-len 8192 --max-num-seqs 64 --limit-mm-per-prompt '{\"audio\": 1}' --generation-config vllm"
            ),
        ),
        "qwen2.5-14b-instruct": Preset(
            model="Qwen/Qwen2.5-14B-Instruct",
            stages=("merge",),
            sampling={
                "temperature": 0.7,
                "top_p": 0.8,
                "top_k": 20,
                "repetition_penalty": 1.05,
                "max_tokens": 1024,
            },
            serve=(
                "vllm serve Qwen/Qwen2.5-14B-Instruct --revision COMMIT --max-model-len 32768 --max-num-seqs 128 "
                "--enable-prefix-caching --generation-config vllm"
            ),
        ),
        "gemma-3-12b-it": Preset(
            model="google/gemma-3-12b-it",
            stages=("merge",),
            sampling={"temperature": 1.0, "top_p": 0.95, "top_k": 64, "max_tokens": 1024},
            serve=(
                "vllm serve google/gemma-3-12b-it --revision COMMIT --max-model-len 32768 --max-num-seqs 128 "
                "--limit-mm-per-prompt '{\"image\": 0}' --generation-config vllm"
            ),
        ),
    }
)
