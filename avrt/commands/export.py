"""Write a trained student as a folder that transformers and vLLM load.

Takes a run's folder (its last complete checkpoint) or one checkpoint: plain, DeepSpeed ZeRO-2 or ZeRO-3, or with LoRA
adapters, which are merged. With --push-to-hub the folder is also uploaded to the Hugging Face Hub; RUN may then be a
folder that was exported before, without --out.
"""

from __future__ import annotations

import argparse

from avrt import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, or a .ckpt file or folder")
    parser.add_argument("--out", metavar="DIR", help="folder to write; must not exist or be empty")
    parser.add_argument("--config", metavar="FILE", help="the run's settings (default: the config.yaml that it saved)")
    parser.add_argument("--student", metavar="PATH", help="the student that the run started from, if it was moved")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="also upload to this model repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository of the Hub private")


def run(args: argparse.Namespace) -> int:
    """Export, and print what was exported."""
    from rich.console import Console

    from avrt.config.errors import UsageError
    from avrt.config.library_warnings import silence_libraries
    from avrt.model.export import export
    from avrt.model.hub_upload import check_exported, create_repository, upload_student

    silence_libraries()
    if not args.out and not args.push_to_hub:
        raise UsageError("--out: give the folder to write, or --push-to-hub to upload RUN, a folder exported before")
    if args.private and not args.push_to_hub:
        raise UsageError("--private: belongs to --push-to-hub")
    console = Console(stderr=True)
    if args.push_to_hub:
        if not args.out:
            check_exported(args.run)
        create_repository(args.push_to_hub, args.private)
    if args.out:
        checkpoint = export(args.run, args.out, args.config, args.student, args.push_to_hub)
        console.print(f"exported {checkpoint} to {args.out}", highlight=False, soft_wrap=True)
    if args.push_to_hub:
        address = upload_student(args.out or args.run, args.push_to_hub, f"Student trained with avrt {__version__}")
        console.print(f"uploaded to {address}", highlight=False, soft_wrap=True)
    return 0
