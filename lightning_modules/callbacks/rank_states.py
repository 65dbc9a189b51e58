"""The phase that every rank of a run is in, exchanged through torch's key-value store, to name the one that hangs."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from torch.distributed import TCPStore

KEY = "avrt/watchdog"

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Variable of torchrun, whose store outlives a restart: what an earlier attempt has stored is not read."""

SILENT_AFTER = 4
"""Intervals without a report after which a rank is stopped, dead or cut off."""

COLLECTIVES = ("torch/distributed/distributed_c10d.py", "torch/distributed/c10d_logger.py")
"""Source files of torch that call collectives."""


@dataclass(frozen=True)
class RankState:
    """What a rank is doing.

    Attributes:
        rank: its number.
        host, pid: its process.
        step: optimizer steps done.
        phase: a name for messages.
        number: phases entered so far; all ranks enter the same ones.
        waits: it is in a collective, where it waits for other ranks.
    """

    rank: int
    host: str
    pid: int
    step: int = 0
    phase: str = ""
    number: int = 0
    waits: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on {self.host})"


@dataclass(frozen=True)
class Conclusion:
    """Why the run ends: one line, and the ranks that it names as hanging."""

    line: str
    ranks: list[int]


class RankStates:
    """Publishes this rank's state and reads those of the others, in a thread.

    The thread alone talks to the store: if that does not answer, because the process that holds it is stopped, the
    thread waits and nothing else.

    Args:
        state: of this rank, at the beginning.
        world_size: number of ranks.
        interval: seconds between two rounds.
        ended: called in the thread when another rank has ended the run, with its conclusion.
    """

    def __init__(
        self,
        state: RankState,
        world_size: int,
        interval: float,
        ended: Callable[[Conclusion], None] = lambda conclusion: None,
    ) -> None:
        self.state = state
        self.conclusion: Conclusion | None = None
        """Set when this rank ends the run; the others then end too."""
        self._interval = interval
        self._ended = ended
        self._world_size = world_size
        self._thread_id = threading.get_ident()
        self._seen = {state.rank: (state, 0)}
        self._changed = dict.fromkeys(range(world_size), time.monotonic())
        self._stopped = threading.Event()
        if world_size > 1:
            threading.Thread(target=self._exchange, name="rank states", daemon=True).start()

    def enter(self, phase: str, step: int) -> None:
        """Note that this rank begins a phase."""
        self.state = replace(self.state, phase=phase, step=step, number=self.state.number + 1)

    def stop(self) -> None:
        self._stopped.set()

    def current(self) -> tuple[dict[int, RankState], set[int]]:
        """The last known state of the ranks, and which of them have not reported."""
        own = replace(self.state, waits=waits_for_others(self._thread_id))
        states = {rank: state for rank, (state, _) in self._seen.items()} | {own.rank: own}
        oldest = time.monotonic() - SILENT_AFTER * self._interval
        silent = {rank for rank, at in self._changed.items() if at < oldest and rank != own.rank}
        # If all others are silent, it is the store that does not answer, and rank 0 or its launcher holds it.
        return states, silent if len(silent) < self._world_size - 1 else {0} - {own.rank} or silent

    def _exchange(self) -> None:
        wait = timedelta(seconds=60)
        beat = 0
        prefix = f"{KEY}/{os.environ.get(RESTARTS, 0)}"
        try:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = TCPStore(address, port, is_master=False, timeout=wait, wait_for_workers=False)
            while not self._stopped.is_set():
                beat += 1
                state = replace(self.state, waits=waits_for_others(self._thread_id))
                store.set(f"{prefix}/{state.rank}", json.dumps([asdict(state), beat]))
                if self.conclusion is not None:
                    store.set(f"{prefix}/conclusion", json.dumps(asdict(self.conclusion)))
                elif store.check([f"{prefix}/conclusion"]):
                    self._ended(Conclusion(**json.loads(store.get(f"{prefix}/conclusion"))))
                self._read(store, prefix)
                self._stopped.wait(self._interval)
        except RuntimeError:  # the process that holds the store has ended: nobody is left to exchange with
            return

    def _read(self, store: TCPStore, prefix: str) -> None:
        for rank in range(self._world_size):
            if store.check([f"{prefix}/{rank}"]):
                fields, beat = json.loads(store.get(f"{prefix}/{rank}"))
                if rank not in self._seen or self._seen[rank][1] != beat:
                    self._seen[rank] = (RankState(**fields), beat)
                    self._changed[rank] = time.monotonic()


def waits_for_others(thread_id: int) -> bool:
    """Whether a thread of this process is in a collective."""
    frame = sys._current_frames().get(thread_id)
    while frame is not None:
        if frame.f_code.co_filename.endswith(COLLECTIVES):
            return True
        frame = frame.f_back
    return False


def own_state(rank: int) -> RankState:
    return RankState(rank, socket.gethostname(), os.getpid())


def hanging(states: Mapping[int, RankState], silent: set[int]) -> set[int]:
    """The ranks that the others wait for: those that have not reported; otherwise, of the ranks that do not wait in a
    collective (of all, if all do), those that have entered the fewest phases."""
    if silent:
        return silent
    working = [state for state in states.values() if not state.waits] or list(states.values())
    fewest = min(state.number for state in working)
    return {state.rank for state in working if state.number == fewest}


def judge(states: Mapping[int, RankState], silent: set[int], minutes: float) -> Conclusion:
    """Name the ranks that hang, with their phase, and what the others do."""
    blocking = hanging(states, silent)
    parts = []
    for rank in sorted(blocking):
        if rank not in states:
            parts.append(f"rank {rank} has never reported")
            continue
        state = states[rank]
        where = f"phase {state.phase!r} of step {state.step}"
        parts.append(f"{state} " + (f"has not reported since {where}" if rank in silent else f"hangs in {where}"))
    waiting: dict[str, list[int]] = {}
    for rank in sorted(states.keys() - blocking):
        waiting.setdefault(states[rank].phase, []).append(rank)
    parts += [f"waiting in phase {phase!r}: rank {', '.join(map(str, ranks))}" for phase, ranks in waiting.items()]
    return Conclusion(f"no progress for {minutes:.3g} minutes: " + "; ".join(parts), sorted(blocking))
