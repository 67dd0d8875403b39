"""The progress of a run: a display that lives on a terminal, a line now and then elsewhere."""

import logging
import threading
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from imaging_pipeline.console.at_work import AtWork
from imaging_pipeline.console.lines import STOPPING
from imaging_pipeline.console.pace import Pace
from imaging_pipeline.job import Job
from imaging_pipeline.schedule import Schedule

_POLLS_A_LOOK = 8
"""A look at what is at work for so many looks at what is done: every 2 s in a folder, every 16 s in a store."""

_FIRST_SECONDS = 0.5
"""The first look, when series have been begun."""

_LINE_SECONDS, _SILENCE_SECONDS = 60.0, 600.0
"""Lines of a log are at least so far apart; where no series was finished, so far."""

_MOST_ROWS, _OTHER_ROWS = 8, 6
"""Series at work that are shown, and rows of a terminal that are left for the rest."""

_BAR_WIDTH = 40


class Show:
    """Shows a run from a thread of its own, which ends with it; what goes wrong there is none of the run's business."""

    def __init__(
        self, console: Console, schedule: Schedule, job: Job, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show nothing yet.

        Args:
            console: Where.
            schedule: Plan of the run.
            job: The run.
            clock: Seconds.
        """
        self._console = console
        self._pace = Pace(schedule, clock)
        self._at_work = AtWork(schedule, job, clock)
        self._clock = clock
        self._seconds_left: float | None = None
        self._told_at, self._told_done = clock(), 0
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self.is_stopping = False
        self._ended = threading.Event()
        seconds = _POLLS_A_LOOK * job.out.poll_seconds
        self._thread = threading.Thread(target=self._follow, args=(seconds,), name="progress", daemon=True)

    @property
    def is_live(self) -> bool:
        """Whether it is a display, which says itself that the run `is_stopping`."""
        return self._live is not None

    def start(self) -> None:
        """The work begins."""
        if self._console.is_interactive:
            self._live = Live(get_renderable=self._drawn, console=self._console, transient=True)
            self._live.start()
        self._thread.start()

    def finish(self, series_key: str) -> None:
        """A series is finished."""
        self._pace.finish(series_key)

    def stop(self) -> None:
        """The work is over; a look that has not come back by now is not waited for."""
        self._ended.set()
        self._thread.join(timeout=1.0)
        if self._live is not None:
            self._live.stop()

    def tick(self) -> None:
        """Look what is at work, reckon, and tell where it is time to."""
        self._at_work.look()
        self._seconds_left = self._pace.seconds_left(self._at_work.seconds())
        if self._live is None and not self._ended.is_set() and self._is_due():
            self._told_at, self._told_done = self._clock(), self._pace.n_done
            self._console.print(escape(self._words()))

    def _follow(self, seconds: float) -> None:
        try:
            self._ended.wait(_FIRST_SECONDS)
            while not self._ended.is_set():
                self.tick()
                self._ended.wait(seconds)
        except Exception:  # nobody is to lose a run over how it is shown
            logging.getLogger(__name__).exception("the progress is not followed any further")

    def _is_due(self) -> bool:
        is_news = self._pace.n_done > self._told_done
        return self._clock() - self._told_at >= (_LINE_SECONDS if is_news else _SILENCE_SECONDS)

    def _words(self) -> str:
        n_at_work = sum(map(self._pace.is_left, self._at_work.begun()))
        return self._pace.in_words(n_at_work, self._seconds_left)

    def _drawn(self) -> RenderableType:
        """The display of this moment; it is asked for by whoever prints a line, too."""
        try:
            return self._display()
        except Exception:  # as above
            logging.getLogger(__name__).exception("the progress cannot be shown")
            return Text("")

    def _display(self) -> RenderableType:
        pace, now = self._pace, self._clock()
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=pace.share, width=_BAR_WIDTH)
        head.add_row(self._spinner, bar, Text(_clock_face(pace.elapsed_seconds)))
        rows = [begun for key, begun in self._at_work.begun().items() if pace.is_left(key)]
        n_shown = max(min(_MOST_ROWS, self._console.height - _OTHER_ROWS), 0)
        lines = [
            f"  {begun.identity.modality or '?':2} {begun.identity.series_key}  {_clock_face(now - begun.at)}"
            for begun in rows[:n_shown]
        ]
        more = [f"  and {len(rows) - n_shown} more"] if len(rows) > n_shown else []
        head_lines = [Text(self._words()), *[Text(STOPPING, style="yellow")] * self.is_stopping]
        return Group(head, *head_lines, *(Text(line, style="dim") for line in (*lines, *more)))


def _clock_face(seconds: float) -> str:
    """Hours, minutes and seconds, as on a clock."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
