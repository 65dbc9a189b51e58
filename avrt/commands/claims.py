"""Find what replies claim to have seen and heard, also where the model was not given it.

Evaluate a student with black frames or silent audio first (`--data.modalities A` or `V`). A model of your
choice then reads each reply and lists what it reports as seen and as heard. It gets no clip. After an interruption, the
same command continues. Every key of the config is an option too.

    python -m avrt claims --config cli_configs/claims.yaml --run runs/qwen2_5_omni_3b_A --out runs/claims/A
"""

from __future__ import annotations

import argparse

TAKES_SETTINGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config", action="append", metavar="FILE", help="the judge; a second file overrides the first"
    )
    parser.add_argument(
        "--run", action="append", required=True, metavar="DIR", help="a finished evaluation (repeatable)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of claims.jsonl and of the ledger of calls")
    parser.add_argument("--retry-rejected", action="store_true", help="repeat calls that were refused or interrupted")


def run(args: argparse.Namespace) -> int:
    """Ask the judge, and print the shares."""
    from avrt.judging.claims_config import load_claims_config

    config = load_claims_config(args.config or [], args.settings)

    from avrt.evaluation.terminal_tables import score_console
    from avrt.evaluation.text_tables import print_table
    from avrt.judging.claims_run import run_claims
    from avrt.judging.claims_table import claims_table

    shares = run_claims(config, args.run, args.out, retry_rejected=args.retry_rejected)
    print_table(claims_table(shares), score_console())
    return 0
