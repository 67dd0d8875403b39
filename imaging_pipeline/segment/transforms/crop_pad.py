"""Boxes cut out of volumes, and borders put around them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms.croppad.functional import pad_nd
from monai.transforms.utils import compute_divisible_spatial_size
from monai.utils import ensure_tuple_rep
from torch.nn import functional

from imaging_pipeline.segment.transforms.geometry import Grid, Move, Shape, Source, grid_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """What a border is made of: a mode of MONAI's padding with its options."""

    mode: str = "constant"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box(Move):
    """Adds voxels at the ends of axes, or takes them away.

    Attributes:
        low: Voxels to add before the first of each axis; negative: to take away.
        high: Voxels to add behind the last.
        fill: What they are made of.
    """

    low: Shape
    high: Shape
    fill: Fill

    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab of the box; see `Move`."""
        low, high, n = [*self.low], [*self.high], self.grid.shape[axis]
        old = n - low[axis] - high[axis]
        first, last = (min(max(place - low[axis], 0), old) for place in (start, stop))
        if self.fill.mode != "constant" or old <= 0:
            return self._framed(source(axis, 0, old), low, high).narrow(axis + 1, start, stop - start)
        if first >= last:  # nothing but border: the nearest plane gives its shape
            nearest = min(first, old - 1)
            low[axis], high[axis] = stop - start, 0
            return self._framed(source(axis, nearest, nearest + 1).narrow(axis + 1, 0, 0), low, high)
        low[axis], high[axis] = first + low[axis] - start, stop - last - low[axis]
        return self._framed(source(axis, first, last), low, high)

    def _framed(self, values: torch.Tensor, low: list[int], high: list[int]) -> torch.Tensor:
        for axis, (before, behind) in enumerate(zip(low, high, strict=True)):
            start, stop = max(-before, 0), values.shape[axis + 1] - max(-behind, 0)
            values = values.narrow(axis + 1, start, stop - start)
        borders = [(max(before, 0), max(behind, 0)) for before, behind in zip(low, high, strict=True)]
        if not any(map(any, borders)):
            return values
        if self.fill == Fill():
            return functional.pad(values, [width for pair in borders[::-1] for width in pair])
        padded: torch.Tensor = pad_nd(values, [(0, 0), *borders], self.fill.mode, **self.fill.options)
        return padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """A border as wide as a function of the shape says.

    Attributes:
        widths: Shape → (before, behind) of channels and of each axis, as MONAI's `compute_pad_width`.
        fill: What it is made of.
    """

    widths: Callable[[Shape], tuple[tuple[int, int], ...]]
    fill: Fill

    def plan(self, image: MetaTensor) -> tuple[Move, "Unbox"]:
        """The move of an image, and the way back."""
        grid = grid_of(image)
        _, *widths = self.widths(grid.shape)
        (i, low_end), (j, middle_end), (k, high_end) = widths
        return plan_box(grid, (i, j, k), (low_end, middle_end, high_end), self.fill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreground:
    """Where an image shows something.

    Attributes:
        select: Values → whether each belongs to the foreground.
        channels: Those to look at; None: all.
        margin: Voxels to add on either side, of each axis or of all.
        inside: The box ends where the image ends.
        divisible: What each side of the box must be a multiple of.
        fill: What the box is made of where it leaves the image.
    """

    select: Callable[[torch.Tensor], torch.Tensor]
    channels: tuple[int, ...] | None
    margin: Sequence[int] | int
    inside: bool
    divisible: Sequence[int] | int
    fill: Fill

    def box(self, image: MetaTensor) -> tuple[Shape, Shape]:
        """First index and the index behind the last of each axis; both may lie outside of the image."""
        chosen = image if self.channels is None else image[list(self.channels)]
        found = _extent(torch.as_tensor(self.select(chosen)).as_subclass(torch.Tensor).any(0))
        start, stop = np.zeros(3, int), np.zeros(3, int)
        if found is not None:
            margin = np.asarray(ensure_tuple_rep(self.margin, 3))
            start, stop = found[0] - margin, found[1] + margin
            if self.inside:
                start, stop = np.maximum(start, 0), np.minimum(stop, image.shape[1:])
        size = stop - start
        wanted = np.asarray(compute_divisible_spatial_size(size.tolist(), k=self.divisible))
        start = start - (wanted - size) // 2
        return _shape(start), _shape(start + wanted)

    def plan(self, image: MetaTensor, box: tuple[Shape, Shape]) -> tuple[Move, "Unbox"]:
        """The move of an image to a box, and the way back."""
        grid = grid_of(image)
        start, stop = (np.asarray(corner) for corner in box)
        return plan_box(grid, _shape(-start), _shape(stop - grid.shape), self.fill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbox:
    """Takes away what was added, and puts zeros where something was taken away; see `Undo`."""

    low: Shape
    high: Shape

    def plan(self, grid: Grid, *, nearest: bool) -> Move:  # noqa: ARG002
        """The way back from a grid."""
        return plan_box(grid, self.low, self.high, Fill())[0]


def plan_box(grid: Grid, low: Shape, high: Shape, fill: Fill) -> tuple[Move, Unbox]:
    """The move that adds voxels to a grid, and the way back.

    Args:
        grid: Where the values lie.
        low: Voxels to add before the first of each axis; negative: to take away.
        high: Voxels to add behind the last.
        fill: What they are made of.
    """
    cut, added = np.eye(4), np.eye(4)
    cut[:3, 3], added[:3, 3] = np.maximum(np.negative(low), 0), np.minimum(np.negative(low), 0)
    target = grid.moved(cut, grid.shape).moved(added, _shape(np.add(grid.shape, np.add(low, high))))
    back = Unbox(low=_shape(-np.asarray(low)), high=_shape(-np.asarray(high)))
    return Box(grid=target, low=low, high=high, fill=fill), back


def _extent(mask: torch.Tensor) -> tuple[Any, Any] | None:
    """First index and the index behind the last of what is True, along each axis; None where nothing is."""
    plane = mask.any(2)
    ends = [_ends(plane.any(1)), _ends(plane.any(0)), _ends(mask.any(0).any(0))]
    if not all(ends):
        return None
    start, stop = zip(*filter(None, ends), strict=True)
    return np.asarray(start), np.asarray(stop)


def _ends(row: torch.Tensor) -> tuple[int, int] | None:
    places = row.nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else None


def _shape(values: Any) -> Shape:
    i, j, k = (int(value) for value in values)
    return i, j, k
