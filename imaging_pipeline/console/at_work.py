"""Series that are being worked on, as the driver can know it: by the marks that workers leave in RESULTS."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesIdentity
from imaging_pipeline.schedule import Schedule
from imaging_pipeline.workers.attempts import marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A series at work.

    Attributes:
        identity: Who it is.
        at: When its mark was first seen, on the clock of this process: those of workers may differ.
    """

    identity: SeriesIdentity
    at: float


class AtWork:
    """Looks for marks again and again; what is seen may be as old as the last look."""

    def __init__(self, schedule: Schedule, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        """See what earlier runs have left: that is not at work.

        Args:
            schedule: Series of the run.
            job: The run.
            clock: Seconds.
        """
        self._tasks, self._wanted = schedule.tasks, schedule.tasks.remaining()
        self._job = job
        self._clock = clock
        self._before = self._marks() or {}
        self._begun: dict[str, Begun] = {}

    def look(self) -> None:
        """See what is at work now; a store that does not answer is asked again the next time."""
        found = self._marks()
        if found is None:
            return
        now, begun = self._clock(), dict[str, Begun]()
        for key, stamp in found.items():
            if key in self._wanted and self._before.get(key) != stamp:
                begun[key] = self._begun.get(key) or Begun(identity=self._tasks[key].identity, at=now)
        self._begun = begun

    def begun(self) -> dict[str, Begun]:
        """Series at work by key, those that were begun first in front."""
        return dict(sorted(self._begun.items(), key=lambda item: item[1].at))

    def seconds(self) -> dict[str, float]:
        """Since each of them was begun."""
        now = self._clock()
        return {key: now - begun.at for key, begun in self._begun.items()}

    def _marks(self) -> dict[str, str] | None:
        with suppress(OSError, PipelineError):
            return marks(self._job)
        return None
