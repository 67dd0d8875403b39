"""Which series a worker gets next, and what becomes of those that it had when it died."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from imaging_pipeline.case import closed
from imaging_pipeline.errors import Code
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesResult, SeriesTask, Status
from imaging_pipeline.results.receipt import write_receipt
from imaging_pipeline.workers.attempts import Attempt, Attempts

_HINT = (
    "look at the stack in the run's logs; nothing tries it again until "
    "`python -m imaging_pipeline.rerun RESULTS --failed` does"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A series for a worker.

    Attributes:
        task: The series.
        contents: Bytes of its files by path, where the worker could not open them.
    """

    task: SeriesTask
    contents: Mapping[str, bytes] = field(default_factory=dict)


class Shift:
    """Deals series out in stretches, in each of which a worker may have several beside each other.

    A series that was at work when a process ended, now or in an earlier run, has a stretch of its own: it can harm no
    other, and if the process ends again it is known why.
    """

    def __init__(self, handovers: Iterable[Handover], job: Job) -> None:
        """Take nothing yet.

        Args:
            handovers: Series in order.
            job: What they have in common.
        """
        self._incoming = iter(handovers)
        self._job = job
        self._attempts = Attempts(job)
        self._again: deque[tuple[Handover, Attempt]] = deque()
        self._at_work: dict[str, tuple[Handover, Attempt]] = {}
        self._n_given = 0
        self._is_alone = False
        self.refused: list[SeriesResult] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be dealt out."""
        self._fill()
        return not self._again and not self._at_work

    def begin_stretch(self) -> None:
        """A worker starts with nothing."""
        self._n_given, self._is_alone = 0, False

    def next(self) -> Handover | None:
        """The next series, marked as being at work; None ends the stretch.

        Raises:
            PipelineError: The mark cannot be written.
        """
        self._fill()
        if self._is_alone or not self._again:
            return None
        handover, attempt = self._again[0]
        if attempt.is_suspect and self._n_given:
            return None
        self._is_alone = attempt.is_suspect
        self._again.popleft()
        self._attempts.begin(handover.task, attempt)
        self._at_work[handover.task.identity.series_key] = (handover, attempt)
        self._n_given += 1
        return handover

    def finished(self, key: str) -> None:
        """A series has its receipt."""
        found = self._at_work.pop(key, None)
        if found is not None:
            self._attempts.end(found[0].task)

    def died(self, cause: str) -> Iterator[SeriesResult]:
        """The worker ended: what it had is done again, each alone, but for what has ended too many.

        Args:
            cause: What ended it, in words.

        Yields:
            Results of series that are given up, their receipts written.
        """
        had, self._at_work = self._at_work, {}
        for handover, attempt in had.values():
            attempt = self._attempts.crashed(handover.task, attempt, cause)
            if attempt.verdict(self._job.settings.limits.crashes):
                yield self._give_up(handover.task, attempt)
            else:
                self._again.append((handover, attempt))

    def release(self) -> None:
        """Whatever a worker still has is given back: it is not to blame for what ended the work."""
        for handover, attempt in self._at_work.values():
            self._attempts.give_back(handover.task, attempt)
        self._at_work = {}

    @property
    def n_at_work(self) -> int:
        """Series that a worker has."""
        return len(self._at_work)

    def _fill(self) -> None:
        """Have a series at hand, if there is one; those that are given up on sight are results already."""
        while not self._again:
            handover = next(self._incoming, None)
            if handover is None:
                return
            attempt = self._attempts.known(handover.task)
            if attempt.verdict(self._job.settings.limits.crashes):
                self.refused.append(self._give_up(handover.task, attempt))
            else:
                self._again.append((handover, attempt))

    def _give_up(self, task: SeriesTask, attempt: Attempt) -> SeriesResult:
        job = self._job
        result = replace(
            job.result(task.identity, Status.FAILED),
            recomputed_because=task.recomputed_because,
            attempt=len(attempt.crashes) + attempt.interrupted,
            geometry_verdict=task.verdict,
            findings=task.findings,
        )
        result = closed(result, Code.WORKER_CRASH, attempt.verdict(job.settings.limits.crashes), _HINT)
        result = write_receipt(job.out, result, job.seal_key)
        self._attempts.end(task)
        return result
