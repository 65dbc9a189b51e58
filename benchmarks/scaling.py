"""Growth of a step's time with group size, prompt and response: P + G*C, not G * (P + C).

    python -m benchmarks.scaling
    python -m benchmarks.scaling --part logprobs

Times the whole GRPO step (or the log-prob pass alone, forward and backward) over a grid of shapes, then fits the times
with the tokens of the shared row, P + G*C, and with those of one row per response, G * (P + C). A step also decodes C
times in sequence, so both of its fits get a term for C. The result is the ratio of the two fits' unexplained variances.
Attention adds another term, so neither fit is perfect. The peak memory of every shape is fitted in the same two ways.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch

from avrt.model.token_logprobs import token_logprobs
from benchmarks import students
from benchmarks.measure import Timing, alternate, parser, peak_memory_above, save, show
from benchmarks.models import Shape, language_model, random_ids, text_prompt

Run = Callable[[], object]


def main() -> None:
    args = parser(__doc__, rounds=3)
    args.add_argument("--part", choices=("step", "logprobs"), default="step")
    args.add_argument("--prompts", type=int, nargs="+", default=[256, 512, 1024])
    args.add_argument("--responses", type=int, nargs="+", default=[32, 128])
    args.add_argument("--groups", type=int, nargs="+", default=[2, 4, 8])
    options = args.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    grid = list(product(options.prompts, options.responses, options.groups))
    with tempfile.TemporaryDirectory() as folder:
        contestants = (_steps if options.part == "step" else _passes)(grid, Path(folder))
        runs = {f"{p} {c} {g}": run for (p, c, g), run in zip(grid, contestants, strict=True)}
        times = alternate(runs, options.rounds)
        memory = {name: peak_memory_above(run) for name, run in runs.items()}
    seconds = np.array([timing.median for timing in times.values()])
    shared = np.array([p + g * c for p, c, g in grid])
    separate = np.array([g * (p + c) for p, c, g in grid])
    decoded = np.array([c for _, c, _ in grid]) if options.part == "step" else None
    fits = {"P + G*C": _fit(shared, decoded, seconds), "G * (P + C)": _fit(separate, decoded, seconds)}
    ratio = fits["G * (P + C)"]["unexplained"] / fits["P + G*C"]["unexplained"]
    show(
        "GRPO step" if options.part == "step" else "log-prob pass, forward + backward",
        ["P C G", "P + G*C", "G*(P + C)", "median s", "us per token of P + G*C", "peak MB"],
        [
            [name, int(a), int(b), float(s), float(1e6 * s / a), f"{memory[name] / 1e6:.0f}"]
            for name, a, b, s in zip(runs, shared, separate, seconds, strict=True)
        ],
    )
    show(
        "seconds = intercept + slope * tokens" + (" + decode * C" if decoded is not None else ""),
        ["tokens", "us per token", "us per decoding step", "intercept s", "R2"],
        [[name, 1e6 * f["slope"], 1e6 * f["decode"], f["intercept"], 1 - f["unexplained"]] for name, f in fits.items()],
    )
    peaks = np.array(list(memory.values()), dtype=float)
    memory_fits = {"P + G*C": _fit(shared, None, peaks), "G * (P + C)": _fit(separate, None, peaks)}
    show(
        "peak bytes = intercept + slope * tokens",
        ["tokens", "kB per token", "intercept MB", "R2"],
        [[name, f["slope"] / 1e3, f["intercept"] / 1e6, 1 - f["unexplained"]] for name, f in memory_fits.items()],
    )
    _save(options, grid, runs, times, memory, fits | {f"memory, {k}": f for k, f in memory_fits.items()}, ratio)


def _passes(grid: list[tuple[int, int, int]], _: Path) -> list[Run]:
    """The log-prob pass of every shape, on one model."""
    model = language_model(Shape())
    generator = torch.Generator().manual_seed(0)

    def contestant(p: int, c: int, g: int) -> Run:
        prompt = text_prompt(random_ids(Shape(), p, generator))
        responses = [random_ids(Shape(), c, generator) for _ in range(g)]
        return lambda: token_logprobs(model, [prompt], [responses]).logprobs.sum().backward()

    return [contestant(*shape) for shape in grid]


def _steps(grid: list[tuple[int, int, int]], folder: Path) -> list[Run]:
    """The whole step of every shape."""
    students.save_student(folder, Shape())
    generator = torch.Generator().manual_seed(0)
    prompts = {p: students.text_prompt(random_ids(Shape(), p, generator)) for p, _, _ in grid}
    return [students.OurStep(folder, [prompts[p]], g, c) for p, c, g in grid]


def _fit(tokens: np.ndarray, decoded: np.ndarray | None, seconds: np.ndarray) -> dict[str, float]:
    """Least squares, and the share of the variance that is left unexplained."""
    columns = [tokens, np.ones_like(tokens)] + ([] if decoded is None else [decoded])
    terms = np.stack(columns, axis=1).astype(float)
    weights, *_ = np.linalg.lstsq(terms, seconds, rcond=None)
    return {
        "slope": float(weights[0]),
        "intercept": float(weights[1]),
        "decode": 0.0 if decoded is None else float(weights[2]),
        "unexplained": float((seconds - terms @ weights).var() / seconds.var()),
    }


def _save(
    options: Namespace,
    grid: list[tuple[int, int, int]],
    runs: dict[str, Run],
    times: dict[str, Timing],
    memory: dict[str, int],
    fits: dict[str, dict[str, float]],
    ratio: float,
) -> None:
    save(
        options.json,
        {
            "benchmark": f"scaling_{options.part}",
            "ratio": ratio,
            "fits": fits,
            "points": [
                {"prompt": p, "response": c, "group": g, "seconds": times[name].seconds, "peak_bytes": memory[name]}
                for (p, c, g), name in zip(grid, runs, strict=True)
            ],
        },
    )


if __name__ == "__main__":
    main()
