"""A whole GRPO step: rollout, rewards, reference, loss, backward, optimizer.

    python -m benchmarks.grpo_step --peer trl --prompt 1536 --response 128 --group 8
    python -m benchmarks.grpo_step --peer naive --group 4

``trl``: text prompts against TRL's GRPOTrainer with its transformers rollout, same weights, same lengths.
``naive``: audio-visual prompts against a step as in other implementations (see `benchmarks.naive_step`), by default
with frames as large as the presets allow.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import alternate, paired_ratio, parser, save, show
from benchmarks.models import Shape, text_only_model
from benchmarks.naive_step import NaiveStep, audio_visual_prompts
from benchmarks.students import WORD, OurStep, save_student, text_prompt, tokenizer
from benchmarks.trl_step import TRLStep


def main() -> None:
    args = parser(__doc__, rounds=3)
    args.add_argument("--peer", choices=("trl", "naive"), required=True)
    args.add_argument("--prompt", type=int, default=1536, help="tokens of a text prompt (peer trl)")
    args.add_argument("--response", type=int, default=128)
    args.add_argument("--group", type=int, default=8)
    args.add_argument("--prompts", type=int, default=1, help="prompts per step")
    args.add_argument("--frame-size", type=int, default=756, help="side of the square frames in pixels (peer naive)")
    args.add_argument(
        "--passes",
        type=int,
        choices=(3, 4),
        default=4,
        help="peer naive: 4 adds a separate pass for the old policy, as in frameworks that always run one",
    )
    options = args.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    with tempfile.TemporaryDirectory() as folder:
        ours, peer, tokens = (_against_trl if options.peer == "trl" else _against_naive)(options, Path(folder))
        times = alternate({"avrt": ours, options.peer: peer}, options.rounds)
    speedup, low, high = paired_ratio(times[options.peer], times["avrt"])
    show(
        f"GRPO step: {options.prompts} prompt(s) of {tokens} tokens, response {options.response}, G {options.group}",
        ["", "median s", "spread s"],
        [[name, timing.median, timing.spread] for name, timing in times.items()]
        + [["speedup", speedup, f"{low:.3g} to {high:.3g}"]],
    )
    save(
        options.json,
        {
            "benchmark": f"grpo_step_{options.peer}",
            "speedup": speedup,
            "speedup_range": [low, high],
            "seconds": {name: timing.seconds for name, timing in times.items()},
            "shape": {
                "prompt": tokens,
                "response": options.response,
                "group": options.group,
                "prompts": options.prompts,
                "passes": options.passes if options.peer == "naive" else None,
            },
        },
    )


Contestants = tuple[Callable[[], float], Callable[[], float], int]


def _against_trl(options, folder: Path) -> Contestants:  # type: ignore[no-untyped-def]
    shape = Shape()
    save_student(folder / "student", shape)
    text = WORD * options.prompt
    ids = torch.tensor(tokenizer()(text, add_special_tokens=False)["input_ids"])
    assert len(ids) == options.prompt, "the benchmark's word is not one token"
    ours = OurStep(folder / "student", [text_prompt(ids)] * options.prompts, options.group, options.response)
    text_only_model(shape).save_pretrained(folder / "peer")
    peer = TRLStep(folder / "peer", tokenizer(), [text] * options.prompts, options.group, options.response)
    return ours, peer, options.prompt


def _against_naive(options, folder: Path) -> Contestants:  # type: ignore[no-untyped-def]
    # Encoders as deep as the language model and 5/8 as wide, as in Qwen2.5-Omni-3B.
    save_student(folder, Shape(), vision_layers=4, audio_layers=4, width=160)
    prompts = audio_visual_prompts(folder, options.prompts, options.frame_size)
    ours = OurStep(folder, prompts, options.group, options.response)
    naive = NaiveStep(folder, prompts, options.group, options.response, old_policy_pass=options.passes == 4)
    return ours, naive, len(prompts[0].input_ids)


if __name__ == "__main__":
    main()
