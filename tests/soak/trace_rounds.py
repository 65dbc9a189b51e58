"""Rounds of a trace run: killed and started again over a failing model server, until it is done; then compared."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from avrt.traces.call_records import decode_record
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.soak.processes import END_SECONDS, Start
from tests.soak.tally import Problem, Tally
from tests.soak.weather import Clock, SmallDisk, small_disk
from tests.traces.question_set import answer, audio_right, kept, merge_formatted, vision_right, write_shards

SAMPLES = 400
CONCURRENCY = 4
LATENCY_SECONDS = 0.04
FAULTS = ("kill", "kill", "kill_all", "sigterm", "sigint", "suspend")
FAULTY_SHARE = 0.1
"""Share of first answers that are wrong."""

MOST_STARTS = 60
DISK_BYTES = 16 * 2**20
STAGES = ("vision", "audio", "merge")


class Models:
    """All three models behind one server; what it answers depends on the question alone, how often it fails on chance.

    Attributes:
        answered: whole, right answers by stage and question.
        faults: wrong answers by kind.
    """

    def __init__(self, rng: random.Random, faulty_share: float) -> None:
        self._rng, self._faulty_share = rng, faulty_share
        self._lock = threading.Lock()
        self.answered: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Whole, right answers so far."""
        with self._lock:
            return self.answered.total()

    def respond(self, body: dict[str, Any], text: str, times: int) -> Reply:
        kinds = {part["type"] for part in body["messages"][-1]["content"]}
        stage = "vision" if "image_url" in kinds else "audio" if "input_audio" in kinds else "merge"
        question = re.search(r"clip number (\d+)\?", text)
        assert question is not None
        with self._lock:
            # At most two wrong answers to one text, so that no call uses up its attempts.
            if times < 2 and self._rng.random() < self._faulty_share:
                fault = self._rng.choice(("429", "500", "503", "reset", "half_body", "broken_json"))
                self.faults[fault] += 1
                return Reply("busy", status=int(fault)) if fault.isdigit() else Reply("", fault=fault)
            self.answered[stage, question[1]] += 1
        return answer(body, text, times)


