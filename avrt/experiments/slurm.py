"""A shell script that queues every stage with Slurm, each behind those that it needs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from avrt.experiments.stages import Stage
from avrt.experiments.state import is_complete
from avrt.files.atomic import write_atomic

WITH_GPUS = ("sft", "grpo", "evaluate")
"""Kinds of stages that get the options for GPUs."""

_HEAD = """\
#!/bin/sh
# Queues the stages of an experiment with Slurm: sh {name}
# Run it in the folder that the paths below start from. A stage that fails leaves those behind it in the queue as
# DependencyNeverSatisfied: cancel them (scancel), remove the cause, write the script again and run it. Complete stages
# are not queued again. At the end: {results}
set -eu
"""


def write_script(file: Path, stages: Sequence[Stage], words: Sequence[str], options: str, logs: Path) -> int:
    """Write the script.

    Args:
        file: the script.
        stages: each behind those that it needs.
        words: the words after ``python -m avrt`` to which ``--stage NAME`` is added.
        options: options of sbatch for the stages that train or evaluate.
        logs: folder of the jobs' logs.

    Returns:
        The number of jobs.
    """
    command = ["python", "-m", "avrt", *words]
    lines = [_HEAD.format(name=file.name, results=shlex.join([*command, "--results"]))]
    lines.append(f"mkdir -p {shlex.quote(str(logs))}")
    numbers: dict[str, int] = {}
    for stage in stages:
        if is_complete(stage):
            continue
        numbers[stage.name] = len(numbers)
        before = ":".join(f"$job{numbers[name]}" for name in stage.needs if name in numbers)
        job = ["sbatch", "--parsable", f"--job-name={stage.name}", f"--output={logs}/{stage.name}-%j.log"]
        wrapped = shlex.join([*command, "--stage", stage.name])
        parts = [shlex.join(job)]
        parts += [f"--dependency=afterok:{before}"] if before else []
        parts += [shlex.join(shlex.split(options))] if options and stage.kind in WITH_GPUS else []
        parts.append(f"--wrap={shlex.quote(wrapped)}")
        lines.append(f"job{numbers[stage.name]}=$({' '.join(parts)})")
    lines.append(f'echo "{len(numbers)} jobs"')
    write_atomic(file, ("\n".join(lines) + "\n").encode())
    return len(numbers)
