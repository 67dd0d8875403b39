"""What a person at the terminal, or a log of a nightly job, sees of a run."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from imaging_pipeline.console.lines import open_console, show_stopping
from imaging_pipeline.errors import Code
from imaging_pipeline.job import Job
from imaging_pipeline.outbox import Dispatch
from imaging_pipeline.records import SeriesIdentity, SeriesResult, SeriesTask, SkippedSeries, Status
from imaging_pipeline.schedule import Schedule
from imaging_pipeline.tally import Tally

if TYPE_CHECKING:
    from imaging_pipeline.console.show import Show

_STYLES = {Status.DONE: "green", Status.SKIPPED: "yellow", Status.FAILED: "bold red"}


class Screen:
    """Progress on a terminal, one plain line a series elsewhere, and a summary."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        """Take standard output as it is: a terminal or not."""
        self._console = open_console()
        self._quiet = quiet
        self._verbose = verbose
        self._show: Show | None = None
        self._is_busy = False

    def say(self, text: str) -> None:
        """A line of news."""
        if not self._quiet:
            self._console.print(escape(text))

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say on a terminal, for as long as the block lasts, what it is that takes its time."""
        if self._quiet or not self._console.is_interactive:
            yield
            return
        self._is_busy = True
        try:
            with self._console.status(escape(f"{what} ...")):
                yield
        finally:
            self._is_busy = False

    def stopping(self) -> None:
        """The run was asked to end; from within a signal's handler, where a display may be half drawn."""
        if self._show is not None and self._show.is_live:
            self._show.is_stopping = True
            if os.isatty(2):
                return
        show_stopping(over=self._is_busy and os.isatty(2))

    def start(self, schedule: Schedule, job: Job) -> None:
        """Work on the series of a plan begins."""
        if not self._quiet and len(schedule.tasks):
            from imaging_pipeline.console.show import Show  # other commands have no use for what it imports

            self._show = Show(self._console, schedule, job)
            self._show.start()

    def result(self, result: SeriesResult) -> None:
        """A series is finished; on a terminal only those that failed have a line, or all with --verbose."""
        if self._show is not None:
            self._show.finish(result.identity.series_key)
        is_told = not self._console.is_interactive or result.status is Status.FAILED or self._verbose
        if is_told and not self._quiet:
            self._console.print(_line(result))

    def stop(self) -> None:
        """Work is over."""
        if self._show is not None:
            self._show.stop()
            self._show = None

    def files(self, tally: Tally, paths: Iterable[tuple[str, str]]) -> None:
        """What the listing found; file names only with --verbose, for folders are named after patients."""
        others = [f"{count} {code}" for code, count in sorted(tally.files.items()) if code != "dicom"]
        copies = [f"{tally.duplicates} copies of an instance"] if tally.duplicates else []
        self.say(f"files: {tally.files['dicom']} DICOM" + "".join(f", {text}" for text in [*others, *copies]))
        if self._verbose:
            for path, reason in paths:
                self.say(f"  {path}: {reason}")

    def given_up(self, n_series: int, out: str) -> None:
        """Series of earlier runs that are not tried again."""
        command = f"python -m imaging_pipeline.rerun {out} --failed --code {Code.WORKER_CRASH}"
        self.say(f"given up: {n_series} series that ended the process that worked on them; again by: {command}")

    def table(
        self,
        tasks: Iterable[SeriesTask],
        skipped: Iterable[SkippedSeries],
        given_up: Iterable[SeriesResult],
        done: Iterable[str],
    ) -> None:
        """The plan of a dry run: every series and why it is taken or skipped."""
        table = Table("series", "study", "modality", "description", "slices", "verdict", box=None, pad_edge=False)
        finished = set(done)
        for task in tasks:
            again = "already done" if task.identity.series_key in finished else "taken"
            if task.recomputed_because:
                again = f"again: {task.recomputed_because}"
            size = f"{task.columns} x {task.rows} x {task.depth}, geometry {task.verdict}"
            notes = [f"{finding.code}: {finding.message}" for finding in task.findings]
            table.add_row(*_cells(task.identity), escape("; ".join((f"{again}: {size}", *notes))))
        for item in skipped:
            fate = "failed" if item.code.is_failure else "skipped"
            table.add_row(*_cells(item.identity), escape(f"{fate}: {item.code}: {item.message}"))
        for result in given_up:
            table.add_row(*_cells(result.identity), escape(f"given up: {result.reason_code}: {result.message}"))
        self._console.print(table)

    def summary(self, tally: Tally, seconds: float) -> None:
        """How the run ended."""
        fates, found = tally.fates, tally.n_results + tally.already_done + tally.left
        self._console.print(
            f"{found} series found: {fates[Status.DONE]} done, {tally.already_done} already done, "
            f"{fates[Status.SKIPPED]} skipped, {fates[Status.FAILED]} failed, in {seconds:.1f} s"
        )
        if tally.left:
            self._console.print(f"  stopped: {tally.left} series are left for the next run")
        for (kind, code), count in sorted(tally.refused.items()):
            self._console.print(escape(f"  done without {kind}: {count} x {code}"))
        if tally.flags:
            counts = ", ".join(f"{count} x {code}" for code, count in sorted(tally.flags.items()))
            self._console.print(escape(f"  to look at: {tally.flagged} series ({counts})"))
        for code, count in tally.reasons_of(Status.SKIPPED).items():
            self._console.print(escape(f"  skipped {count} x {code}"))
        for failure in tally.failures:
            name = f"{failure.modality} {failure.series_key}"
            self._console.print(escape(f"  failed {name}: {failure.code}: {failure.message}; {failure.hint}"))
        if n_more := fates[Status.FAILED] - len(tally.failures):
            self._console.print(
                f"  failed {n_more} more: `python -m imaging_pipeline.query RESULTS --failed` names them"
            )
        if tally.dispatch is not None:
            self.dispatch(tally.dispatch)

    def dispatch(self, dispatch: Dispatch) -> None:
        """How sending ended; objects that share a reason share a line."""
        counts = f"{dispatch.n_sent} sent, {dispatch.n_there} already there, {len(dispatch.unsent)} not sent"
        waiting = f", {dispatch.n_waiting} waiting" if dispatch.n_waiting else ""
        self._console.print(escape(f"objects for {dispatch.destination}: {counts}{waiting}"))
        reasons = Counter((item.code, item.message, item.hint) for item in dispatch.unsent)
        for (code, message, hint), count in sorted(reasons.items()):
            self._console.print(escape(f"  failed {count} x {code}: {message}; {hint}"))


def _cells(identity: SeriesIdentity) -> tuple[str, ...]:
    description = " ".join(
        filter(None, (identity.series_description, f"stack {identity.stack}" * bool(identity.stack)))
    )
    return (
        *(identity.series_key, identity.session_key, escape(identity.modality or "?"), escape(description)),
        str(identity.n_slices),
    )


def _line(result: SeriesResult) -> Text:
    status = (f"{result.status:7}", _STYLES[result.status])
    return Text.assemble(status, f" {result.identity.modality or '?':2} {result.identity.series_key}  {_told(result)}")


def _told(result: SeriesResult) -> str:
    if result.status is not Status.DONE:
        return f"{result.reason_code}: {result.message}"
    volumes = ", ".join(f"{label} {volume:.2f} ml" for label, volume in list(result.volumes_ml.items())[:4])
    without = "".join(f"  no {item.format}: {item.code}" for item in result.formats_refused)
    return f"{result.mask_path or result.image_path}  {volumes}{without}".rstrip()
