"""All measurements on one GPU in one command: ``python -m benchmarks.gpu``.

It needs one GPU of 80 GB or more, no network and no weights: the students have the published shapes of Qwen2.5-Omni 3B
and 7B and random weights, created on the GPU. Each part runs in a process of its own, so that one that fails, hangs or
runs out of memory costs only its own rows; the results are written to ``gpu.json`` after every part. Parts that need a
package which is not installed are skipped, with the reason.

Without a GPU, or with ``--miniature``, every part runs on the CPU with tiny shapes: that shows that the code runs, and
its figures mean nothing.
"""
