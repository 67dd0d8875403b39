"""Numbers of a RESULTS as bars and boxes, in the coordinates of the page's drawings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imaging_pipeline.records import Status
from imaging_pipeline.results.page.rows import Row

STAGES = ("decode", "open_model", "preprocess", "network", "postprocess", "measure", "write", "preview")
"""In the order in which a series goes through them."""

_N_BINS, _MOST_LABELS, _FEWEST_SERIES = 12, 12, 3
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


def stage_bars(rows: Sequence[Row]) -> list[Bar]:
    """Seconds of each stage over all series that are done."""
    total: Counter[str] = Counter()
    for row in rows:
        if row["status"] == Status.DONE:
            total.update(row["stages"])
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


def duration_bars(rows: Sequence[Row]) -> list[Bar]:
    """How many series took how long, in bins that widen by the same factor."""
    taken = np.array([row["seconds"] for row in rows if row["status"] == Status.DONE and row["seconds"] > 0])
    if taken.size < _FEWEST_SERIES:
        return []
    edges = np.geomspace(taken.min(), taken.max() * 1.001, _N_BINS + 1)
    counts, _ = np.histogram(taken, edges)
    return [
        Bar(name=f"{seconds(low)} to {seconds(high)}", length=float(count / counts.max()), words=str(count))
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]


def volume_boxes(rows: Sequence[Row], model: str) -> list[Box]:
    """Volumes of a model's labels, where there are enough series to compare; the largest labels first."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] == Status.DONE and row["model"] == model:
            for name, ml in row["volumes"].items():
                found.setdefault(name, []).append(ml)
    enough = {name: np.array(values) for name, values in found.items() if len(values) >= _FEWEST_SERIES}
    largest = max((float(values.max()) for values in enough.values()), default=0.0)
    if not largest:
        return []
    shown = sorted(enough, key=lambda name: -float(np.median(enough[name])))[:_MOST_LABELS]
    return [_box(name, enough[name], largest) for name in shown]


def _box(name: str, values: "np.ndarray[tuple[int], np.dtype[np.float64]]", largest: float) -> Box:
    five = [float(value) for value in np.percentile(values, (0, 25, 50, 75, 100))]
    low, first, median, third, high = (f"{value:.3g}" for value in five)
    return Box(
        name=name,
        points=tuple(round(WIDTH * value / largest, 1) for value in five),
        words=f"median {median} ml, half of the series {first} to {third}, all {low} to {high}",
    )


def reasons(rows: Sequence[Row]) -> list[Mapping[str, object]]:
    """Skipped and failed series by reason: how many, one message, and what to do; failed ones first."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["status"] != Status.DONE:
            grouped.setdefault((row["status"], row["code"]), []).append(row)
    order = sorted(grouped.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
    return [
        {"status": status, "code": code, "count": len(group), "message": group[0]["message"], "hint": group[0]["hint"]}
        for (status, code), group in order
    ]


def seconds(value: float) -> str:
    """A time in words."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes = value / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
