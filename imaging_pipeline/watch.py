"""Passes over STUDIES again and again, until the process is asked to end."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from imaging_pipeline.console import Screen, show_error
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.events import about
from imaging_pipeline.intake.listing import check_studies
from imaging_pipeline.round import Exit, Plan, Round
from imaging_pipeline.stopping import Stop
from imaging_pipeline.stores import LocalStore

Rounds = Callable[[], AbstractContextManager[Iterator[Round]]]
"""Opens what passes run on, and makes one pass after the other on it."""


class Watch:
    """Looks for what is new at even intervals; nights without news leave no trace."""

    def __init__(
        self,
        open_rounds: Rounds,
        seconds: float,
        screen: Screen,
        stop: Stop,
    ) -> None:
        """Start nothing yet.

        Args:
            open_rounds: Called again where a pass has lost what it ran on.
            seconds: Between the end of a pass and the next one.
            screen: Says what happens.
            stop: Asks it to end.
        """
        self._open_rounds = open_rounds
        self._seconds = seconds
        self._screen = screen
        self._stop = stop
        self._seen: frozenset[tuple[str, str]] | None = None
        self._last_error = ""

    def run(self) -> Exit:
        """Pass after pass; what goes wrong in one of them is said, and the next one tries again.

        Raises:
            PipelineError: Of the first pass: what is wrong before anything was done is not a matter of waiting.
        """
        self._screen.say(f"watching every {self._seconds:g} s; SIGTERM or Ctrl-C ends it behind the series at work")
        while not self._stop.requested:
            try:
                with self._open_rounds() as rounds:
                    self._passes(rounds)
            except PipelineError as error:
                self._report(error)
                self._stop.wait(self._seconds)
        return Exit.OK

    def _passes(self, rounds: Iterator[Round]) -> None:
        while not self._stop.requested:
            try:
                round_ = next(rounds)
                with about(run_id=round_.job.run_id):
                    self._pass(round_)
                self._last_error = ""
            except PipelineError as error:
                if error.code is Code.SPARK_FAILED:  # a fresh session may work
                    raise
                self._report(error)
            self._stop.wait(self._seconds)

    def _pass(self, round_: Round) -> None:
        if isinstance(round_.studies, LocalStore):
            check_studies(round_.studies.root)
        plan = round_.look()
        skipped = _outcomes(plan)
        if not self._stop.requested and (len(plan.todo) or skipped != self._seen):
            round_.tell(plan)
            round_.work(plan)
        self._seen = skipped

    def _report(self, error: PipelineError) -> None:
        if self._seen is None:
            raise error
        if str(error) != self._last_error:
            show_error(error)
        self._last_error = str(error)


def _outcomes(plan: Plan) -> frozenset[tuple[str, str]]:
    columns = (plan.skipped.column(name).to_pylist() for name in ("series_key", "code"))
    return frozenset(zip(*columns, strict=True))
