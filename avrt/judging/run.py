"""A whole judge's run: individual judgments, head to head, sources of hallucinations; then verdicts and scores."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from avrt.files.atomic import write_atomic
from avrt.files.folder_lock import LOCK_NAME, FolderLock
from avrt.files.json_text import decode_json
from avrt.judging.asking import ask
from avrt.judging.config import JudgeConfig
from avrt.judging.planner import JudgePlanner
from avrt.judging.scores import score_verdicts
from avrt.judging.trace_sets import open_sets
from avrt.servers.config import under_key
from avrt.servers.outcome import Status
from avrt.traces.ledger import LedgerError, LedgerIndex
from avrt.traces.verdicts import (
    MISSING,
    MODES,
    SCORES_FILE,
    VERDICTS_FILE,
    VerdictRecord,
    read_verdicts,
    write_verdicts,
)

log = logging.getLogger(__name__)

WRITE = "write"
STEPS: tuple[str, ...] = (*MODES, WRITE)
"""The modes, which call the judge, then verdicts and scores."""

ABOUT = ("left_out", "judge")
"""Keys of ``judgments.json`` that are not computed from verdicts."""

_UNFINISHED = (MISSING, Status.GAVE_UP.value)
"""Statuses of judgments that the next run makes."""


def run_judge(
    config: JudgeConfig, *, steps: Sequence[str] = STEPS, retry_rejected: bool = False
) -> dict[str, Any] | None:
    """Run some or all steps. Calls that the ledger has already are skipped.

    Args:
        config: the run's settings.
        steps: which of `STEPS`; they run in that order.
        retry_rejected: repeat calls that a server refused permanently.

    Returns:
        The scores if ``write`` is among the steps, else None.

    Raises:
        ValueError: a wrong setting, a damaged ledger or one in use, servers that cannot be used, a mode without a
            successful call, missing calls.
        OSError: the disk is full or failing.
    """
    config.check()
    if any(step != WRITE for step in steps):
        with under_key("judge"):
            config.judge.read_api_key()
    with ExitStack() as stack:
        stack.enter_context(FolderLock(config.ledger, "judge"))
        if WRITE in steps:
            stack.enter_context(_output_lock(config.output))
        planner = JudgePlanner(config, open_sets(config))
        for mode in planner.modes:
            if mode in steps:
                # Sources are asked about few traces, and those may be the ones that a judge cannot attribute.
                ask(mode, planner, retry_rejected=retry_rejected, may_all_fail=mode == "source")
        return _write(planner) if WRITE in steps else None


def _write(planner: JudgePlanner) -> dict[str, Any]:
    config = planner.config
    records = list(planner.records(LedgerIndex(config.ledger)))
    missing = Counter(record.mode for record in records if record.status in _UNFINISHED)
    if missing and not config.allow_missing:
        counts = ", ".join(f"{count} of {mode}" for mode, count in missing.items())
        raise LedgerError(
            f"{config.ledger}: calls are missing ({counts}); run the same command again, or set allow_missing to score "
            "the available verdicts"
        )
    output = Path(config.output)
    write_verdicts(output / VERDICTS_FILE, records)
    about = {
        "left_out": dict(sorted(planner.sets.left_out.items())),
        "judge": {
            "model": config.judge.resolve_model().name,
            "revision": config.judge.revision,
            "media": config.judge.media,
        },
    }
    return write_scores(output, records, planner.sets.names, about)


def score_again(folder: str) -> dict[str, Any]:
    """Compute the scores of a finished run again from its ``verdicts.jsonl``, and write ``judgments.json`` anew.

    Raises:
        ValueError: the folder has no verdicts, or one of its files is damaged.
    """
    output = Path(folder)
    try:
        records = read_verdicts(output / VERDICTS_FILE)
        earlier = decode_json((output / SCORES_FILE).read_bytes())
        names, about = earlier["sets"], {key: earlier[key] for key in ABOUT}
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: there is no such file; give the output folder of a judge's run") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{output / SCORES_FILE}: is not a file of `avrt judge`: lacks {error}") from error
    with _output_lock(output):
        return write_scores(output, records, names, about)


def _output_lock(output: str | Path) -> FolderLock:
    # Its own name, since the output may be the ledger's folder.
    return FolderLock(output, "judge", name=f".output{LOCK_NAME}")


def write_scores(
    output: Path, records: Sequence[VerdictRecord], names: Sequence[str], about: dict[str, Any]
) -> dict[str, Any]:
    """Compute the scores of records and write them to ``judgments.json``."""
    scores = {**about, **score_verdicts(records, names)}
    text = json.dumps(scores, indent=1, ensure_ascii=False) + "\n"
    write_atomic(output / SCORES_FILE, text.encode())
    return scores
