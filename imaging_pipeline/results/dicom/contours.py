"""Outlines of a label on one plane as closed polygons, holes joined to what is around them by keyholes.

A contour runs half-way between the centres of pixels inside and outside: whoever asks which pixel centres it encloses
gets the mask back. A keyhole is a cut of no width from a hole to the contour around it, along a line on which no pixel
centre lies; so one polygon holds a region with its holes, and readers that fill each polygon by itself are right.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from contourpy import FillType, LineType, contour_generator
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""(N, 2) points (column, row), the last not the first again; centres of pixels are whole numbers."""

_LEVEL, _BEYOND = 0.5, 2.0


def outlines(mask: NDArray[np.bool_]) -> Iterator[Ring]:
    """Every island of a mask (row, column), with its holes."""
    padded = np.pad(mask, 1).astype(np.float32)
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    filled = generator.filled(_LEVEL, _BEYOND)
    for points, offsets in zip(*filled, strict=True):
        rings = [points[start : stop - 1] - 1.0 for start, stop in pairwise(offsets)]
        yield _without_midpoints(_joined(rings[0], rings[1:]))


def rings(mask: NDArray[np.bool_]) -> Iterator[Ring]:
    """Lines around every island of a mask (row, column) and around every hole, to be drawn rather than filled."""
    padded = np.pad(mask, 1).astype(np.float32)
    for line in contour_generator(z=padded, line_type=LineType.Separate).lines(_LEVEL):
        yield np.asarray(line, np.float64)[:-1] - 1.0


def _joined(outer: Ring, holes: list[Ring]) -> Ring:
    """One polygon of an island and its holes.

    From the upper edge of each hole, between two rows of pixels, a cut goes to the right until it meets the polygon.
    Holes that begin higher up, or further to the right at the same height, come first: whatever a cut meets has been
    joined already.
    """
    for start, hole in sorted((_start(hole), number) for number, hole in enumerate(holes)):
        ring, (row, column) = holes[hole], (start[0], -start[1])
        first = int(np.flatnonzero((ring[:, 1] == row) & (ring[:, 0] == column))[0])
        around = np.roll(ring, -first, axis=0)
        last, place = _first_met(outer, column, row)
        outer = np.concatenate((outer[: last + 1], place, around, around[:1], place, outer[last + 1 :]))
    return outer


def _first_met(ring: Ring, column: float, row: float) -> tuple[int, Ring]:
    """The first point of a polygon to the right of a point, as (1, 2), and the index of the edge that it is on."""
    ends = np.roll(ring, -1, axis=0)
    crosses = (ring[:, 1] == row) | ((ring[:, 1] - row) * (ends[:, 1] - row) < 0)  # at its start, or upright
    met = np.flatnonzero(crosses & (ring[:, 0] > column))
    edge = int(met[np.argmin(ring[met, 0])])
    return edge, np.array([[ring[edge, 0], row]])


def _start(hole: Ring) -> tuple[float, float]:
    """Row of a hole's upper edge and, negative, the last column of it: where its cut begins."""
    row = float(hole[:, 1].min())
    return row, -float(hole[hole[:, 1] == row, 0].max())


def _without_midpoints(ring: Ring) -> Ring:
    """The same polygon without repeated points and those on straight lines."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    goes_back = (before * after).sum(axis=1) < 0  # the tip of a keyhole
    kept: Ring = ring[(np.abs(turns) > 1e-9) | goes_back]
    return kept
