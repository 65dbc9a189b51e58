"""One judgment as ``verdicts.jsonl`` stores it: a JSON object per line.

``verdicts.jsonl`` has one line for each question that the judge was asked, whether it gave a verdict or not, sorted by
mode, sample and set. It is written anew from the ledger at the end of each run, and scores are computed from it alone.

================== =================================================================================================
key                value
================== =================================================================================================
``mode``           ``individual``: one trace; ``head_to_head``: two traces of one sample; ``source``: where the false
                   claims of a trace that was judged as hallucinating come from
``sample``         id of the sample
``source``         name of its clip; samples with equal `source` share a clip
``set``            name of the set whose trace is judged; in ``head_to_head`` of the one shown as trace A
``against``        ``head_to_head``: name of the set shown as trace B; else empty
``trace_sha256``   SHA-256 of the judged trace's text (UTF-8), in ``head_to_head`` of trace A
``against_sha256`` the same of trace B, else empty
``streams``        streams that the judge got: ``AV``, ``A``, ``V`` or empty
``status``         ``ok``; ``bad_json``: no reply was a valid verdict; ``missing``: not asked yet; or another status of
                   `avrt.servers.outcome.Status`: ``length``, ``interrupted``, ``rejected``, ``gave_up``
``bad_replies``    replies before the last one that were not valid verdicts, plus the last one if it is not
``error``          why there is no verdict; empty if there is one
``key``            key of the last call in the ledger
``verdict``        the judge's reply, checked against `avrt.judging.schema`; null unless `status` is ``ok``
================== =================================================================================================

The keys of ``verdict`` by mode (names and words as in the paper's prompts):

* ``individual``: ``verdict`` (``ACCURATE``, ``MISSING_INFO`` or ``HALLUCINATING``), ``audio_grounded`` and
  ``visual_grounded`` (true or false), ``hallucinated_claims`` (texts), ``confidence`` (0 to 1), ``explanation``.
* ``head_to_head``: ``winner`` (``A``, ``B`` or ``Tie``), ``confidence``, ``explanation``, and for each of the two
  traces ``trace_a_verdict``, ``trace_a_audio_grounded``, ``trace_a_visual_grounded``, ``trace_b_...``. Each sample is
  judged in both orders, so it has two lines, with `set` and `against` exchanged.
* ``source``: ``hallucination_source`` (``VISION_TEACHER``, ``AUDIO_TEACHER``, so on for every teacher's name,
  ``BOTH_TEACHERS`` or with more than two teachers ``SEVERAL_TEACHERS``, ``MERGER``), ``hallucinated_claims`` (texts),
  ``source_per_claim`` (one source per claim), ``vision_teacher_accurate``, ``audio_teacher_accurate``, ...,
  ``merger_faithful`` (true or false), ``confidence``, ``explanation``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from avrt.files.atomic import write_atomic
from avrt.files.json_rows import read_json_rows

Mode = Literal["individual", "head_to_head", "source"]
MODES: tuple[Mode, ...] = get_args(Mode)

VERDICTS_FILE = "verdicts.jsonl"
SCORES_FILE = "judgments.json"

ACCURATE, MISSING_INFO, HALLUCINATING = "ACCURATE", "MISSING_INFO", "HALLUCINATING"
VERDICTS = (ACCURATE, MISSING_INFO, HALLUCINATING)

INDIVIDUAL, HEAD_TO_HEAD, SOURCE = MODES

TIE = "tie"
"""In scores, in the place of a set's name."""

OK, BAD_JSON, MISSING = "ok", "bad_json", "missing"
"""Values of `VerdictRecord.status` besides those of the ledger."""


@dataclass(frozen=True)
class VerdictRecord:
    """One line of ``verdicts.jsonl``; see the module's table."""

    mode: Mode
    sample: str
    source: str
    set: str
    against: str
    trace_sha256: str
    against_sha256: str
    streams: str
    status: str
    bad_replies: int
    error: str
    key: str
    verdict: dict[str, Any] | None


def digest_of(trace: str) -> str:
    """The SHA-256 by which a record names the text that was judged."""
    return hashlib.sha256(trace.encode("utf-8", "surrogatepass")).hexdigest()


def write_verdicts(path: Path, records: Iterable[VerdictRecord]) -> None:
    """Write ``verdicts.jsonl``; the order of `records` does not matter."""
    ordered = sorted(records, key=lambda r: (MODES.index(r.mode), r.sample, r.set, r.against))
    lines = (json.dumps(vars(record), ensure_ascii=False) + "\n" for record in ordered)
    write_atomic(path, "".join(lines).encode("utf-8", "backslashreplace"))


def read_verdicts(path: Path) -> list[VerdictRecord]:
    """The records of a ``verdicts.jsonl``.

    Raises:
        ValueError: a line is not a record; file and line are named.
    """
    names = {field.name for field in fields(VerdictRecord)}
    records = []
    for number, row in enumerate(read_json_rows(path), start=1):
        well_formed = set(row) == names and row["mode"] in MODES and isinstance(row["bad_replies"], int)
        texts = names - {"verdict", "bad_replies"}
        if (
            not well_formed
            or not all(isinstance(row[name], str) for name in texts)
            or (row["status"] == OK) != isinstance(row["verdict"], dict)
        ):
            raise ValueError(f"{path}: entry {number} is not a record of `avrt judge`; run it again to write the file")
        records.append(VerdictRecord(**row))
    return records
