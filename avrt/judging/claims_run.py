"""A whole run of ``avrt claims``: all replies of some evaluations are judged, then counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from avrt.evaluation.records.record import Record
from avrt.evaluation.scoring import BenchmarkRun, score_run
from avrt.evaluation.statistics import clustered_interval
from avrt.files.atomic import write_atomic
from avrt.files.folder_lock import FolderLock
from avrt.judging.asking import ask
from avrt.judging.claims import CLAIMS_FILE, STREAMS, ReplyClaims
from avrt.judging.claims_config import ClaimsConfig
from avrt.judging.claims_planner import CLAIMS, ReplyPlanner
from avrt.servers.config import under_key
from avrt.traces.ledger import LedgerError, LedgerIndex

LEDGER = "ledger"


@dataclass(frozen=True)
class ClaimsShare:
    """Replies of one benchmark of a run that claim something of a stream.

    Attributes:
        run, benchmark, modalities: the evaluation.
        stream: ``seen`` or ``heard``.
        withheld: the model did not get that stream.
        claiming, judged: replies that claim something, and replies with a verdict.
        interval: 95 % of the share, by clip.
    """

    run: str
    benchmark: str
    modalities: str
    stream: str
    withheld: bool
    claiming: int
    judged: int
    interval: tuple[float, float]


def run_claims(
    config: ClaimsConfig, runs: Sequence[str | Path], out: str | Path, *, retry_rejected: bool = False
) -> list[ClaimsShare]:
    """Judge all replies of finished evaluations, and write ``claims.jsonl``. Recorded calls are not repeated.

    Args:
        config: the servers.
        runs: folders of runs, or of one benchmark of a run.
        out: folder of ``claims.jsonl`` and of the ledger of calls.
        retry_rejected: repeat calls that a server refused permanently.

    Returns:
        The shares of each benchmark of each run.

    Raises:
        ValueError: no run, an unfinished one, servers that cannot be used, missing calls.
        OSError: the disk is full or failing.
    """
    with under_key("judge"):
        config.judge.read_api_key()
    scored = [benchmark for run in runs for benchmark in score_run(run)]
    out = Path(out)
    with FolderLock(out / LEDGER, CLAIMS):
        planner = ReplyPlanner(config, scored, out / LEDGER)
        if planner.count(CLAIMS):
            ask(CLAIMS, planner, retry_rejected=retry_rejected)
        ledger = LedgerIndex(out / LEDGER)
        if missing := sum(planner.answer(CLAIMS, number, ledger).is_open for number in range(planner.count(CLAIMS))):
            raise LedgerError(f"{out / LEDGER}: {missing} calls are missing; run the same command again")
        judged = [planner.claims(number, ledger) for number in range(planner.count(CLAIMS))]
        lines = [json.dumps(asdict(claims), ensure_ascii=False) + "\n" for claims in judged]
        write_atomic(out / CLAIMS_FILE, "".join(lines).encode())
    return _shares(scored, planner.records, judged)


def _shares(
    scored: Sequence[BenchmarkRun], records: Sequence[tuple[BenchmarkRun, Record]], judged: Sequence[ReplyClaims]
) -> list[ClaimsShare]:
    shares = []
    for run in scored:
        own = [
            (record, claims)
            for (other, record), claims in zip(records, judged, strict=True)
            if other is run and claims.seen is not None
        ]
        for stream in STREAMS:
            values = [bool(getattr(claims, stream)) for _, claims in own]
            shares.append(
                ClaimsShare(
                    run=run.info.run,
                    benchmark=run.info.benchmark,
                    modalities=run.info.modalities,
                    stream=stream,
                    withheld=STREAMS[stream] not in run.info.modalities,
                    claiming=sum(values),
                    judged=len(values),
                    interval=clustered_interval(values, [record.clip for record, _ in own]) if own else (0.0, 1.0),
                )
            )
    return shares
