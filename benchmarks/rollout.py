"""Tokens per second of the rollout against transformers' `generate` with `num_return_sequences`.

    python -m benchmarks.rollout --prompt 1536 --response 128 --group 8 --prompts 2

Same weights, same lengths. ``decode`` is the time per token after the prefill (the difference to a rollout of one
token), which must not be slower than transformers' own on the same batch.
"""

from __future__ import annotations

import torch

from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig
from benchmarks.measure import Timing, alternate, paired_ratio, parser, save, show
from benchmarks.models import Shape, language_model, random_ids, text_only_model, text_prompt


def main() -> None:
    args = parser(__doc__, rounds=3)
    args.add_argument("--prompt", type=int, default=1536)
    args.add_argument("--response", type=int, default=128)
    args.add_argument("--group", type=int, default=8)
    args.add_argument("--prompts", type=int, default=2)
    options = args.parse_args()
    torch.set_num_threads(options.threads)
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

    times = alternate(
        {
            "avrt": lambda: ours(options.response),
            "transformers": lambda: theirs(options.response),
            "avrt prefill": lambda: ours(1),
            "transformers prefill": lambda: theirs(1),
        },
        options.rounds,
    )
    tokens = options.prompts * options.group * options.response
    decode = {
        name: Timing(
            [max(a - b, 1e-9) for a, b in zip(times[name].seconds, times[f"{name} prefill"].seconds, strict=True)]
        )
        for name in ("avrt", "transformers")
    }
    speedup, low, high = paired_ratio(times["transformers"], times["avrt"])
    decode_ratio, decode_low, decode_high = paired_ratio(decode["transformers"], decode["avrt"])
    show(
        f"rollout: {options.prompts} prompts of {options.prompt} tokens, response {options.response}, "
        f"G {options.group}",
        ["", "tokens/s", "decode tokens/s", "spread s"],
        [
            [name, tokens / times[name].median, tokens / decode[name].median, times[name].spread]
            for name in ("avrt", "transformers")
        ]
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
