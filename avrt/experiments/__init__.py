"""Ablations as experiments: arms, expanded into stages of public commands, run or queued, and their tables."""
