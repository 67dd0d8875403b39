"""Numbers of a RESULTS as bars and boxes, in the coordinates of the page's drawings."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.records import Status
from imaging_pipeline.results.page.rows import Row

STAGES = ("decode", "open_model", "preprocess", "network", "postprocess", "measure", "write", "preview")
"""In the order in which a series goes through them."""

_N_BINS, _MOST_LABELS, _FEWEST_SERIES = 12, 12, 3
_Numbers = NDArray[np.float64]
WIDTH = 280.0
"""Of what is drawn, in the units of the drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar.

    Attributes:
        name: What it stands for.
        length: In units of the drawing.
        words: Its value for readers.
    """

    name: str
    length: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The volumes of one label: range, quartiles and median.

    Attributes:
        name: Of the label.
        points: Places of minimum, first quartile, median, third quartile and maximum in the drawing.
        words: The same five numbers for readers.
    """

    name: str
    points: tuple[float, ...]
    words: str


@dataclass(slots=True)
class Totals:
    """What is counted over all rows in one go: numbers, not rows.

    Attributes:
        models: Of all rows.
        flags: Of done series, by code.
        status: Series by status.
        n_flagged: Series with something to look at.
    """

    models: set[str] = field(default_factory=set)
    flags: Counter[str] = field(default_factory=Counter)
    status: Counter[str] = field(default_factory=Counter)
    n_flagged: int = 0
    _stages: Counter[str] = field(default_factory=Counter)
    _seconds: "array[float]" = field(default_factory=lambda: array("d"))
    _volumes: dict[tuple[str, str], "array[float]"] = field(default_factory=dict)
    _reasons: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Totals":
        """Go through rows once."""
        totals = cls()
        for row in rows:
            totals._add(row)
        return totals

    def counts(self) -> dict[str, int]:
        """Series by status, and those to look at."""
        by_status = {name.value: self.status[name] for name in Status}
        return {"series": self.status.total(), **by_status, "flagged": self.n_flagged}

    def reasons(self) -> list[dict[str, Any]]:
        """Skipped and failed series by reason: how many, one message, and what to do; failed ones first."""
        return sorted(self._reasons.values(), key=lambda item: (item["status"], -item["count"], item["code"]))

    def stages(self) -> list[Bar]:
        """Seconds of each stage over all series that are done."""
        return _stage_bars(self._stages)

    def durations(self) -> list[Bar]:
        """How many series took how long."""
        return _duration_bars(np.array(self._seconds))

    def volumes(self, model: str) -> list[Box]:
        """Volumes of a model's labels, where there are enough series to compare; the largest labels first."""
        return _volume_boxes({name: np.array(ml) for (of, name), ml in self._volumes.items() if of == model})

    def _add(self, row: Row) -> None:
        self.models.add(row["model"])
        self.status[row["status"]] += 1
        self.flags.update(flag["code"] for flag in row["flags"])
        self.n_flagged += bool(row["flags"])
        if row["status"] != Status.DONE:
            first = {name: row[name] for name in ("status", "code", "message", "hint")}
            self._reasons.setdefault((row["status"], row["code"]), {**first, "count": 0})["count"] += 1
            return
        self._stages.update(row["stages"])
        if row["seconds"] > 0:
            self._seconds.append(row["seconds"])
        for name, ml in row["volumes"].items():
            self._volumes.setdefault((row["model"], name), array("d")).append(ml)


def _stage_bars(total: Counter[str]) -> list[Bar]:
    whole, longest = sum(total.values()), max(total.values(), default=0.0)
    names = [name for name in (*STAGES, *sorted(total.keys() - set(STAGES))) if total[name] > 0]
    return [
        Bar(
            name=name.replace("_", " "),
            length=round(WIDTH * total[name] / longest, 1),
            words=f"{seconds(total[name])}, {total[name] / whole:.0%}",
        )
        for name in names
    ]


def _duration_bars(taken: _Numbers) -> list[Bar]:
    """In bins that widen by the same factor."""
    if taken.size < _FEWEST_SERIES:
        return []
    edges = np.geomspace(taken.min(), taken.max() * 1.001, _N_BINS + 1)
    counts, _ = np.histogram(taken, edges)
    return [
        Bar(name=f"{seconds(low)} to {seconds(high)}", length=float(count / counts.max()), words=str(count))
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]


def _volume_boxes(found: Mapping[str, _Numbers]) -> list[Box]:
    enough = {name: values for name, values in found.items() if values.size >= _FEWEST_SERIES}
    largest = max((float(values.max()) for values in enough.values()), default=0.0)
    if not largest:
        return []
    shown = sorted(enough, key=lambda name: -float(np.median(enough[name])))[:_MOST_LABELS]
    return [_box(name, enough[name], largest) for name in shown]


def _box(name: str, values: _Numbers, largest: float) -> Box:
    five = [float(value) for value in np.percentile(values, (0, 25, 50, 75, 100))]
    low, first, median, third, high = (f"{value:.3g}" for value in five)
    return Box(
        name=name,
        points=tuple(round(WIDTH * value / largest, 1) for value in five),
        words=f"median {median} ml, half of the series {first} to {third}, all {low} to {high}",
    )


def seconds(value: float) -> str:
    """A time in words."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes = value / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
