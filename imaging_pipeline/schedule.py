"""The plan of a run: which series share a partition, and how long all of them will take."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imaging_pipeline.bins import deal, makespan
from imaging_pipeline.cost import Estimate, Lesson, Rates, rates_from
from imaging_pipeline.intake.found import PackedTask
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
        bins: Series by partition, the heaviest partition first.
        n_slots: Partitions that are worked through beside each other.
        estimate: What series were weighed by.
    """

    bins: tuple[tuple[PackedTask, ...], ...]
    n_slots: int
    estimate: Estimate

    @property
    def tasks(self) -> list[PackedTask]:
        """All series, bin after bin."""
        return [task for members in self.bins for task in members]

    @property
    def predicted_seconds(self) -> float:
        """When the last bin is done, counted from the start of the first."""
        return makespan([sum(map(self.estimate, members)) for members in self.bins], self.n_slots)

    @property
    def ideal_seconds(self) -> float:
        """What no plan can go below: all work by all slots, or the longest series."""
        seconds = [self.estimate(task) for task in self.tasks]
        return max(sum(seconds) / self.n_slots, max(seconds, default=0.0))

    def where(self, wanted: Callable[[PackedTask], bool]) -> "Schedule":
        """The same bins with some of their series; bins without any are left out."""
        bins = (tuple(task for task in members if wanted(task)) for members in self.bins)
        return replace(self, bins=tuple(members for members in bins if members))

    def in_words(self) -> str:
        """One line for a person."""
        basis = "as measured in the last run" if self.estimate.is_learned else "by default rates"
        return (
            f"plan: {len(self.tasks)} series in {len(self.bins)} bins on {self.n_slots} slots, "
            f"predicted {self.predicted_seconds:.1f} s {basis} (ideal balance {self.ideal_seconds:.1f} s)"
        )

    def forecast(self) -> dict[str, Any]:
        """What run.json says of a plan before anything is done; rates of an earlier run are handed on."""
        content = {
            "series": len(self.tasks),
            "bins": len(self.bins),
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


def plan(tasks: Sequence[PackedTask], job: Job, slots: Slots) -> Schedule:
    """Deal the series of a run into bins, weighed by what such series took in the last run with the same model.

    Args:
        tasks: Series to work through.
        job: Names model and RESULTS.
        slots: Where they are worked through.
    """
    outline = None if job.bundle is None else outline_of(job.bundle)
    rates = _rates_of_last_run(job)
    estimate = Estimate(outline=outline, rates=rates or Rates(), is_learned=rates is not None)
    bins = deal(tasks, slots.n, slots.bins_each, estimate)
    return Schedule(bins=tuple(map(tuple, bins)), n_slots=slots.n, estimate=estimate)


def _rates_of_last_run(job: Job) -> Rates | None:
    try:
        content = json.loads(job.out.read(layout.RUN))
        if content["model"]["digest"] != ("" if job.bundle is None else job.bundle.digest):
            return None
        return rates_from(content[KEY]["rates"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
