"""Claims in the replies of evaluations: found by a rule of the base, or by its judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from avrt.config.class_paths import import_object
from avrt.evaluation.records.record import Record
from avrt.experiments.plan import ExperimentPlan
from avrt.experiments.stages import Evaluation
from avrt.experiments.state import is_complete
from avrt.judging.claims import CLAIMS_FILE, ReplyClaims, read_claims
from avrt.traces.verdicts import digest_of

Claims = Callable[[Record, str], bool | None]
"""Whether a reply claims something of a stream, ``A`` or ``V``; None where the judge gave no verdict."""


def claims_of(plan: ExperimentPlan) -> Claims | None:
    """The claims of all replies; None where the base has neither a rule nor a judge.

    Raises:
        ValueError: the base's rule cannot be imported, or a line of ``claims.jsonl`` is damaged.
    """
    if plan.base.claims_rule:
        rule: Callable[[str, str], bool] = import_object(plan.base.claims_rule)
        return lambda record, stream: rule(record.text, stream)
    if not plan.base.claims_judge:
        return None
    found: dict[tuple[str, str, str], ReplyClaims] = {}
    for evaluation in plan.expansion.evaluations:
        if evaluation.claims and is_judged(plan, evaluation):
            for line in read_claims(plan.stages[evaluation.claims].folder / CLAIMS_FILE):
                found[line.benchmark, line.id, line.text_sha256] = line
    return lambda record, stream: _claims(found, record, stream)


def is_judged(plan: ExperimentPlan, evaluation: Evaluation) -> bool:
    """Whether an evaluation's replies can be counted: the base has a rule, or its judge is done with them."""
    return not plan.base.claims_judge or bool(evaluation.claims and is_complete(plan.stages[evaluation.claims]))


def _claims(found: Mapping[tuple[str, str, str], ReplyClaims], record: Record, stream: str) -> bool | None:
    if record.failure is not None or not record.text.strip():
        return False
    line = found.get((record.benchmark, record.id, digest_of(record.text)))
    statements = None if line is None else line.about(stream)
    return None if statements is None else bool(statements)
