"""Which model was being run when a worker died, and which versions are left alone because they kill workers.

Kept in memory that the workers of a replica share with their master, so it is made before the fork. A worker writes
down what it is about to run; when it dies, the master finds it there. Nothing has to be caught, as nothing can be: a
segmentation fault, the kernel's killer when memory is out, a run that never ends and takes the worker with it.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Sequence
from enum import IntEnum

from api.errors import ModelQuarantined

logger = logging.getLogger(__name__)

DEATHS = 3  # of workers, each within a minute of the one before: then it is the model, and no accident
_WITHIN_SECONDS = 60.0
_QUARANTINE_SECONDS = 60.0  # and twice as long each time that it kills again right after
_MAX_QUARANTINE_SECONDS = 3600.0
_WARM_UP_DEATHS = 2  # it never got to serve anybody
_SLOTS = 1024  # twice as many as there may be workers, as a reload has old and new ones
_NONE = 0.0


class Lane(IntEnum):
    """Where in a worker a run happens. There is at most one in each at a time."""

    LOOP = 0
    THREAD = 1
    WARM_UP = 2


class Circuits:
    """One for each model version of a replica."""

    def __init__(self, versions: Sequence[tuple[str, str]]) -> None:
        self._versions = list(versions)
        count = len(self._versions)
        self._lanes_end = _SLOTS * len(Lane)
        # Numbers, as only these are the same in all processes: what runs in each lane of each slot, counted from 1;
        # then of each version its deaths in a row, when the last was, until when it is left alone, those in warm-up.
        self._memory = mmap.mmap(-1, 8 * (self._lanes_end + 4 * max(count, 1)))
        self._cells = memoryview(self._memory).cast("d")

    def of(self, version: tuple[str, str], slot: int) -> Circuit:
        """For a worker: the circuit of a version, as seen from its slot."""
        return Circuit(self, self._versions.index(version), slot)

    def worker_died(self, slot: int) -> None:
        """For the master: blames what ran in that worker, if anything did."""
        for lane in Lane:
            cell = slot * len(Lane) + lane
            number, self._cells[cell] = int(self._cells[cell]), _NONE
            if number:
                self._blame(number - 1, lane)

    def _blame(self, index: int, lane: Lane) -> None:
        deaths, died, until, warm_up = range(self._entry(index), self._entry(index) + 4)
        cells, now = self._cells, time.monotonic()
        name = "/".join(self._versions[index])
        if lane is Lane.WARM_UP:
            cells[warm_up] += 1
            logger.critical("a worker died as it tried %s out", name)
            return
        in_a_row = now - max(cells[died], cells[until]) <= _WITHIN_SECONDS
        cells[deaths] = cells[deaths] + 1 if in_a_row and cells[died] else 1
        cells[died] = now
        if cells[deaths] < DEATHS:
            logger.critical("a worker died as it ran %s, the %.0f. in a row", name, cells[deaths])
            return
        seconds = min(_QUARANTINE_SECONDS * 2 ** (cells[deaths] - DEATHS), _MAX_QUARANTINE_SECONDS)
        cells[until] = now + seconds
        logger.critical("%s is left alone for %.0f s: %.0f workers died as they ran it", name, seconds, cells[deaths])

    def _entry(self, index: int) -> int:
        return self._lanes_end + 4 * index

    # --- for Circuit --------------------------------------------------------------------------------------------------
    def mark(self, slot: int, lane: Lane, number: float) -> None:
        self._cells[slot * len(Lane) + lane] = number

    def open_until(self, index: int) -> float:
        return self._cells[self._entry(index) + 2]

    def warm_up_deaths(self, index: int) -> int:
        return int(self._cells[self._entry(index) + 3])


class Circuit:
    """One version's, in one worker. Costs 0.2 us a run."""

    __slots__ = ("_circuits", "_index", "_slot")

    def __init__(self, circuits: Circuits, index: int, slot: int) -> None:
        self._circuits = circuits
        self._index = index
        self._slot = slot

    def begin(self, lane: Lane) -> None:
        """To be called before a run: from now on a death is this version's."""
        self._circuits.mark(self._slot, lane, self._index + 1)

    def end(self, lane: Lane) -> None:
        """However the run ended."""
        self._circuits.mark(self._slot, lane, _NONE)

    @property
    def seconds_left(self) -> float:
        """For which the version is still left alone; 0 if it may be run."""
        return max(0.0, self._circuits.open_until(self._index) - time.monotonic())

    @property
    def dies_in_warm_up(self) -> bool:
        return self._circuits.warm_up_deaths(self._index) >= _WARM_UP_DEATHS

    def check(self) -> None:
        """Raises ModelQuarantined."""
        if self._circuits.open_until(self._index) and (left := self.seconds_left):
            raise ModelQuarantined(
                f"workers died as they ran this version, which is left alone for another {left:.0f} s",
                retry_after_seconds=max(1, round(left)),
            )
