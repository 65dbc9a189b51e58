"""Log-probabilities of a group's responses, forward and backward: shared prompt against one prompt per response.

    python -m benchmarks.logprobs --prompt 3072 --response 128 --group 8

The other side is the usual computation: rows of prompt + response, and the logits of all response tokens at once.
"""

from __future__ import annotations

from argparse import Namespace

import torch
from torch import Tensor

from avrt.model.token_logprobs import token_logprobs
from benchmarks.measure import alternate, in_fresh_process, paired_ratio, parser, peak_memory_above, save, show
from benchmarks.models import Shape, language_model, random_ids, text_only_model, text_prompt


def main() -> None:
    args = parser(__doc__, rounds=5)
    args.add_argument("--prompt", type=int, default=3072)
    args.add_argument("--response", type=int, default=128)
    args.add_argument("--group", type=int, default=8)
    args.add_argument("--vocabulary", type=int, default=8192)
    args.add_argument("--memory-vocabulary", type=int, default=150_000, help="for the memory comparison; 0: skip it")
    options = args.parse_args()
    torch.set_num_threads(options.threads)

    ours, theirs = _contestants(options.vocabulary, options.prompt, options.response, options.group)
    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=0)
    times = alternate({"shared": ours, "plain": theirs}, options.rounds)
    speedup, low, high = paired_ratio(times["plain"], times["shared"])
    rows = [[name, timing.median, timing.spread] for name, timing in times.items()]
    show(
        f"log-probs forward + backward, prompt {options.prompt}, response {options.response}, G {options.group}",
        ["", "median s", "spread s"],
        [*rows, ["speedup", speedup, f"{low:.3g} to {high:.3g}"]],
    )
    result = {
        "benchmark": "logprobs",
        "speedup": speedup,
        "speedup_range": [low, high],
        "seconds": {name: timing.seconds for name, timing in times.items()},
        "shape": vars(options) | {"json": None},
    }
    if options.memory_vocabulary:
        result["memory"] = memory = _memory(options)
        show(
            f"peak memory above weights and their gradients, vocabulary {options.memory_vocabulary}",
            ["", "MB"],
            [[name, f"{value / 1e6:.0f}"] for name, value in memory.items() if name != "ratio"]
            + [["plain / shared", memory["ratio"]]],
        )
    save(options.json, result)


def _contestants(vocabulary: int, prompt: int, response: int, group: int):  # type: ignore[no-untyped-def]
    shape = Shape(vocab_size=vocabulary)
    generator = torch.Generator().manual_seed(0)
    peer = text_only_model(shape)
    model = language_model(shape, peer)
    ids = random_ids(shape, prompt, generator)
    responses = [random_ids(shape, response, generator) for _ in range(group)]

    def shared() -> Tensor:
        scores = token_logprobs(model, [text_prompt(ids)], [responses])
        loss = (scores.logprobs * scores.mask).sum()
        loss.backward()
        return loss.detach()

    rows = torch.stack([torch.cat([ids, r]) for r in responses])

    def plain() -> Tensor:
        logits = peer(rows, attention_mask=torch.ones_like(rows), logits_to_keep=response + 1, use_cache=False).logits
        logprobs = logits[:, :-1].log_softmax(-1)
        with torch.no_grad():  # the entropy that everybody logs
            -(logprobs.exp() * logprobs).sum(-1)
        loss = logprobs.gather(-1, rows[:, -response:, None]).sum()
        loss.backward()
        return loss.detach()

    return shared, plain


def _memory(options) -> dict[str, float]:  # type: ignore[no-untyped-def]
    peaks = {name: float(in_fresh_process(_peak, name, options)) for name in ("shared", "plain")}
    return peaks | {"ratio": peaks["plain"] / peaks["shared"]}


def _peak(name: str, options: Namespace) -> int:
    """Bytes of one side's second run, with the gradients of the first in place."""
    torch.set_num_threads(options.threads)
    shared, plain = _contestants(options.memory_vocabulary, options.prompt, options.response, options.group)
    run = {"shared": shared, "plain": plain}[name]
    run()
    return peak_memory_above(run)


if __name__ == "__main__":
    main()