@dataclass(frozen=True)
class TraceRun:
    """One run of the config.

    Attributes:
        folder: for logs.
        output: for ledger and shards.
    """

    folder: Path
    output: Path
    shards: Path
    url: str
    variables: Mapping[str, str]

    def start(self, number: int, variables: Mapping[str, str] | None = None) -> Start:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "traces.yaml"
        config.write_text(yaml.safe_dump(self._settings(), sort_keys=False))
        log = self.folder / f"start-{number:03d}.log"
        return Start(["traces", "--config", str(config)], log, {**self.variables, **(variables or {})})

    def _settings(self) -> dict[str, Any]:
        stage = {
            "base_urls": [self.url],
            "model": "m",
            "revision": "r1",
            "sampling": {"max_tokens": 64, "temperature": 0.0},
            "max_concurrency": CONCURRENCY,
            "max_attempts": 20,
            "backoff_seconds": 0.05,
            "request_timeout_seconds": 20,
            "server_wait_seconds": 120,
        }
        return {
            "shards": str(self.shards),
            "ledger": str(self.output / "ledger"),
            "output": str(self.output / "out"),
            "val_share": 0.25,
            "samples_per_shard": 64,
            "teachers": {"vision": {**stage, "inputs": "frames"}, "audio": {**stage, "inputs": "audio"}},
            "merge": dict(stage),
        }

    @property
    def ledger_lines(self) -> int:
        """Calls that are on disk."""
        paths = (self.output / "ledger").glob("*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in paths)

    def written(self) -> dict[str, bytes]:
        """Shards, manifests and statistics."""
        folder = self.output / "out"
        files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class TraceRounds:
    """Rounds against one undisturbed run.

    Args:
        folder: of the whole soak.
        clock: see `tests.soak.weather.build_clock_library`.
        variables: environment of all commands.
    """

    def __init__(self, folder: Path, seed: int, tally: Tally, clock: Path | None, variables: Mapping[str, str]) -> None:
        self._folder, self._seed, self._tally, self._variables = folder, seed, tally, variables
        self._clock_library = clock
        self._shards = folder / "questions"
        if not (self._shards / "manifest.json").exists():
            write_shards(self._shards, SAMPLES)
        calm = folder / "traces-undisturbed"
        shutil.rmtree(calm, ignore_errors=True)
        models = Models(random.Random(), faulty_share=0)
        with ScriptedServer(models.respond) as server:
            run = TraceRun(calm, calm / "run", self._shards, server.url, variables)
            start = run.start(0)
            try:
                status = start.wait()
            finally:
                start.end()
        if status:
            raise Problem(f"the undisturbed trace run ended with status {status}, see {start.log}")
        self._expected, self._calls = run.written(), sum(models.answered.values())

    def run_round(self, number: int) -> None:
        """One round; its folder is kept if it shows a problem."""
        rng = random.Random(f"{self._seed}/traces/{number}")
        folder = self._folder / f"traces-{number:03d}"
        shutil.rmtree(folder, ignore_errors=True)  # of a soak that was stopped
        folder.mkdir()
        with ExitStack() as stack:
            disk = stack.enter_context(small_disk(folder / "disk", DISK_BYTES)) if number % 2 == 0 else None
            output = (disk.folder if disk else folder) / "run"
            models = Models(random.Random(rng.random()), FAULTY_SHARE)
            server = stack.enter_context(ScriptedServer(models.respond, latency=LATENCY_SECONDS))
            run = TraceRun(folder, output, self._shards, server.url, self._variables)
            clock = Clock(folder / "clock", self._clock_library, rng) if rng.random() < 0.7 else None
            try:
                self._disturb(run, rng, models, server, disk, clock)
                self._compare(run, models)
            except Problem as problem:
                if disk and output.exists():
                    disk.empty()
                    shutil.copytree(output, folder / "run", dirs_exist_ok=True)
                self._tally.problem("traces", number, folder, str(problem))
            else:
                stack.close()
                shutil.rmtree(folder)
            finally:
                self._tally.add("traces", rounds=1, rounds_small_disk=int(disk is not None))

    def _disturb(
        self,
        run: TraceRun,
        rng: random.Random,
        models: Models,
        server: ScriptedServer,
        disk: SmallDisk | None,
        clock: Clock | None,
    ) -> None:
        """Start the run until it has ended with status 0."""
        disturbed = rng.randint(4, 10)
        for number in range(MOST_STARTS):
            if clock:
                clock.jump()
            answered, recorded, stops = models.total, run.ledger_lines, 0
            start = run.start(number, clock.variables() if clock else None)
            self._tally.add("traces", starts=1)
            try:
                fault = "none"
                if number < disturbed:
                    fault = rng.choice([*FAULTS, *["disk_full"] * 2] if disk else FAULTS)
                    stops = self._strike(run, start, fault, rng, server, disk, clock)
                status = start.wait() if fault == "none" else start.wait(END_SECONDS)
                if status == 0:
                    return
                self._check_end(run, start, status, fault)
                time.sleep(5 * LATENCY_SECONDS)  # answers to connections that are gone
                unrecorded = models.total - answered - (run.ledger_lines - recorded)
                self._tally.add("traces", calls_in_flight_at_kills=unrecorded)
                if unrecorded > CONCURRENCY * (1 + stops):
                    raise Problem(f"{start.log.name} ({fault}): {unrecorded} answers were not in the ledger at its end")
            finally:
                start.end()
                if disk:
                    disk.empty()
        raise Problem(f"not done after {MOST_STARTS} starts")

    def _strike(
        self,
        run: TraceRun,
        start: Start,
        fault: str,
        rng: random.Random,
        server: ScriptedServer,
        disk: SmallDisk | None,
        clock: Clock | None,
    ) -> int:
        """Wait for a random number of recorded calls, or a moment of the start, then do the fault; returns how often
        the server was broken off."""
        if rng.random() < 0.2:
            moment = start.began + rng.uniform(0, 8)
            start.until(lambda: time.monotonic() > moment)
        else:
            target = run.ledger_lines + rng.randint(1, 400)
            # The last stage only writes; a start that records nothing more is hit there.
            quiet = time.monotonic() + 20
            start.until(lambda: run.ledger_lines >= target or time.monotonic() > quiet)
        stops = int(rng.random() < 0.4)
        if stops:
            server.stop()
            time.sleep(rng.uniform(0, 3))
            server.start()
            self._tally.fault("traces", "server_stopped")
        if start.status is not None:
            return stops
        if clock and clock.library:
            clock.jump()
            self._tally.fault("traces", "clock_jump_while_running")
        self._tally.fault("traces", fault)
        match fault:
            case "kill":
                start.signal(signal.SIGKILL)
            case "kill_all":
                start.signal(signal.SIGKILL, everyone=True)
            case "sigterm":
                start.signal(signal.SIGTERM)
            case "sigint":
                start.signal(signal.SIGINT, everyone=True)
            case "suspend":
                start.signal(signal.SIGSTOP, everyone=True)
                time.sleep(rng.uniform(1, 5))
                start.signal(signal.SIGCONT, everyone=True)
                moment = time.monotonic() + rng.uniform(0, 3)
                if start.until(lambda: time.monotonic() > moment):
                    start.signal(signal.SIGKILL)
            case "disk_full":
                assert disk is not None
                disk.fill(rng.choice((0, 4_096, 50_000)))
        return stops

    def _check_end(self, run: TraceRun, start: Start, status: int, fault: str) -> None:
        """Count and check the end of a start that is not done.

        Raises:
            Problem: a status or an output that the fault does not explain.
        """
        errors, tally = start.errors(), self._tally
        tally.add("traces", restarts=1, kills=int(status < 0))
        allowed = {
            "kill": {-signal.SIGKILL},
            "kill_all": {-signal.SIGKILL},
            "suspend": {-signal.SIGKILL},
            "sigterm": {-signal.SIGTERM, 143, 1},
            "sigint": {-signal.SIGINT, 130},
            "disk_full": {1},
            "none": set(),
        }[fault]
        if status not in allowed:
            raise Problem(f"{start.log.name} ({fault}): status {status}, {errors}")
        if fault == "disk_full":
            tally.add("traces", ended_with_one_error=1)
            if len(errors) != 1 or "No space left" not in errors[0] or "Traceback" in start.output:
                raise Problem(f"{start.log.name}: the disk is full, and it says {errors}")
            partial = [str(path) for path in run.output.rglob("*.partial*")]
            if partial:
                raise Problem(f"{start.log.name}: left behind on the full disk: {partial}")

    def _compare(self, run: TraceRun, models: Models) -> None:
        """Every sample exactly once, and the same bytes as undisturbed.

        Raises:
            Problem: it is not so.
        """
        written = run.written()
        where = _samples(run.output / "out")
        statistics = json.loads(written["statistics.json"])["yield"]
        expected = {f"q{i:03d}" for i in range(SAMPLES) if kept(i)}
        reasons = Counter(filter(None, map(_reason, range(SAMPLES))))
        lost = len(expected - set(where)) + SAMPLES - sum(statistics.values())
        twice = sum(count - 1 for count in where.values())
        equal = written == self._expected
        recorded = Counter(
            (record.stage, record.sample)
            for path in sorted((run.output / "ledger").glob("*.jsonl"))
            for record in map(decode_record, path.read_bytes().splitlines())
            if record.status.value == "ok"
        )
        calls = sum(models.answered.values())
        repeated = sum(count - 1 for count in models.answered.values())
        self._tally.add(
            "traces",
            samples=SAMPLES,
            samples_lost=lost,
            samples_twice=twice,
            calls=calls,
            calls_repeated=repeated,
            calls_recorded_twice=sum(count - 1 for count in recorded.values()),
            server_faults=models.faults.total(),
            shards_equal=int(equal),
        )
        rejected = {reason: count for reason, count in statistics.items() if reason != "kept"}
        if lost or twice or not equal or rejected != dict(reasons) or len(recorded) != self._calls:
            different = [name for name in self._expected if written.get(name) != self._expected[name]]
            raise Problem(
                f"{lost} samples lost, {twice} twice; files that differ: {different}; rejected {rejected}, expected "
                f"{dict(reasons)}; {len(recorded)} calls recorded of {self._calls}"
            )


def _reason(index: int) -> str | None:
    """Why a question is rejected; None if it is kept."""
    match vision_right(index), audio_right(index), merge_formatted(index):
        case True, True, True:
            return None
        case True, True, False:
            return "merge_trailing_text"
        case False, True, _:
            return "vision_wrong"
        case True, False, _:
            return "audio_wrong"
    return "both_wrong"


def _samples(folder: Path) -> Counter[str]:
    """How often each sample is in the shards, by tarfile."""
    found: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            found.update(name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json"))
    return found
