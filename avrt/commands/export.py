"""Write a trained student as a folder that transformers and vLLM load.

Takes a run's folder (its last complete checkpoint) or one checkpoint: plain, DeepSpeed ZeRO-2 or ZeRO-3, or with LoRA
adapters, which are merged.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, or a .ckpt file or folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not exist or be empty")
    parser.add_argument("--config", metavar="FILE", help="the run's settings (default: the config.yaml that it saved)")
    parser.add_argument("--student", metavar="PATH", help="the student that the run started from, if it was moved")


def run(args: argparse.Namespace) -> int:
    """Export, and print what was exported."""
    from rich.console import Console

    from avrt.config.library_warnings import silence_libraries
    from avrt.model.export import export

    silence_libraries()
    checkpoint = export(args.run, args.out, args.config, args.student)
    console = Console(stderr=True)
    console.print(f"exported {checkpoint} to {args.out}", highlight=False, soft_wrap=True)
    return 0
