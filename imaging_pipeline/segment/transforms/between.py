"""Labels between voxels, on the CPU, without interpolating what cannot win: cell by cell between two planes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imaging_pipeline.compiled import compiled
from imaging_pipeline.segment.transforms.cells import fill_cells
from imaging_pipeline.segment.transforms.geometry import Source
from imaging_pipeline.segment.transforms.places import Taps

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_PARTS = 4
"""Shares of a plane for each thread: where labels change often, a share takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """An old plane.

    Attributes:
        values: (A, B, C) activated scores, classes last: those of a voxel lie together.
        labels: (A, B) the channel with the largest one, the first of several.
    """

    values: Floats
    labels: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """New planes that lie between the same two old ones.

    Attributes:
        new: Their indices.
        low: The old plane before them.
        high: The one behind; the same where they lie on it.
        weight: (new, 2) what both add.
    """

    new: slice
    low: int
    high: int
    weight: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """New voxels along an axis.

    Attributes:
        index: (2, N) old voxels that each lies between.
        weight: (2, N) what both add.
        starts: Where runs of new voxels between the same two old ones begin; N at the end.
    """

    index: Indices
    weight: Floats
    starts: Indices


def fill_between(out: NDArray[Any], taps: Sequence[Taps | None], source: Source, axis: int, *, backwards: bool) -> None:
    """Make the labels of a new grid from scores on an old one: the channel with the largest value in each voxel.

    Args:
        out: (I', J', K') to fill.
        taps: For each axis, what makes the new voxels.
        source: Gives (C, I, J, K) slabs of the old grid on the CPU; it is asked for single planes in order.
        axis: The axis that planes follow each other along.
        backwards: From the last plane to the first.
    """
    planes, others = np.moveaxis(out, axis, 0), [n for n in range(3) if n != axis]
    rows, columns = (_line(taps[n], out.shape[n]) for n in others)
    n_threads = torch.get_num_threads()
    bounds = np.linspace(0, len(rows.starts) - 1, n_threads * _PARTS + 1).astype(int)
    parts = [rows.starts[first : last + 1] for first, last in pairwise(bounds) if first < last]
    held: dict[int, Plane] = {}
    with ThreadPoolExecutor(n_threads) as pool:
        for pair in _pairs(taps[axis], out.shape[axis], backwards=backwards):
            ends = sorted({pair.low, pair.high}, reverse=backwards)
            held = {n: held[n] if n in held else _plane(source(axis, n, n + 1), axis) for n in ends}
            work = partial(_fill, planes[pair.new], pair.weight, held[pair.low], held[pair.high], rows, columns)
            list(pool.map(work, parts))
    for n, tap in enumerate(taps):
        if tap is not None and tap.weight is not None:
            np.moveaxis(out, n, 0)[(tap.weight.sum(0) == 0).numpy()] = 0  # outside, where all values are 0


def _fill(
    out: NDArray[Any], weight: Floats, low: Plane, high: Plane, rows: Line, columns: Line, row_starts: Indices
) -> None:
    _compiled()(
        out, weight, low.values, high.values, low.labels, high.labels,
        rows.index, rows.weight, row_starts, columns.index, columns.weight, columns.starts,
    )  # fmt: skip


@cache
def _compiled() -> Callable[..., None]:
    return compiled(fill_cells)


def _plane(values: torch.Tensor, axis: int) -> Plane:
    plane = values.float().squeeze(axis + 1).movedim(0, -1).contiguous()
    labels = values.squeeze(axis + 1).max(0).indices  # argmax is four times as slow
    return Plane(values=plane.numpy(), labels=labels.numpy())


def _pairs(taps: Taps | None, n_new: int, *, backwards: bool) -> Iterator[Pair]:
    line = _line(taps, n_new)
    runs = list(pairwise(line.starts))
    for start, stop in reversed(runs) if backwards else runs:
        low, high = int(line.index[0, start]), int(line.index[1, start])
        weight = np.ascontiguousarray(line.weight[:, start:stop].T)
        yield Pair(new=slice(start, stop), low=low, high=high, weight=weight)


def _line(taps: Taps | None, n_new: int) -> Line:
    index, weight = _both(taps, n_new)
    changes = np.diff(index[0], prepend=-1) | np.diff(index[1], prepend=-1)
    return Line(index=index, weight=weight, starts=np.append(np.flatnonzero(changes), n_new))


def _both(taps: Taps | None, n_new: int) -> tuple[Indices, Floats]:
    """(2, N) old indices that each new voxel lies between, and what both add."""
    if taps is None:
        line = np.arange(n_new)
        return np.stack((line, line)), np.stack((np.ones(n_new, np.float32), np.zeros(n_new, np.float32)))
    index = taps.index.numpy()
    weight = np.ones(index.shape, np.float32) if taps.weight is None else taps.weight.numpy()
    if len(index) == 1:
        index, weight = np.concatenate((index, index)), np.concatenate((weight, np.zeros_like(weight)))
    return np.ascontiguousarray(index), np.ascontiguousarray(weight)
