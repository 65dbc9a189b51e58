"""Tokens per second of the rollout against transformers' `generate` with `num_return_sequences`, or against vLLM.

    python -m benchmarks.rollout --prompt 1536 --response 128 --group 8 --prompts 2
    python -m benchmarks.rollout --engine vllm --frame-size 448 --response 128 --group 8 --prompts 2

Same weights, same lengths. ``decode`` is the time per token after the prefill (the difference to a rollout of one
token), which must not be slower than transformers' own on the same batch.

With ``--engine vllm`` (in the environment of docs/rollout.md) prompts are audio-visual, and each side runs its own
encoders: the built-in engine once per prompt, as in a step. Both sample, until the full length.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from avrt.media.geometry import TOKEN_PIXELS
from avrt.model.student import StudentConfig
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig
from benchmarks.measure import Timing, alternate, paired_ratio, parser, save, show
from benchmarks.models import Shape, language_model, random_ids, text_only_model, text_prompt
from benchmarks.naive_step import audio_visual_prompts
from benchmarks.students import EndlessStudent, save_student


def main() -> None:
    args = parser(__doc__, rounds=3)
    args.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    args.add_argument("--prompt", type=int, default=1536)
    args.add_argument("--frame-size", type=int, default=448, help="with vLLM: pixels of a side of each of 8 frames")
    args.add_argument("--response", type=int, default=128)
    args.add_argument("--group", type=int, default=8)
    args.add_argument("--prompts", type=int, default=2)
    options = args.parse_args()
    torch.set_num_threads(options.threads)
    contestants, length = against_vllm(options) if options.engine == "vllm" else against_transformers(options)
    report(options, contestants, length)


Sampler = Callable[[int], None]
"""Samples responses of so many tokens."""


def against_transformers(options: Namespace) -> tuple[dict[str, Sampler], int]:
    """The built-in engine and `generate`, on text, and the prompt's tokens."""
    shape = Shape()
    peer = text_only_model(shape).eval()
    model = language_model(shape, peer)
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([random_ids(shape, options.prompt, generator) for _ in range(options.prompts)])
    prompts = [text_prompt(row) for row in ids]

    def ours(tokens: int) -> None:
        engine = TransformersRollout(model, SamplingConfig(tokens, kv_cache_tokens=10**9), eos_token_ids=())
        engine.generate(prompts, options.group, seeds=list(range(len(prompts))))

    def theirs(tokens: int) -> None:
        peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=options.group,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
        )

    return {"avrt": ours, "transformers": theirs}, options.prompt


def against_vllm(options: Namespace) -> tuple[dict[str, Sampler], int]:
    """The built-in engine and vLLM, on prompts with video and audio, and the longest prompt's tokens."""
    from avrt.rollout.vllm import VLLM

    work = Path(tempfile.mkdtemp(prefix="avrt-benchmark-"))
    save_student(work / "weights", Shape())
    EndlessStudent.load(_config(work / "weights")).save(work / "student")  # in the published layout
    student = EndlessStudent.load(_config(work / "student"))
    sources = audio_visual_prompts(work / "student", options.prompts, options.frame_size)
    seeds = list(range(len(sources)))
    length = max(len(source.input_ids) for source in sources)
    engine = VLLM(max_model_len=length + options.response + 16).start(student, SamplingConfig())
    engine.update_weights()

    def ours(tokens: int) -> None:
        sampling = SamplingConfig(tokens, kv_cache_tokens=10**9)
        built_in = TransformersRollout(student.language_model, sampling, (), student.banned_tokens)
        built_in.generate(student.embed(sources), options.group, seeds)

    embedded = student.embed(sources)

    def theirs(tokens: int) -> None:
        engine.sampling = SamplingConfig(tokens)
        engine.update_weights()  # as before every window: its caches are empty
        engine.generate(embedded, options.group, seeds)

    return {"avrt": ours, "vllm": theirs}, length


def _config(folder: Path) -> StudentConfig:
    return StudentConfig(path=str(folder), dtype="float32", min_pixels=TOKEN_PIXELS, max_pixels=10**7)


def report(options: Namespace, contestants: dict[str, Sampler], length: int) -> None:
    """Time both in alternation and print tokens per second."""
    ours, peer = contestants

    def sampling(name: str, tokens: int) -> Callable[[], None]:
        return lambda: contestants[name](tokens)

    times = alternate(
        {name: sampling(name, options.response) for name in contestants}
        | {f"{name} prefill": sampling(name, 1) for name in contestants},
        options.rounds,
    )
    tokens = options.prompts * options.group * options.response
    decode = {
        name: Timing(
            [max(a - b, 1e-9) for a, b in zip(times[name].seconds, times[f"{name} prefill"].seconds, strict=True)]
        )
        for name in contestants
    }
    speedup, low, high = paired_ratio(times[peer], times[ours])
    decode_ratio, decode_low, decode_high = paired_ratio(decode[peer], decode[ours])
    show(
        f"rollout: {options.prompts} prompts of {length} tokens, response {options.response}, G {options.group}",
        ["", "tokens/s", "decode tokens/s", "spread s"],
        [[name, tokens / times[name].median, tokens / decode[name].median, times[name].spread] for name in contestants]
        + [["speedup", speedup, decode_ratio, f"{low:.3g} to {high:.3g}"]],
    )
    save(
        options.json,
        {
            "benchmark": "rollout",
            "speedup": speedup,
            "speedup_range": [low, high],
            "decode_speedup": decode_ratio,
            "decode_speedup_range": [decode_low, decode_high],
            "seconds": {name: timing.seconds for name, timing in times.items()},
            "shape": vars(options) | {"json": None},
        },
    )


if __name__ == "__main__":
    main()
