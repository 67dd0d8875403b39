"""How far a run has come, how fast it is, and when it will be over: from predicted seconds of what is done and left."""

import math
import threading
import time
from collections.abc import Callable, Mapping

from imaging_pipeline.schedule import Schedule

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400

_PRIOR_SHARE = 0.05
"""Rates of an earlier run count at first as much as this share of the work, done as predicted; less and less later."""

_MOST_CREDIT = 0.9
"""A series at work is taken for at most so far, however long it has been."""

_TURNS = 4

_FEW_AN_HOUR = 300


class Pace:
    """Series that are done and left, weighed by predicted seconds.

    What real seconds are to predicted ones is learned as the run goes on: predictions may be off by any factor, as long
    as it is much the same one for all series.
    """

    def __init__(self, schedule: Schedule, clock: Callable[[], float] = time.monotonic) -> None:
        """The work begins.

        Args:
            schedule: Its plan.
            clock: Seconds.
        """
        self._left, self._seconds = schedule.tasks.remaining(), schedule.seconds
        self._total = float(self._seconds.sum())
        self._prior = _PRIOR_SHARE * self._total if schedule.estimate.is_learned else 0.0
        self._n_slots = schedule.n_slots
        self._clock = clock
        self._began = self._seen_at = clock()
        self._done = self._busy = 0.0
        self._lock = threading.Lock()
        self.n_total, self.n_done = len(self._left), 0

    def finish(self, series_key: str) -> None:
        """A series is done, or as good as that."""
        with self._lock:
            self._catch_up()
            if self._left.discard(series_key):
                self._done += self._predicted(series_key)
                self.n_done += 1

    @property
    def share(self) -> float:
        """Share of the work that is done, by predicted seconds."""
        return self._done / self._total if self._total else 1.0

    @property
    def elapsed_seconds(self) -> float:
        """Since the work began."""
        return self._clock() - self._began

    def is_left(self, series_key: str) -> bool:
        """Whether a series is still to be finished."""
        return series_key in self._left

    def seconds_left(self, at_work: Mapping[str, float]) -> float | None:
        """When all will be done; None as long as nobody can know.

        Args:
            at_work: Seconds since each series at work was begun.
        """
        with self._lock:
            self._catch_up()
            at_work = {key: seconds for key, seconds in at_work.items() if key in self._left}
            left, n_left = self._left.is_left.copy(), len(self._left)
        if not n_left:
            return 0.0
        if not self._prior and self.n_done < min(self._n_slots, math.ceil(self.n_total / 4)):
            return None
        factor, credit = self._factor(at_work)
        together = factor * (float(self._seconds[left].sum()) - credit) / min(self._n_slots, n_left)
        longest = factor * self._seconds
        for key, seconds in at_work.items():
            longest[self._left.place_of(key)] -= seconds
        return max(together, float(longest[left].max()), 0.0)

    def in_words(self, n_at_work: int, seconds_left: float | None) -> str:
        """One line: `120 of 400 series, 31 % of the work, 84 series/h, about 2 h 10 min left, 2 at work`."""
        parts = [f"{self.n_done} of {self.n_total} series", f"{int(100 * self.share + 1e-6)} % of the work"]
        if self.n_done and self.elapsed_seconds > 0:
            parts.append(_rate(self.n_done / self.elapsed_seconds))
        if seconds_left is not None and self.n_done < self.n_total:
            parts.append(f"about {duration(seconds_left)} left")
        if n_at_work:
            parts.append(f"{n_at_work} at work")
        return ", ".join(parts)

    def _catch_up(self) -> None:
        """Count the time of slots that had something to do."""
        now = self._clock()
        self._busy += (now - self._seen_at) * min(self._n_slots, len(self._left))
        self._seen_at = now

    def _predicted(self, series_key: str) -> float:
        return float(self._seconds[self._left.place_of(series_key)])

    def _factor(self, at_work: Mapping[str, float]) -> tuple[float, float]:
        """Real seconds for a predicted one, and predicted seconds of series at work that are behind them.

        Each follows from the other, so they are found by turns.
        """
        prior = self._prior * (1 - self.share) ** 2
        factor, credit = self._busy / self._done if self._done else 1.0, 0.0
        for _ in range(_TURNS):
            credit = self._credit(at_work, factor)
            factor = (self._busy + prior) / (self._done + credit + prior)
        return factor, credit

    def _credit(self, at_work: Mapping[str, float], factor: float) -> float:
        """Predicted seconds that series at work have behind them; a slot may have several, but works on one."""
        behind = (min(seconds / factor, _MOST_CREDIT * self._predicted(key)) for key, seconds in at_work.items())
        return sum(behind) * min(1.0, self._n_slots / max(len(at_work), 1))


def duration(seconds: float) -> str:
    """Seconds in words, no more exact than a forecast is."""
    if seconds < _MINUTE - 2.5:
        return f"{max(5 * round(seconds / 5), 5)} s"
    if seconds < _HOUR - 30:
        return f"{max(round(seconds / _MINUTE), 1)} min"
    minutes = 5 * round(seconds / _MINUTE / 5)
    if seconds < 10 * _HOUR:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{round(seconds / _HOUR)} h" if seconds < 2 * _DAY else f"{round(seconds / _DAY)} days"


def _rate(per_second: float) -> str:
    per_hour = per_second * _HOUR
    if per_hour >= _FEW_AN_HOUR:
        return f"{per_second * _MINUTE:.0f} series/min"
    return f"{per_hour:.0f} series/h" if per_hour >= 10 else f"{per_hour:.1f} series/h"
