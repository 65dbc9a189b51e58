"""Lightning data modules for SFT, GRPO and benchmarks.

Start in `base.py` (`ShardDataModule`), which `sft.py` and `grpo.py` specialize; `benchmark.py` serves evaluation.
`windows.py` orders the samples of each optimizer step and resumes at any step, `workers.py` reads ahead in processes.
"""
