"""Lightning modules, strategy, callbacks and command line of training and evaluation runs.

Start in `grpo.py` or `sft.py`; both extend `training.py` (optimizer, checkpoints, exact resume). `evaluate.py` runs the
benchmarks. `cli.py` and `defaults.py` build a run from its config, `strategy.py` adapts DeepSpeed to Lightning, and
`callbacks` contains logging, checkpoints, export and preemption.
"""
