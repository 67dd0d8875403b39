"""How long a series will take, from its size, the model's windows, and what series of an earlier run took."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from imaging_pipeline.intake.found import PackedTask, Tasks
from imaging_pipeline.records import SeriesResult, SeriesTask, Status
from imaging_pipeline.segment.outline import Outline

Task = SeriesTask | PackedTask

_MEGA = 1e6
_STAGES = {
    "read": ("decode",),
    "voxels": ("preprocess", "postprocess", "measure", "write"),
    "network": ("network",),
}
"""What each rate is learned from: stages of a receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done for a series.

    Attributes:
        megabytes: To read.
        voxels: Millions on the native grid.
        inputs: Millions that go through the network, overlaps of windows included.
    """

    megabytes: float
    voxels: float
    inputs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Seconds on one slot. The defaults are those of the CPU that the benchmarks ran on.

    Attributes:
        series: For any series.
        read: For a megabyte read and decoded.
        voxels: For a million native voxels resampled, restored and written.
        network: For a million voxels through the network.
    """

    series: float = 0.02
    read: float = 0.003
    voxels: float = 0.03
    network: float = 0.5

    def seconds(self, work: Work) -> float:
        """What a series is predicted to take."""
        return self.series + self.read * work.megabytes + self.voxels * work.voxels + self.network * work.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Predicts seconds of series for one model.

    Attributes:
        outline: Grid and windows of the model; None where volumes only are made.
        rates: Seconds for each kind of work.
        is_learned: The rates are those of an earlier run with this model, not the defaults.
    """

    outline: Outline | None
    rates: Rates = Rates()
    is_learned: bool = False

    def __call__(self, task: Task) -> float:
        """Seconds of a series on one slot."""
        return self.rates.seconds(self.work(task))

    def work(self, task: Task) -> Work:
        """What is to be done for a series."""
        shape = (task.columns, task.rows, task.depth)
        step_mm = math.hypot(*task.step_mm) or 1.0
        row_mm, column_mm = task.pixel_spacing_mm
        inputs = 0 if self.outline is None else self.outline.n_inputs(shape, (column_mm, row_mm, step_mm))
        return Work(megabytes=task.size_bytes / _MEGA, voxels=task.n_voxels / _MEGA, inputs=inputs / _MEGA)


class Lesson:
    """What a run teaches: all seconds of its stages by all of its work; it holds sums, not results."""

    def __init__(self, estimate: Estimate, tasks: Tasks) -> None:
        """Know nothing yet.

        Args:
            estimate: What the run was planned by.
            tasks: Its series.
        """
        self._estimate = estimate
        self._tasks = tasks
        self._left = tasks.remaining()
        self._amounts = dict.fromkeys(_STAGES, 0.0)
        self._seconds = dict.fromkeys(_STAGES, 0.0)

    def add(self, result: SeriesResult) -> None:
        """Take in what became of a series; only those that are done teach something."""
        key = result.identity.series_key
        if not self._left.discard(key) or result.status is not Status.DONE:
            return
        work = self._estimate.work(self._tasks[key])
        amounts = {"read": work.megabytes, "voxels": work.voxels, "network": work.inputs}
        for rate, stages in _STAGES.items():
            self._amounts[rate] += amounts[rate]
            self._seconds[rate] += sum(result.stage_seconds.get(stage, 0.0) for stage in stages)

    def rates(self) -> Rates:
        """Rates of the run; as before where it has done none of a kind."""
        sums = {rate: (self._seconds[rate], self._amounts[rate]) for rate in _STAGES}
        found = {rate: seconds / amount for rate, (seconds, amount) in sums.items() if amount > 0 and seconds > 0}
        return replace(self._estimate.rates, **found)


def rates_from(content: Mapping[str, Any]) -> Rates | None:
    """Rates out of a run's account; None where they are incomplete or no positive numbers."""
    names = [item.name for item in fields(Rates)]
    values = [content.get(name) for name in names]
    if not all(isinstance(value, int | float) and 0 < value < math.inf for value in values):
        return None
    return Rates(**dict(zip(names, map(float, values), strict=True)))  # type: ignore[arg-type]
