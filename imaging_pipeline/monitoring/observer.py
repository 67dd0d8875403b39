"""What somebody who looks on is told of a run."""

import logging
from collections.abc import Callable, Sequence

from imaging_pipeline.intake.found import Skips, Tasks
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.tally import Tally


class Observer:
    """Is told of a run as it goes; this one keeps nothing of it."""

    def looked(self, todo: Tasks, n_done: int, skipped: Skips, n_given_up: int) -> None:
        """A pass has seen what there is.

        Args:
            todo: Series to work through.
            n_done: Series that an earlier run has done.
            skipped: Series that are left out.
            n_given_up: Series that have ended their process too often.
        """

    def left_out(self, result: SeriesResult) -> None:
        """A series is skipped, or has been given up before."""

    def finished(self, result: SeriesResult) -> None:
        """A series has been worked through, and has its receipt."""

    def ended(self, tally: Tally, exit_code: int) -> None:
        """A pass that worked is over, however it ended."""

    def broke_off(self, exit_code: int) -> None:
        """The run ends with an error."""


class Observers(Observer):
    """Tells several of them; what goes wrong there is logged, and never the run's business."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        """Take them in the order in which they are told."""
        self._observers = observers

    def looked(self, todo: Tasks, n_done: int, skipped: Skips, n_given_up: int) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.looked(todo, n_done, skipped, n_given_up))

    def left_out(self, result: SeriesResult) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.left_out(result))

    def finished(self, result: SeriesResult) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.finished(result))

    def ended(self, tally: Tally, exit_code: int) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.ended(tally, exit_code))

    def broke_off(self, exit_code: int) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.broke_off(exit_code))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for one in self._observers:
            try:
                tell(one)
            except Exception:  # no figure is worth a run
                logging.getLogger(__name__).exception("an observer of the run failed")
