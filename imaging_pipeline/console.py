"""What a person at the terminal, or a log of a nightly job, sees of a run."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.outbox import Dispatch
from imaging_pipeline.records import SeriesIdentity, SeriesResult, SeriesTask, SkippedSeries, Status
from imaging_pipeline.tally import Tally

_LOG_WIDTH = 1000
"""Columns where there is no terminal: lines of a log are not broken."""


class Screen:
    """Progress on a terminal, one plain line a series elsewhere, and a summary."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        """Take standard output as it is: a terminal or not."""
        self._console = Console(highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console.width = _LOG_WIDTH
        self._quiet = quiet
        self._verbose = verbose
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """A line of news."""
        if not self._quiet:
            self._console.print(escape(text))

    def start(self, n_series: int) -> None:
        """Work on so many series begins."""
        if self._quiet or not self._console.is_terminal or not n_series:
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
        self._progress.add_task("series", total=n_series)
        self._progress.start()

    def result(self, result: SeriesResult) -> None:
        """A series is finished."""
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])
            if result.status is Status.FAILED or self._verbose:
                self._progress.console.print(escape(_line(result)))
        elif not self._quiet:
            self._console.print(escape(_line(result)))

    def stop(self) -> None:
        """Work is over."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

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


def say(text: str) -> None:
    """One line on standard output."""
    print(text, flush=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows in aligned columns on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    grid = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*map(escape, row))
    console.print(grid)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], object]]:
    """A bar on a terminal, nothing elsewhere; call what it yields once for each of `total` things."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bar:
        number = bar.add_task(what, total=total)
        yield lambda: bar.advance(number)


def show_error(error: PipelineError) -> None:
    """One line on standard error."""
    print(f"imaging_pipeline: {error.code}: {error.message}; {error.hint}", file=sys.stderr)


def show_stopping() -> None:
    """One line on standard error, from within a signal's handler: by the system call alone."""
    os.write(2, b"imaging_pipeline: stopping behind the series at work; Ctrl-C again ends at once\n")


def _cells(identity: SeriesIdentity) -> tuple[str, ...]:
    description = " ".join(
        filter(None, (identity.series_description, f"stack {identity.stack}" * bool(identity.stack)))
    )
    return (
        *(identity.series_key, identity.session_key, escape(identity.modality or "?"), escape(description)),
        str(identity.n_slices),
    )


def _line(result: SeriesResult) -> str:
    name = f"{result.status:7} {result.identity.modality or '?':2} {result.identity.series_key}"
    if result.status is not Status.DONE:
        return f"{name}  {result.reason_code}: {result.message}"
    volumes = ", ".join(f"{label} {volume:.2f} ml" for label, volume in list(result.volumes_ml.items())[:4])
    without = "".join(f"  no {item.format}: {item.code}" for item in result.formats_refused)
    return f"{name}  {result.mask_path or result.image_path}  {volumes}{without}".rstrip()
