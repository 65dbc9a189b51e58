"""Summarize shards: counts, durations, question types, answer balance.

--show also writes one sample's frames, audio and text as files; --verify checks every byte.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "shards",
        nargs="+",
        metavar="SHARDS",
        help="folders of shards (or one with a folder per split), tar files or patterns",
    )
    parser.add_argument("--split", help="only this split")
    parser.add_argument("--verify", action="store_true", help="compare all bytes with their checksums")
    parser.add_argument("--show", metavar="KEY", help="write this sample's frames, audio and text to --out")
    parser.add_argument("--out", metavar="DIR", default="inspected", help="folder for --show (default: inspected)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the summary; exit status 1 if a shard is damaged."""
    import json
    from pathlib import Path

    from rich.console import Console

    from avrt.data.inspection import print_summary, summarize, write_sample
    from avrt.data.manifest import MANIFEST_NAME, folders_of_sets
    from avrt.data.shards import ShardSet

    console = Console()
    folders: list[str | Path] = []
    for item in args.shards:
        whole = not Path(item).is_dir() or (Path(item) / MANIFEST_NAME).exists()
        folders += [item] if whole else folders_of_sets(item) or [item]
    # Every fault is listed, so the first one must not stop the reading.
    shards = ShardSet(folders, split=args.split, verify=args.verify, scan=True, on_error="skip")
    summaries = summarize(shards)
    if args.json:
        faults = [str(fault) for fault in shards.faults]
        content = {"splits": {name: summary.as_dict() for name, summary in summaries.items()}, "faults": faults}
        console.print_json(json.dumps(content))
    else:
        print_summary(summaries, console)
        checked = "all bytes are as they were written" if args.verify else "headers and texts are intact"
        state = f"{len(shards.faults)} faults" if shards.faults else checked
        console.print(f"{len(shards)} samples in {len(shards.files)} shards: {state}", highlight=False)
        for fault in shards.faults:
            console.print(f"  {fault}", highlight=False, markup=False)
    if args.show is not None:
        for path in write_sample(shards, args.show, args.out):
            console.print(f"wrote {path}", highlight=False, markup=False)
    return 1 if shards.faults else 0
