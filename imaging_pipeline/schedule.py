"""The plan of a run: which series share a partition, and how long all of them will take."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.bins import Places, deal, makespan
from imaging_pipeline.cost import Estimate, Lesson, Rates, rates_from
from imaging_pipeline.intake.found import Tasks
from imaging_pipeline.job import Job
from imaging_pipeline.results import layout
from imaging_pipeline.segment.outline import outline_of

KEY = "plan"
"""Where run.json holds a plan and what became of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Where partitions of series are worked through.

    Attributes:
        n: Partitions at a time.
        bins_each: Partitions for each of these places, one behind the other.
    """

    n: int
    bins_each: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Bins of series and the slots that they are dealt to.

    Attributes:
        tasks: Series of the run.
        places: Of series among them by bin, the heaviest bin first.
        n_slots: Bins that are worked through beside each other.
        estimate: What series are weighed by.
        seconds: What each series is predicted to take.
    """

    tasks: Tasks
    places: tuple[Places, ...]
    n_slots: int
    estimate: Estimate
    seconds: NDArray[np.float64] = field(repr=False)

    @property
    def bins(self) -> tuple[Tasks, ...]:
        """Series by partition, the heaviest partition first."""
        return tuple(self.tasks.part(self.tasks.rows[members]) for members in self.places)

    @property
    def predicted_seconds(self) -> float:
        """When the last bin is done, counted from the start of the first."""
        return makespan([float(self.seconds[members].sum()) for members in self.places], self.n_slots)

    @property
    def ideal_seconds(self) -> float:
        """What no plan can go below: all work by all slots, or the longest series."""
        return float(max(self.seconds.sum() / self.n_slots, self.seconds.max(initial=0.0)))

    def where(self, is_wanted: NDArray[np.bool_]) -> "Schedule":
        """The same bins with some of their series; bins without any are left out.

        Args:
            is_wanted: Which, in the order of `tasks`.
        """
        places = (members[is_wanted[members]] for members in self.places)
        return replace(self, places=tuple(members for members in places if members.size))

    def in_words(self) -> str:
        """One line for a person."""
        basis = "as measured in the last run" if self.estimate.is_learned else "by default rates"
        return (
            f"plan: {len(self.tasks)} series in {len(self.places)} bins on {self.n_slots} slots, "
            f"predicted {self.predicted_seconds:.1f} s {basis} (ideal balance {self.ideal_seconds:.1f} s)"
        )

    def forecast(self) -> dict[str, Any]:
        """What run.json says of a plan before anything is done; rates of an earlier run are handed on."""
        content = {
            "series": len(self.tasks),
            "bins": len(self.places),
            "slots": self.n_slots,
            "predicted_seconds": round(self.predicted_seconds, 3),
            "ideal_seconds": round(self.ideal_seconds, 3),
        }
        return {**content, "rates": asdict(self.estimate.rates)} if self.estimate.is_learned else content

    def lesson(self) -> Lesson:
        """Learns from the results of this plan."""
        return Lesson(self.estimate, self.tasks)

    def outcome(self, lesson: Lesson, real_seconds: float) -> dict[str, Any]:
        """What run.json says of a plan that was worked through: what it took, and the rates for the next run."""
        rates = lesson.rates()
        found = {"rates": asdict(rates)} if rates != self.estimate.rates else {}
        return {**self.forecast(), "real_seconds": round(real_seconds, 3), **found}


def plan(tasks: Tasks, job: Job, slots: Slots) -> Schedule:
    """Deal the series of a run into bins, weighed by what such series took in the last run with the same model.

    Args:
        tasks: Series to work through.
        job: Names model and RESULTS.
        slots: Where they are worked through.
    """
    outline = None if job.bundle is None else outline_of(job.bundle)
    rates = _rates_of_last_run(job)
    estimate = Estimate(outline=outline, rates=rates or Rates(), is_learned=rates is not None)
    seconds = np.fromiter(map(estimate, tasks), np.float64, len(tasks))
    places = tuple(deal(seconds, slots.n, slots.bins_each))
    return Schedule(tasks=tasks, places=places, n_slots=slots.n, estimate=estimate, seconds=seconds)


def _rates_of_last_run(job: Job) -> Rates | None:
    try:
        content = json.loads(job.out.read(layout.RUN))
        if content["model"]["digest"] != ("" if job.bundle is None else job.bundle.digest):
            return None
        return rates_from(content[KEY]["rates"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
