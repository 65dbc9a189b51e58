"""The policy for damaged training samples: others are read in their place, up to a share; each is reported.

The sample that is read instead is a function of the order of training alone (`SampleOrder.others`). So the samples of a
step depend neither on the number of workers and devices nor on what was found damaged before, and a run resumes
exactly.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from avrt.data.faults import ShardError
from avrt.model.encoding import Prompt
from datamodules.order import Place, SampleOrder

DEFAULT_DAMAGED_SHARE = 0.01
"""Enough for a few bad disk blocks; a wrong folder or a broken transfer stops the run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replaced:
    """A prompt that was read in the place of damaged samples.

    Attributes:
        prompt: the prompt.
        faults: of the sample that was to be read, and of those that were tried after it.
    """

    prompt: Prompt
    faults: tuple[ShardError, ...]


def replace_damaged(
    place: Place, fault: ShardError, order: SampleOrder, allowed: int, read: Callable[[Place], Prompt]
) -> Replaced:
    """Read another sample in the place of a damaged one.

    Args:
        place: of the damaged sample.
        fault: why it cannot be used.
        order: the order of training.
        allowed: samples of the whole set that may be damaged.
        read: reads and encodes the sample of a place.

    Raises:
        ShardError: more samples are damaged than are allowed.
    """
    faults = [fault]
    for other in order.others(place):
        if len(faults) > allowed:
            break
        try:
            return Replaced(read(other), tuple(faults))
        except ShardError as error:
            faults.append(error)
    raise faults[0]


class DamagedSamples:
    """Counts the damaged samples of a run's windows on this device, and reports each of them once.

    Attributes:
        count: in all windows since the run began or resumed.
        window_done: whether training is at the last micro-batch of its window.
    """

    def __init__(self) -> None:
        self.count = self._before_window = 0
        self.window_done = False
        self._reported: set[str] = set()

    def begin_window(self) -> None:
        """All samples so far belong to windows that are done."""
        self._before_window, self.window_done = self.count, False

    @property
    def committed(self) -> int:
        """Those in windows that are done; a run that resumes draws an unfinished window again."""
        return self.count if self.window_done else self._before_window

    def take(self, item: Prompt | Replaced) -> Prompt:
        """The prompt of an item from a data worker; a replaced one is counted and reported."""
        if not isinstance(item, Replaced):
            return item
        self.count += 1
        for fault in item.faults:
            if str(fault) not in self._reported:
                self._reported.add(str(fault))
                log.warning("damaged, left out: %s; in its place: sample %r", fault, item.prompt.sample.id)
        return item.prompt


def check_damaged_share(damaged: float, seen: int, size: int, share: float) -> None:
    """Stop a run whose data are damaged too often; called with the same numbers on all devices.

    Args:
        damaged: damaged samples that steps were to use so far.
        seen: samples that steps used so far.
        size: samples of one pass. The share is that of all passes begun: damaged samples may come early in a pass.
        share: `data.max_damaged_share`.

    Raises:
        ValueError: too many are damaged.
    """
    if damaged > share * size * max(1, math.ceil(seen / size)):
        raise ValueError(
            f"data.train: {damaged:.0f} damaged samples among {seen:,} (reasons above), more than "
            f"data.max_damaged_share {share:g} allows; `python -m avrt inspect --verify` lists all of them. Pack or "
            "fetch the shards again, or raise the share"
        )
