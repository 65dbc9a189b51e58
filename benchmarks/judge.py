"""How well a judge finds false claims and their source: recall and precision on demo traces with known false claims.

    python -m benchmarks.judge

Makes the demo's traces with the demo's teachers, puts false claims of each source into a share of them
(`avrt.demo.false_claims`), and has them judged by `python -m avrt judge`. By default the demo's own judge answers; the
options of `avrt judge` choose another one, such as ``--judge.base_urls='["http://host:8000/v1"]' --judge.model NAME``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections import Counter
from pathlib import Path

from avrt.cli import main as avrt
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.demo.build import build_demo_clips
from avrt.demo.false_claims import SOURCES, add_false_claims
from avrt.demo.servers import JUDGE_MODEL, server_url
from avrt.demo.trace_run import demo_server, traces_command
from avrt.evaluation.statistics import wilson_interval
from avrt.judging.schema import BOTH, MERGER, NONE, source_of_teacher
from avrt.servers.local_server import free_port
from avrt.traces.verdicts import HALLUCINATING, VERDICTS_FILE, read_verdicts

LABELS = {
    "none": NONE,
    "vision": source_of_teacher("vision"),
    "audio": source_of_teacher("audio"),
    "both": BOTH,
    "merger": MERGER,
}
"""Source of a false claim to the judge's word for it."""


def write_traces(folder: Path, port: int, clips: int, seed: int) -> tuple[Path, dict[str, str]]:
    """Shards of demo traces with false claims, and the source of each sample's."""
    files = build_demo_clips(folder / "clips", train_clips=clips, val_clips=16, questions_per_clip=3)
    annotations = ["--annotations", str(files.train_annotations), "--videos", str(files.videos), "--split", "train"]
    run(["pack", *annotations, "--out", str(folder / "shards")])
    words = traces_command(folder / "shards", folder / "ledger", folder / "traces", port=port)
    run([*words, "--variant", "unfiltered"])
    traces = ShardSet(folder / "traces" / "train")
    sources: dict[str, str] = {}
    with ShardWriter(folder / "judged") as writer:
        for index in range(len(traces)):
            sample = traces.metadata(index)
            sources[sample.id] = SOURCES[index % len(SOURCES)]
            writer.write(add_false_claims(sample, sources[sample.id], seed), traces.media(index))
    return folder / "judged", sources


def run(words: list[str]) -> None:
    """One command of ``avrt``; an error ends the program."""
    if status := avrt(words):
        raise SystemExit(status)


def attributed(verdicts: Path) -> dict[str, str]:
    """The source that the judge names for each sample; ``NONE`` for a trace that it does not find hallucinating."""
    found = {}
    for record in read_verdicts(verdicts):
        if record.verdict is None:
            continue
        if record.mode == "individual" and record.verdict["verdict"] != HALLUCINATING:
            found[record.sample] = NONE
        elif record.mode == "source":
            found[record.sample] = record.verdict["hallucination_source"]
    return found


def measure(sources: dict[str, str], found: dict[str, str]) -> dict[str, dict[str, float | list[float] | None]]:
    """Recall and precision of each source, with 95 % intervals."""
    pairs = Counter((LABELS[source], found.get(sample, "")) for sample, source in sources.items())
    rows: dict[str, dict[str, float | list[float] | None]] = {}
    for source, label in LABELS.items():
        hits = pairs[label, label]
        injected = sum(count for (true, _), count in pairs.items() if true == label)
        named = sum(count for (_, seen), count in pairs.items() if seen == label)
        rows[source] = {
            "injected": injected,
            "named": named,
            "recall": hits / injected if injected else None,
            "recall_interval": list(wilson_interval(hits, injected)),
            "precision": hits / named if named else None,
            "precision_interval": list(wilson_interval(hits, named)),
        }
    return rows


def main() -> None:
    """Make the traces, judge them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=112, help="clips, three questions each (default: 112)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args, options = parser.parse_known_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(None), demo_server(port):
        folder = Path(name)
        judged, sources = write_traces(folder, port, args.clips, args.seed)
        config = folder / "judge.yaml"
        judge = {"model": JUDGE_MODEL, "base_urls": [server_url(port)], "sampling": {"max_tokens": 1024}}
        settings = {"sets": {"demo": str(judged)}, "ledger": str(folder / "judge"), "output": str(folder / "judge")}
        config.write_text(json.dumps({**settings, "judge": judge}), encoding="utf-8")
        run(["judge", "--config", str(config), *options])
        found = attributed(folder / "judge" / VERDICTS_FILE)
    rows = measure(sources, found)
    print(f"{'source':<8} {'injected':>8} {'named':>6} {'recall':>7} {'precision':>9}")
    for source, row in rows.items():
        recall, precision = row["recall"], row["precision"]
        print(f"{source:<8} {row['injected']:>8} {row['named']:>6} {recall:>7.3f} {precision or 0:>9.3f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
