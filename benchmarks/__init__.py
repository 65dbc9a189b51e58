"""Benchmarks, one command each: ``python -m benchmarks.<name> [--json FILE]``.

Every figure is a ratio of two programs that ran in alternation in one process, so that a busy machine slows both.
"""
