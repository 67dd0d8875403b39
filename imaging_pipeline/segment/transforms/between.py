"""Labels between voxels, on the CPU, without interpolating what cannot win: block by block between two planes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imaging_pipeline.segment.transforms.geometry import Source
from imaging_pipeline.segment.transforms.places import Taps

_STEP = 64, 128
"""New voxels of a block along both axes: what an operation works on stays in the first caches."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """New voxels along an axis, and the old ones that they lie between.

    Attributes:
        new: Their indices.
        old: Indices of the old ones.
        weight: (new, old) what old voxels add to new ones.
    """

    new: slice
    old: slice
    weight: Floats


@dataclass(slots=True, kw_only=True)
class Plane:
    """An old plane.

    Attributes:
        values: (C, A, B) activated scores.
        labels: (A, B) the channel with the largest one, the first of several.
        wider: Block to channel to its values on the new voxels of the block, as far as they were needed.
    """

    values: Floats
    labels: NDArray[np.int64]
    wider: dict[tuple[int, int], dict[int, Floats]] = field(default_factory=dict)

    def between(self, rows: Strip, columns: Strip, channels: Sequence[int]) -> dict[int, Floats]:
        """Values of channels on the new voxels of a block."""
        known = self.wider.setdefault((rows.new.start, columns.new.start), {})
        missing = [channel for channel in channels if channel not in known]
        if missing:
            wide = self.values[missing, rows.old, columns.old] @ columns.weight.T
            known.update(zip(missing, rows.weight @ wide, strict=True))
        return known


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


def fill_between(out: NDArray[Any], taps: Sequence[Taps | None], source: Source, axis: int, *, backwards: bool) -> None:
    """Make the labels of a new grid from scores on an old one: the channel with the largest value in each voxel.

    Interpolated values are means of those at corners. Where one channel is the largest at all corners of a block, it
    is throughout the block. Elsewhere, a channel that nowhere exceeds the mean of the channels that are the largest at
    some corner is never above all of those: it is left out.

    Args:
        out: (I', J', K') to fill.
        taps: For each axis, what makes the new voxels.
        source: Gives (C, I, J, K) slabs of the old grid on the CPU; it is asked for single planes in order.
        axis: The axis that planes follow each other along.
        backwards: From the last plane to the first.
    """
    planes, others = np.moveaxis(out, axis, 0), [n for n in range(3) if n != axis]
    strips = [list(_strips(taps[n], out.shape[n], step)) for n, step in zip(others, _STEP, strict=True)]
    blocks = list(product(*strips))
    n_threads = torch.get_num_threads()
    held: dict[int, Plane] = {}
    with ThreadPoolExecutor(n_threads) as pool:
        for pair in _pairs(taps[axis], out.shape[axis], backwards=backwards):
            ends = sorted({pair.low, pair.high}, reverse=backwards)
            held = {n: held[n] if n in held else _plane(source(axis, n, n + 1), axis) for n in ends}
            work = partial(_fill_blocks, planes[pair.new], pair.weight, held[pair.low], held[pair.high])
            list(pool.map(work, (blocks[n::n_threads] for n in range(n_threads))))
    for n, tap in enumerate(taps):
        if tap is not None and tap.weight is not None:
            np.moveaxis(out, n, 0)[(tap.weight.sum(0) == 0).numpy()] = 0  # outside, where all values are 0


def _plane(values: torch.Tensor, axis: int) -> Plane:
    plane = values.float().squeeze(axis + 1).contiguous()
    return Plane(values=plane.numpy(), labels=plane.max(0).indices.numpy())  # argmax is four times as slow


def _pairs(taps: Taps | None, n_new: int, *, backwards: bool) -> Iterator[Pair]:
    index, weight = _both(taps, n_new)
    starts = np.flatnonzero(np.diff(index[0], prepend=-1) | np.diff(index[1], prepend=-1))
    runs = list(zip(starts, [*starts[1:], n_new], strict=True))
    for start, stop in reversed(runs) if backwards else runs:
        low, high = int(index[0, start]), int(index[1, start])
        yield Pair(new=slice(start, stop), low=low, high=high, weight=weight[:, start:stop].T)


def _strips(taps: Taps | None, n_new: int, step: int) -> Iterator[Strip]:
    index, weight = _both(taps, n_new)
    for start in range(0, n_new, step):
        new = slice(start, min(start + step, n_new))
        first, last = int(index[:, new].min()), int(index[:, new].max())
        matrix = np.zeros((new.stop - new.start, last + 1 - first), np.float32)
        for places, part in zip(index[:, new], weight[:, new], strict=True):
            np.add.at(matrix, (np.arange(len(matrix)), places - first), part)
        yield Strip(new=new, old=slice(first, last + 1), weight=matrix)


def _both(taps: Taps | None, n_new: int) -> tuple[NDArray[np.int64], Floats]:
    """(2, N) old indices that each new voxel lies between, and what both add."""
    if taps is None:
        line = np.arange(n_new)
        return np.stack((line, line)), np.stack((np.ones(n_new, np.float32), np.zeros(n_new, np.float32)))
    index = taps.index.numpy()
    weight = np.ones(index.shape, np.float32) if taps.weight is None else taps.weight.numpy()
    if len(index) == 1:
        return np.concatenate((index, index)), np.concatenate((weight, np.zeros_like(weight)))
    return index, weight


def _fill_blocks(
    out: NDArray[Any], weight: Floats, low: Plane, high: Plane, blocks: Sequence[tuple[Strip, Strip]]
) -> None:
    for rows, columns in blocks:
        old = (rows.old, columns.old)
        labels = np.stack((low.labels[old], high.labels[old]))
        first = labels[0, 0, 0]
        if (labels == first).all():
            out[:, rows.new, columns.new] = first
            continue
        channels = _can_win(low.values[:, *old], high.values[:, *old], labels)
        ends = [plane.between(rows, columns, channels) for plane in (low, high)]
        out[:, rows.new, columns.new] = _largest(channels, ends, weight, out.dtype)


def _can_win(low: Floats, high: Floats, labels: NDArray[np.int64]) -> list[int]:
    """Channels that can be the largest somewhere between two planes."""
    winners = np.bincount(labels.ravel(), minlength=len(low)) > 0
    above = [(values > values[winners].mean(0)).any((1, 2)) for values in (low, high)]
    return [int(channel) for channel in np.flatnonzero(winners | above[0] | above[1])]


def _largest(channels: Sequence[int], ends: Sequence[dict[int, Floats]], weight: Floats, dtype: Any) -> NDArray[Any]:
    """The channel with the largest value on new planes between two, the first of several; channels ascend."""
    low, high = ends
    shape = (len(weight), *low[channels[0]].shape)
    shares = weight.T[:, :, None, None]
    best, value, other = (np.empty(shape, np.float32) for _ in range(3))
    is_above, label = np.empty(shape, bool), np.full(shape, channels[0], dtype)
    for number, channel in enumerate(channels):
        target = value if number else best
        np.multiply(low[channel], shares[0], out=target)
        np.multiply(high[channel], shares[1], out=other)
        target += other
        if number:
            np.greater(value, best, out=is_above)
            np.maximum(label, is_above * dtype.type(channel), out=label)
            np.maximum(best, value, out=best)
    return label
