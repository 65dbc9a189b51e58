"""Rounds of the GRPO run: started, disturbed and started again until its last step, then compared bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.programs import environment
from tests.soak.comparison import BOOKKEEPING, damaged_curve, differences, lost_and_twice, replaced_places
from tests.soak.damage import Damage, damaged_copy
from tests.soak.grpo_runs import PROMPTS_PER_STEP, STEPS, Demo, Finished, GrpoRun, read_finished, undisturbed
from tests.soak.processes import END_SECONDS, Start, kill
from tests.soak.recorder import last_step, read_history
from tests.soak.tally import Problem, Tally
from tests.soak.weather import Clock, SmallDisk, shuffle_times, small_disk

FAULTS = ("kill", "kill_all", "kill_data_worker", "kill_any_process", "kill_in_save", "sigterm", "sigusr1", "suspend")
STARTUP_SHARE = 0.15
"""Share of starts that a fault hits at any moment, imports included; the others are hit after a few steps."""

MOST_STARTS = 60
PREEMPTED = 85
DISK_BYTES = 40 * 2**20
DATA = ("local", "http", "damaged")


@dataclass
class Round:
    """One round: its run, its surroundings, and what it is compared with."""

    run: GrpoRun
    rng: random.Random
    expected: Finished
    disk: SmallDisk | None
    clock: Clock | None
    storage: Storage | None
    damage: Damage | None
    disturbed_starts: int


class Storage:
    """The failing web server, in a process of its own."""

    def __init__(self, folder: Path, rng: random.Random, variables: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._folder, self._rng, self._variables = folder, rng, variables
        self.start()

    def start(self) -> None:
        words = ["-m", "tests.soak.storage_server", str(self._folder), str(self.port), str(self._rng.randrange(2**32))]
        environ = {**environment(), **self._variables}
        self._process = subprocess.Popen([sys.executable, *words], stdin=subprocess.DEVNULL, env=environ)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class GrpoRounds:
    """Rounds on data of the three kinds in turn.

    Args:
        folder: of the whole soak.
        demo: built.
        clock: see `tests.soak.weather.build_clock_library`.
        variables: environment of all commands.
    """

    def __init__(
        self, folder: Path, demo: Demo, seed: int, tally: Tally, clock: Path | None, variables: Mapping[str, str]
    ) -> None:
        self._folder, self._demo, self._seed, self._tally = folder, demo, seed, tally
        self._variables, self._clock_library = variables, clock
        plain = folder / "grpo-undisturbed"
        self._plain = undisturbed(GrpoRun(demo, plain, plain / "run", str(demo.shards), {}, variables))
        lost, twice = lost_and_twice(self._plain.order, sum(map(len, self._plain.order)) * 36 // STEPS)
        if lost or twice:
            raise Problem(f"the undisturbed run's first pass: {lost} samples lost, {twice} twice")

    def run_round(self, number: int) -> None:
        """One round; its folder is kept if it shows a problem."""
        rng = random.Random(f"{self._seed}/grpo/{number}")
        folder = self._folder / f"grpo-{number:03d}"
        shutil.rmtree(folder, ignore_errors=True)  # of a soak that was stopped
        folder.mkdir()
        kind = DATA[number % len(DATA)]
        with ExitStack() as stack:
            disk = stack.enter_context(small_disk(folder / "disk", DISK_BYTES)) if number % 2 == 0 else None
            output = (disk.folder if disk else folder) / "run"
            try:
                current = self._prepare(folder, output, kind, number, rng, disk, stack)
                self._disturb(current)
                self._compare(current)
            except Problem as problem:
                if disk and output.exists():
                    disk.empty()
                    shutil.copytree(output, folder / "run", dirs_exist_ok=True)
                self._tally.problem("grpo", number, folder, str(problem))
            else:
                stack.close()
                shutil.rmtree(folder)
            finally:
                self._tally.add(
                    "grpo", **{"rounds": 1, f"rounds_{kind}": 1, "rounds_small_disk": int(disk is not None)}
                )

    def _prepare(
        self,
        folder: Path,
        output: Path,
        kind: str,
        number: int,
        rng: random.Random,
        disk: SmallDisk | None,
        stack: ExitStack,
    ) -> Round:
        shards, data, storage, damage, expected = str(self._demo.shards), {}, None, None, self._plain
        if kind == "http":
            storage = Storage(self._demo.shards, rng, self._variables)
            stack.callback(storage.kill)
            shards = f"http://127.0.0.1:{storage.port}"
            data = {"cache_dir": str(folder / "cache"), "cache_gb": 0.008}
        elif kind == "damaged":
            damage = damaged_copy(self._demo.shards, folder / "shards", rng)
            self._tally.add("grpo", damaged_samples=len(damage.keys))
            for done in damage.done:
                self._tally.fault("grpo", f"shard: {done.split()[0]}")
            shards = str(folder / "shards")
            calm = folder / "undisturbed"
            expected = undisturbed(GrpoRun(self._demo, calm, calm / "run", shards, data, self._variables))
        clock = Clock(folder / "clock", self._clock_library, rng) if rng.random() < 0.7 else None
        run = GrpoRun(self._demo, folder, output, shards, data, self._variables)
        return Round(run, rng, expected, disk, clock, storage, damage, disturbed_starts=rng.randint(4, 8))

    def _disturb(self, current: Round) -> None:
        """Start the run until it has ended by itself with status 0."""
        for number in range(MOST_STARTS):
            if current.clock:
                current.clock.jump()
                shuffle_times(current.run.output, current.rng)
            if current.rng.random() < 0.15:
                self._flip_bit_of_newest_checkpoint(current)
            start = current.run.start(number, current.clock.variables() if current.clock else None)
            self._tally.add("grpo", starts=1)
            try:
                if self._one_start(current, start, calm=number >= current.disturbed_starts):
                    return
            finally:
                start.end()
        raise Problem(f"not done after {MOST_STARTS} starts")

    def _flip_bit_of_newest_checkpoint(self, current: Round) -> None:
        """Damage that the next start must notice; it resumes from the checkpoint before, if there is one."""
        checkpoints = sorted((current.run.output / "checkpoints").glob("step=*.ckpt"))
        if len(checkpoints) > 1:
            data = bytearray(checkpoints[-1].read_bytes())
            data[current.rng.randrange(len(data))] ^= 1 << current.rng.randrange(8)
            checkpoints[-1].write_bytes(data)
            self._tally.fault("grpo", "checkpoint: flip_bit")

    def _one_start(self, current: Round, start: Start, *, calm: bool) -> bool:
        """One start with its faults; whether the run is done."""
        if calm:
            return self._ended(current, start, start.wait(), "none")
        rng, steps = current.rng, current.run.steps
        names = [*FAULTS, *["disk_full"] * 3] if current.disk else FAULTS
        fault = rng.choice(names)
        if rng.random() < STARTUP_SHARE:
            moment = start.began + rng.uniform(0, 25)
            start.until(lambda: time.monotonic() > moment)
        else:
            files = len(list(steps.glob("*.jsonl")))
            start.until(lambda: len(list(steps.glob("*.jsonl"))) > files)
            target = last_step(steps) + rng.randint(1, 12)
            if current.storage and rng.random() < 0.7:
                self._restart_storage(current.storage, rng)
            start.until(lambda: last_step(steps) >= target)
            moment = time.monotonic() + rng.uniform(0, 1)
            start.until(lambda: time.monotonic() > moment)
        if current.clock and current.clock.library and start.status is None:
            current.clock.jump()
            self._tally.fault("grpo", "clock_jump_while_running")
        if start.status is not None:
            return self._ended(current, start, start.wait(), "none")
        self._tally.fault("grpo", fault)
        return self._ended(current, start, self._inject(current, start, fault), fault)

    def _restart_storage(self, storage: Storage, rng: random.Random) -> None:
        storage.kill()
        time.sleep(rng.uniform(0, 4))
        storage.start()
        self._tally.fault("grpo", "storage_killed")

    def _inject(self, current: Round, start: Start, fault: str) -> int:
        """Do a fault and wait for the end; returns the exit status."""
        rng = current.rng
        match fault:
            case "kill":
                start.signal(signal.SIGKILL)
            case "kill_all":
                start.signal(signal.SIGKILL, everyone=True)
            case "kill_data_worker" | "kill_any_process":
                found = start.data_workers() if fault == "kill_data_worker" else start.others()
                if not found:  # it hits imports
                    start.signal(signal.SIGKILL)
                    return start.wait(END_SECONDS)
                kill(rng.choice(found))
                if fault == "kill_any_process":  # the run may live without it, as without the resource tracker
                    moment = time.monotonic() + 30
                    if start.until(lambda: time.monotonic() > moment):
                        start.signal(signal.SIGKILL)
            case "kill_in_save":
                folder = current.run.output / "checkpoints"
                if start.until(lambda: any(folder.glob("*.partial"))):
                    start.signal(signal.SIGKILL)
            case "sigterm" | "sigusr1":
                number = signal.SIGTERM if fault == "sigterm" else signal.SIGUSR1
                start.signal(number, everyone=rng.random() < 0.5)
            case "suspend":
                start.signal(signal.SIGSTOP, everyone=True)
                time.sleep(rng.uniform(1, 8))
                start.signal(signal.SIGCONT, everyone=True)
                moment = time.monotonic() + rng.uniform(0, 5)
                if start.until(lambda: time.monotonic() > moment):
                    start.signal(signal.SIGKILL)
            case "disk_full":
                assert current.disk is not None
                current.disk.fill(rng.choice((0, 4_096, 100_000, 2_000_000)))
        return start.wait(END_SECONDS)

    def _ended(self, current: Round, start: Start, status: int, fault: str) -> bool:
        """Count and check the end of a start; whether the run is done.

        Raises:
            Problem: a status or an output that the fault does not explain.
        """
        tally, output, errors = self._tally, start.output, start.errors()
        if status == 0:
            return True
        tally.add("grpo", restarts=1)
        if "Traceback (most recent call last)" in output and status > 0:
            raise Problem(f"{start.log.name} ({fault}): a traceback instead of a line")
        if status < 0:
            tally.add("grpo", kills=1)
            if -status != signal.SIGKILL and fault not in ("sigterm", "sigusr1"):
                raise Problem(f"{start.log.name} ({fault}): ended by signal {-status}")
            if -status != signal.SIGKILL:
                tally.add("grpo", signals_before_training=1)
        elif status == PREEMPTED:
            tally.add("grpo", preempted=1)
            if fault not in ("sigterm", "sigusr1"):
                raise Problem(f"{start.log.name} ({fault}): status {PREEMPTED} without a signal")
        else:
            if len(errors) != 1:
                raise Problem(f"{start.log.name} ({fault}): {len(errors)} error lines with status {status}")
            tally.add("grpo", ended_with_one_error=1)
            self._check_error(current, start, errors[0], fault)
        return False

    def _check_error(self, current: Round, start: Start, error: str, fault: str) -> None:
        if fault in ("kill_data_worker", "kill_any_process"):
            self._tally.add("grpo", kills=1)
        elif fault == "disk_full":
            assert current.disk is not None
            if "No space left" not in error:
                raise Problem(f"{start.log.name}: the disk is full, and the error is {error!r}")
            partial = [str(path) for path in current.run.output.rglob("*.partial*")]
            if partial:
                raise Problem(f"{start.log.name}: left behind on the full disk: {partial}")
            if current.rng.random() < 0.4:
                self._start_on_full_disk(current)
            current.disk.empty()
        elif current.storage and "the transfer failed" in error:
            self._tally.add("grpo", ended_by_storage=1)
        else:
            raise Problem(f"{start.log.name} ({fault}): {error}")

    def _start_on_full_disk(self, current: Round) -> None:
        """A start before there is room: refused, or ended at its next checkpoint, with the same one line."""
        start = current.run.start(900 + current.rng.randrange(99))
        self._tally.add("grpo", starts=1, starts_on_full_disk=1)
        try:
            status, errors = start.wait(), start.errors()
        finally:
            start.end()
        if status != 1 or len(errors) != 1 or "No space left" not in errors[0]:
            raise Problem(f"{start.log.name}: on a full disk: status {status}, {errors}")

    def _compare(self, current: Round) -> None:
        """Compare a finished run with the undisturbed one.

        Raises:
            Problem: they differ.
        """
        history = read_history(current.run.steps)
        ours, expected, tally = read_finished(current.run), current.expected, self._tally
        tally.add("grpo", steps=STEPS, steps_repeated=history.repeated, steps_changed=len(history.changed))
        size = PROMPTS_PER_STEP * STEPS
        lost = sum(len(set(a) - set(b)) for a, b in zip(expected.order, ours.order, strict=True))
        twice = size - sum(len(set(ids)) for ids in ours.order)
        tally.add("grpo", samples=size, samples_lost=lost, samples_twice=twice)
        order_equal = ours.order == expected.order
        steps_equal = ours.steps == expected.steps
        every = differences(ours.checkpoint, expected.checkpoint)
        found = [name for name in every if not name.startswith(BOOKKEEPING)]
        weights = [name for name in found if name.startswith(".state_dict")]
        optimizer = [name for name in found if name.startswith(".optimizer_states")]
        exported = [n for n in expected.exported if ours.exported.get(n) != expected.exported[n]]
        tally.add(
            "grpo",
            weights_equal=int(not weights),
            optimizer_equal=int(not optimizer),
            checkpoints_equal=int(not found),
            bookkeeping_equal=int(not [n for n in every if "seconds/" not in n and "throughput/" not in n]),
            order_equal=int(order_equal),
            losses_and_tokens_equal=int(steps_equal),
            exports_equal=int(not exported),
        )
        if not (order_equal and steps_equal) or found or exported or history.changed:
            raise Problem(
                f"not the undisturbed run: order equal {order_equal}, losses and tokens equal {steps_equal}, "
                f"checkpoint differs in {found[:8]}, export in {exported}, changed repeated steps {history.changed}"
            )
        self._account_damage(current, ours)

    def _account_damage(self, current: Round, ours: Finished) -> None:
        """Every place of the order is trained on, or counted as damaged; nothing else is replaced.

        Raises:
            Problem: it does not add up.
        """
        if current.damage is None:
            return
        replaced, uneven = replaced_places(self._plain.order, ours.order)
        counted = damaged_curve(current.run.output)
        in_checkpoint = int(ours.checkpoint["avrt"]["damaged_samples"])
        self._tally.add("grpo", places_replaced=replaced.total(), places_counted=counted)
        trained = {key for ids in ours.order for key in ids}
        wrong = sorted(set(replaced) - current.damage.keys)
        if uneven or wrong or not replaced.total() == counted == in_checkpoint or trained & current.damage.keys:
            raise Problem(
                f"damage does not add up: {replaced.total()} places replaced, the curve says {counted}, the checkpoint "
                f"{in_checkpoint}; steps of another size {uneven}; replaced though whole {wrong}; trained though "
                f"damaged {sorted(trained & current.damage.keys)}"
            )


def remove_mounts(folder: Path) -> None:
    """Unmount what a killed soak left."""
    for disk in folder.glob("*/disk"):
        if os.path.ismount(disk):
            subprocess.run(["umount", "--lazy", str(disk)], check=False)
