"""Lightning data modules for SFT, GRPO and benchmarks.

Start in `base.py` (`ShardDataModule`), which `sft.py` and `grpo.py` specialize; `benchmark.py` serves evaluation.
`sources.py` opens the shards, `order.py` plans the order of the samples, `windows.py` cuts it into optimizer steps and
resumes at any of them, `streaming.py` is the webdataset pipeline of a data worker, `workers.py` reads ahead in
processes.
"""
