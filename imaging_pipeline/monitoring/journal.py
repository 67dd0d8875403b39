"""What became of each series, as events for log collectors."""

from imaging_pipeline.events import event
from imaging_pipeline.ledger import Tally
from imaging_pipeline.monitoring.observer import Observer
from imaging_pipeline.records import SeriesResult


class Journal(Observer):
    """Writes an event for each series and each pass that worked; nothing where logs are text."""

    def __init__(self) -> None:
        """Nothing has been told yet."""
        self._told: set[str] = set()

    def finished(self, result: SeriesResult) -> None:
        """See `Observer`."""
        self._told.add(result.identity.series_key)
        event(
            f"series {result.status.value}",
            series_key=result.identity.series_key,
            status=result.status.value,
            code=result.reason_code,
            seconds=round(sum(result.stage_seconds.values()), 3),
        )

    def ended(self, tally: Tally, exit_code: int) -> None:
        """See `Observer`."""
        for result in tally.results:
            if result.identity.series_key not in self._told:
                self.finished(result)
        self._told.clear()
        counts = ", ".join(f"{number} {fate}" for fate, number in tally.series().items())
        event(f"run ended: {counts}", exit_code=int(exit_code))

    def broke_off(self, exit_code: int) -> None:
        """See `Observer`."""
        event("run broke off", exit_code=int(exit_code))
