"""Serve a student's rollouts with vLLM, for GRPO on other GPUs or machines.

Start one per GPU with the student that the run starts from, and name their addresses in
`model.rollout` of the run. Needs the environment of docs/rollout.md. Serves until interrupted, and has no access
control: keep it on a private network.

    python -m avrt rollout-server --model Qwen/Qwen2.5-Omni-7B --weights /shared/weights --host 0.0.0.0 --port 8200
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--model", required=True, metavar="DIR", help="hub id or folder of the run's student")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="DIR",
        help="folder for new weights: shared with the run, or with transfer stream the server's own (/dev/shm/avrt)",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help="address to serve on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8200, metavar="N", help="port (default: 8200)")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of weights and computation"
    )
    parser.add_argument("--max-model-len", type=int, metavar="N", help="longest prompt with its response, in tokens")
    parser.add_argument(
        "--gpu-memory-utilization",
        type=float,
        default=0.9,
        metavar="X",
        help="share of the GPU's memory (default: 0.9)",
    )
    parser.add_argument(
        "--media-per-prompt", type=int, default=4, metavar="N", help="most images, videos and sounds, each (default: 4)"
    )
    parser.add_argument("--enforce-eager", action="store_true", help="no compilation and no CUDA graphs")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from pathlib import Path

    from avrt.rollout.vllm.server import serve

    serve(
        args.model,
        Path(args.weights),
        args.host,
        args.port,
        args.dtype,
        args.max_model_len,
        args.gpu_memory_utilization,
        args.media_per_prompt,
        args.enforce_eager,
    )
    return 0
