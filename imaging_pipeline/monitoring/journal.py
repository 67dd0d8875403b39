"""What became of each series, as events for log collectors."""

from imaging_pipeline.events import event
from imaging_pipeline.monitoring.observer import Observer
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.tally import Tally


class Journal(Observer):
    """Writes an event for each series and each pass that worked; nothing where logs are text."""

    def left_out(self, result: SeriesResult) -> None:
        """See `Observer`."""
        self.finished(result)

    def finished(self, result: SeriesResult) -> None:
        """See `Observer`."""
        event(
            f"series {result.status.value}",
            series_key=result.identity.series_key,
            status=result.status.value,
            code=result.reason_code,
            seconds=round(sum(result.stage_seconds.values()), 3),
        )

    def ended(self, tally: Tally, exit_code: int) -> None:
        """See `Observer`."""
        counts = ", ".join(f"{number} {fate}" for fate, number in tally.series().items())
        event(f"run ended: {counts}", exit_code=int(exit_code))

    def broke_off(self, exit_code: int) -> None:
        """See `Observer`."""
        event("run broke off", exit_code=int(exit_code))
