"""The filter's decisions on all samples of a trace run: counts, distributions, and a random choice per reason."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avrt.data.annotations.reading import read_annotations
from avrt.data.shards import ShardSet
from avrt.sample import Sample
from avrt.servers.config import Model
from avrt.text.answers import answer_body
from avrt.traces.call_planner import CallPlanner
from avrt.traces.config import TracesConfig
from avrt.traces.decisions import Decided, decide
from avrt.traces.filter_rules import MISSING
from avrt.traces.ledger import LedgerIndex
from avrt.traces.statistics import CertaintyStatistics, SplitStatistics, token_counter
from avrt.traces.verdicts import digest_of

KEPT = "kept"


class TraceRun:
    """A trace run's settings, shards and ledger, for reading.

    Args:
        config: checked settings.
    """

    def __init__(self, config: TracesConfig) -> None:
        self.config = config
        self.shards = ShardSet(config.shards, split=config.split)
        self.planner = CallPlanner(config, self.shards)
        self.ledger = LedgerIndex(config.ledger)
        self.models: dict[str, Model] = self.planner.models
        self.prompts: dict[str, str] = self.planner.prompts

    @property
    def stages(self) -> list[str]:
        """Names of teachers and merger, in order."""
        return list(self.models)

    def decide(self, index: int) -> Decided:
        """One sample, its recorded replies, and what the filter makes of them."""
        return decide(self.planner, self.ledger, index)


@dataclass
class Distribution:
    """Samples by what Figure 0.B.4 counts."""

    question_types: Counter[str] = field(default_factory=Counter)
    answer_letters: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        self.question_types[sample.question_type or "unknown"] += 1
        self.answer_letters[sample.gold] += 1
        self.modalities[sample.modality or "unknown"] += 1

    def shares(self) -> dict[str, dict[str, float]]:
        """Shares in percent, in the layout of `avrt.traces.statistics.SplitStatistics.summary`."""
        total = self.question_types.total()
        return {
            name: {value: 100 * count / total for value, count in sorted(counts.items())}
            for name, counts in vars(self).items()
        }


@dataclass
class Survey:
    """All samples of a run, counted.

    Attributes:
        considered: number of samples.
        reasons: samples by the filter's reason; ``kept`` first.
        outcomes: how each stage's calls ended, by stage.
        splits: statistics of the kept traces by split, in the layout of ``statistics.json``.
        unit: what lengths are counted in.
        input: distribution of all samples.
        kept: distribution of the kept ones.
        chosen: indices of the samples to show, by reason.
        missing: calls that are not made yet.
        traces: sample id and SHA-256 of every kept trace, as verdicts name them.
        certainty: by teacher with several samples, as in ``statistics.json``.
    """

    considered: int
    reasons: dict[str, int]
    outcomes: dict[str, Counter[str]]
    splits: dict[str, dict[str, Any]]
    unit: str
    input: Distribution
    kept: Distribution
    chosen: dict[str, list[int]]
    missing: int
    traces: set[tuple[str, str]]
    certainty: dict[str, dict[str, Any]]


def survey(run: TraceRun, per_reason: int, seed: int, on_sample: Callable[[int, int], None] | None = None) -> Survey:
    """Decide on every sample, count, and choose some samples per reason at random.

    The choice depends on the seed and the samples' ids alone, so that a run that is still going on shows the same
    samples again, as far as their reason stays the same.

    Args:
        per_reason: samples to show per reason, at most.
        on_sample: called with the number of samples done and of all, for a progress bar.
    """
    count_tokens, unit = token_counter(run.config.tokenizer)
    reasons: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {stage: Counter() for stage in run.stages}
    splits: dict[str, SplitStatistics] = {}
    everything, kept = Distribution(), Distribution()
    traces: set[tuple[str, str]] = set()
    certainty: dict[str, CertaintyStatistics] = {}
    chosen: dict[str, list[tuple[int, int]]] = {}
    total = len(run.shards)
    for index in range(total):
        decided = run.decide(index)
        reasons[decided.reason] += 1
        for stage, outcome in decided.outcomes.items():
            outcomes[stage][outcome] += 1
        everything.add(decided.sample)
        for name, reply in decided.replies.items():
            if len(reply.samples) > 1 and not reply.missing:
                certainty.setdefault(name, CertaintyStatistics()).add(reply)
        if decided.trace is not None:
            kept.add(decided.sample)
            traces.add((decided.sample.id, digest_of(decided.trace)))
            letter = answer_body(decided.trace) or decided.trace
            statistics = splits.setdefault(decided.split, SplitStatistics())
            statistics.add(run.shards.record(index), decided.trace, letter, count_tokens)
        heap = chosen.setdefault(decided.reason, [])
        heapq.heappush(heap, (-_place(seed, decided.sample.id), -index))
        if len(heap) > per_reason:
            heapq.heappop(heap)
        if on_sample is not None:
            on_sample(index + 1, total)
    ordered = sorted(reasons, key=lambda reason: (reason != KEPT, -reasons[reason], reason))
    return Survey(
        considered=total,
        reasons={reason: reasons[reason] for reason in ordered},
        outcomes=outcomes,
        splits={name: splits[name].summary() for name in sorted(splits)},
        unit=unit,
        input=everything,
        kept=kept,
        chosen={reason: sorted(-index for _, index in chosen[reason]) for reason in ordered},
        missing=sum(counts[MISSING] for counts in outcomes.values()),
        traces=traces,
        certainty={name: found.summary() for name, found in certainty.items()},
    )


def distribution_of(files: Sequence[str | Path]) -> Distribution:
    """The distribution of all questions in annotation files, such as AVQA's ``train_qa.json`` and ``val_qa.json``.

    Raises:
        ValueError: a file is not one that `read_annotations` knows.
    """
    distribution = Distribution()
    for file in files:
        for sample in read_annotations(file).samples:
            distribution.add(sample)
    return distribution


def _place(seed: int, sample_id: str) -> int:
    """A sample's place in a random order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()[:8], "big")
