"""Known models behind servers, the paper's first: sampling, token limits, endings of prompts, server commands.

A preset fills in what the settings of a server leave out, in traces and in evaluation. Values come from the models' own
cards and generation configs; `docs/traces.md` explains the common pitfalls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One model behind a server.

    Attributes:
        model: name under which the server offers it.
        inputs: streams that it accepts besides text: ``AV``, ``A``, ``V``, or nothing.
        sampling: parameters of every call. ``max_tokens`` is sent with every question: servers' own defaults may be 16.
        suffix: sentence that must end the prompt, or nothing.
        serve: command that starts a server for it; `docs/traces.md` explains its options.
        transcribes: it writes down speech and answers no question; only a teacher of a trace run can be that.
        is_student: it is a student of this project: as a teacher it gets its prompt in the form of its training.
    """

    model: str
    inputs: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    serve: str = ""
    transcribes: bool = False
    is_student: bool = False


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "kimi-vl-a3b-thinking-2506": Preset(
            model="moonshotai/Kimi-VL-A3B-Thinking-2506",
            inputs="V",
            sampling={"temperature": 0.8, "max_tokens": 32768},
            serve=(
                "vllm serve moonshotai/Kimi-VL-A3B-Thinking-2506 --revision COMMIT --code-revision COMMIT "
                "--trust-remote-code --max-model-len 65536 --max-num-seqs 64 --limit-mm-per-prompt '{\"image\": 8}' "
                "--generation-config vllm"
            ),
        ),
        "audio-flamingo-3-think": Preset(
            model="audio-flamingo-3-think",
            inputs="A",
            sampling={"temperature": 0.0, "max_tokens": 2048},
            suffix="Please think and reason about the input audio before you respond.",
            serve=(
                "vllm serve audio-flamingo-3-think-merged --served-model-name audio-flamingo-3-think "
                "--max-model-len 8192 --max-num-seqs 64 --limit-mm-per-prompt '{\"audio\": 1}' --generation-config vllm"
            ),
        ),
        "whisper-large-v3": Preset(
            model="openai/whisper-large-v3",
            inputs="A",
            sampling={"temperature": 0.0, "response_format": "json"},
            serve="vllm serve openai/whisper-large-v3 --revision COMMIT --max-num-seqs 64 --generation-config vllm",
            transcribes=True,
        ),
        "voxtral-mini-3b-2507": Preset(
            model="mistralai/Voxtral-Mini-3B-2507",
            inputs="A",
            sampling={"temperature": 0.2, "top_p": 0.95, "max_tokens": 2048},
            serve=(
                "vllm serve mistralai/Voxtral-Mini-3B-2507 --revision COMMIT --tokenizer-mode mistral "
                "--config-format mistral --load-format mistral --max-model-len 16384 --max-num-seqs 64 "
                "--limit-mm-per-prompt '{\"audio\": 1}' --generation-config vllm"
            ),
        ),
        "qwen2.5-14b-instruct": Preset(
            model="Qwen/Qwen2.5-14B-Instruct",
            inputs="",
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
            inputs="",
            sampling={"temperature": 1.0, "top_p": 0.95, "top_k": 64, "max_tokens": 1024},
            serve=(
                "vllm serve google/gemma-3-12b-it --revision COMMIT --max-model-len 32768 --max-num-seqs 128 "
                "--limit-mm-per-prompt '{\"image\": 0}' --generation-config vllm"
            ),
        ),
        "qwen3-omni-30b-a3b-instruct": Preset(
            model="Qwen/Qwen3-Omni-30B-A3B-Instruct",
            inputs="AV",
            sampling={"temperature": 0.0, "max_tokens": 4096},
            serve=(
                "vllm serve Qwen/Qwen3-Omni-30B-A3B-Instruct --revision COMMIT --max-model-len 32768 "
                '--limit-mm-per-prompt \'{"image": 8, "audio": 1}\' --generation-config vllm'
            ),
        ),
        # The sampling of its README's examples; its generation config is the authority, says the README.
        "qwen3-omni-30b-a3b-thinking": Preset(
            model="Qwen/Qwen3-Omni-30B-A3B-Thinking",
            inputs="AV",
            sampling={"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": 16384},
            serve=(
                "vllm serve Qwen/Qwen3-Omni-30B-A3B-Thinking --revision COMMIT --max-model-len 32768 "
                '--limit-mm-per-prompt \'{"image": 8, "audio": 1}\' --generation-config vllm'
            ),
        ),
        # Frames are enlarged and reduced to the bounds of sft_3b.yaml and sft_7b.yaml.
        "avrt-student": Preset(
            model="avrt-student",
            inputs="AV",
            sampling={
                "temperature": 1.0,
                "max_tokens": 1024,
                "mm_processor_kwargs": {"size": {"shortest_edge": 100352, "longest_edge": 602112}},
            },
            serve=(
                "vllm serve exports/grpo_7b --served-model-name avrt-student --max-model-len 16384 "
                '--limit-mm-per-prompt \'{"video": 1, "audio": 1}\' --generation-config vllm --trust-request-mm-kwargs'
            ),
            is_student=True,
        ),
    }
)
