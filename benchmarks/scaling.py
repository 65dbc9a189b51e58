"""How the log-prob pass grows with group size, prompt and response: with P + G*C, not with G * (P + C).

    python -m benchmarks.scaling

Times the pass (forward and backward) over a grid of shapes, then explains the times once by the tokens of the shared
row, P + G*C, and once by those of one row per response, G * (P + C). The headline is how much better the first fits:
the ratio of the two fits' unexplained variances. Attention adds a term of its own, so neither fit is perfect.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from avrt.grpo.scoring import score_responses
from benchmarks.measure import alternate, parser, peak_memory_above, save, show
from benchmarks.models import Shape, language_model, random_ids, text_prompt


def main() -> None:
    args = parser(__doc__, rounds=3)
    args.add_argument("--prompts", type=int, nargs="+", default=[256, 512, 1024])
    args.add_argument("--responses", type=int, nargs="+", default=[32, 128])
    args.add_argument("--groups", type=int, nargs="+", default=[2, 4, 8])
    options = args.parse_args()
    torch.set_num_threads(options.threads)
    shape = Shape()
    model = language_model(shape)
    generator = torch.Generator().manual_seed(0)

    def contestant(p: int, c: int, g: int):  # type: ignore[no-untyped-def]
        prompt = text_prompt(random_ids(shape, p, generator))
        responses = [random_ids(shape, c, generator) for _ in range(g)]
        return lambda: score_responses(model, [prompt], [responses]).logprobs.sum().backward()

    grid = list(product(options.prompts, options.responses, options.groups))
    runs = {f"{p} {c} {g}": contestant(p, c, g) for p, c, g in grid}
    times = alternate(runs, options.rounds)
    memory = {name: peak_memory_above(run) for name, run in runs.items()}
    seconds = np.array([timing.median for timing in times.values()])
    shared = np.array([p + g * c for p, c, g in grid])
    separate = np.array([g * (p + c) for p, c, g in grid])
    fits = {"P + G*C": _fit(shared, seconds), "G * (P + C)": _fit(separate, seconds)}
    ratio = fits["G * (P + C)"]["unexplained"] / fits["P + G*C"]["unexplained"]
    show(
        "log-prob pass, forward + backward",
        ["P C G", "P + G*C", "G*(P + C)", "median s", "us per token of P + G*C", "peak MB"],
        [
            [name, int(a), int(b), float(s), float(1e6 * s / a), f"{memory[name] / 1e6:.0f}"]
            for name, a, b, s in zip(runs, shared, separate, seconds, strict=True)
        ],
    )
    show(
        "seconds = intercept + slope * tokens",
        ["tokens", "us per token", "intercept s", "R2"],
        [[name, 1e6 * f["slope"], f["intercept"], 1 - f["unexplained"]] for name, f in fits.items()],
    )
    save(
        options.json,
        {
            "benchmark": "scaling",
            "ratio": ratio,
            "fits": fits,
            "points": [
                {"prompt": p, "response": c, "group": g, "seconds": times[name].seconds, "peak_bytes": memory[name]}
                for (p, c, g), name in zip(grid, runs, strict=True)
            ],
        },
    )


def _fit(tokens: np.ndarray, seconds: np.ndarray) -> dict[str, float]:
    """Least-squares line, and the share of the variance that it leaves unexplained."""
    slope, intercept = np.polyfit(tokens, seconds, 1)
    residual = seconds - (slope * tokens + intercept)
    return {
        "slope": float(slope),
        "intercept": float(intercept),
        "unexplained": float(residual.var() / seconds.var()),
    }


if __name__ == "__main__":
    main()
