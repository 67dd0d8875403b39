"""Values on the voxels of another grid: linear or nearest, axis by axis where the grids' axes are parallel."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from monai.data.utils import AFFINE_TOL
from numpy.typing import NDArray
from torch.nn import functional

from imaging_pipeline.segment.transforms.geometry import Grid, Move, Shape, Source, Stay
from imaging_pipeline.segment.transforms.places import (
    Sampling,
    Taps,
    normalised_places,
    taps_along,
    theta_of,
    voxel_places,
)

_PARALLEL_VOXELS = 1e-4
"""Axes count as parallel where no voxel lies farther than this off the place that parallel axes give it."""


def plan_resample(grid: Grid, affine: NDArray[np.float64], shape: Shape, sampling: Sampling) -> Move:
    """The move to another affine and shape; none at all where they are the same as before.

    Args:
        grid: Where the values lie.
        affine: (4, 4) affine to bring them to.
        shape: Voxels there.
        sampling: How to read between voxels.
    """
    xform = np.linalg.solve(grid.affine, affine).astype(np.float64)
    as_before = np.allclose(grid.affine, affine, atol=AFFINE_TOL) or np.allclose(xform, np.eye(4), atol=AFFINE_TOL)
    if shape == grid.shape and as_before:
        return Stay(grid=grid)
    target, theta = grid.moved(xform, shape), theta_of(xform, grid.shape, shape, sampling)
    off_diagonal = np.abs(xform[:3, :3] - np.diag(np.diag(xform)[:3])) @ np.asarray(shape, dtype=float)
    if off_diagonal.max() > _PARALLEL_VOXELS or sampling.padding == "reflection":
        return Sampled(grid=target, theta=theta, old_shape=grid.shape, sampling=sampling)
    sizes = zip(grid.shape, shape, strict=True)
    taps = tuple(taps_along(axis, theta, old, new, sampling) for axis, (old, new) in enumerate(sizes))
    return Separable(grid=target, old_shape=grid.shape, taps=taps, nearest=sampling.nearest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Separable(Move):
    """Resamples one axis after the other.

    Attributes:
        old_shape: Voxels before.
        taps: For each axis; None leaves it as it is.
        nearest: No axis blends.
    """

    old_shape: Shape
    taps: tuple[Taps | None, ...]
    nearest: bool

    @property
    def blends(self) -> bool:
        """Whether values of several voxels make a new one."""
        return not self.nearest

    @property
    def slabwise(self) -> bool:
        """Each axis makes copies."""
        return True

    def follow(self, axis: int) -> tuple[int, bool]:
        """Where an axis of the old grid lies; see `Move`."""
        taps = self.taps[axis]
        return axis, taps is not None and taps.index.numel() > 0 and bool(taps.index[0, 0] > taps.index[0, -1])

    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab of the new grid; see `Move`."""
        taps = list(self.taps)
        along = taps[axis]
        if along is None:
            values = source(axis, start, stop)
        else:
            first, last, taps[axis] = along.cut(start, stop)
            values = source(axis, first, last)
        # in the order of memory: what lies in one piece is copied in one piece
        order = sorted(range(3), key=lambda n: -values.stride(n + 1))
        values = values.permute(0, *(n + 1 for n in order))
        growth = [self.grid.shape[n] / max(self.old_shape[n], 1) for n in order]
        for place in sorted(range(3), key=growth.__getitem__):  # what shrinks goes first: less is left for the others
            tap = taps[order[place]]
            values = values if tap is None else _resample_axis(values, place + 1, tap, blends=not self.nearest)
        if not self.nearest and values.dtype != torch.float32:
            values = values.float()
        return values.permute(0, *(order.index(n) + 1 for n in range(3)))


def _resample_axis(values: torch.Tensor, axis: int, taps: Taps, *, blends: bool) -> torch.Tensor:
    parts = [_take(values, axis, index.to(values.device)) for index in taps.index]
    if blends:
        parts = [part.float() for part in parts]
    if taps.weight is None:
        return parts[0]
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    weights = [weight.to(values.device, parts[0].dtype).view(shape) for weight in taps.weight]
    total = parts[0].mul_(weights[0])  # no lerp: it loses weights near 0, and zeros that MONAI does not leave at 0
    return total if len(parts) == 1 else total.addcmul_(parts[1], weights[1])


def _take(values: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
    values = values.contiguous()
    if axis < values.ndim - 1:
        return values.index_select(axis, index)
    return values.gather(axis, index.expand(*values.shape[:-1], len(index)))  # index_select strides through all rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Move):
    """Resamples between axes that are not parallel.

    Attributes:
        theta: Normalised places on the new grid → on the old grid; see `theta_of`.
        old_shape: Voxels before.
        sampling: How to read between voxels.
    """

    theta: torch.Tensor
    old_shape: Shape
    sampling: Sampling

    @property
    def blends(self) -> bool:
        """Whether values of several voxels make a new one."""
        return not self.sampling.nearest

    @property
    def slabwise(self) -> bool:
        """Places take six times the memory of a channel."""
        return True

    def follow(self, axis: int) -> tuple[int, bool]:
        """Where an axis of the old grid lies; see `Move`."""
        return axis, bool(self.theta[2 - axis, 2 - axis] < 0)

    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab of the new grid, read from the slab of the old one that it reaches; see `Move`."""
        places = normalised_places(self.theta, self.grid.shape, axis, start, stop, self.sampling)
        if self.sampling.padding == "reflection":
            return _reflected(source(axis, 0, self.old_shape[axis]), places, self.sampling)
        places = voxel_places(places, self.old_shape, self.sampling)
        n, along = self.old_shape[axis], places[..., 2 - axis]
        first = min(max(int((along.min() - 0.5).floor()), 0), n - 1)
        values = source(axis, first, min(max(int(along.max().floor()) + 2, first + 1), n))
        return _gathered(values, [(axis == number) * first for number in range(3)], places, self)


def _gathered(values: torch.Tensor, first: list[int], places: torch.Tensor, move: Sampled) -> torch.Tensor:
    """Values at voxel places; those of the old grid start at index `first`."""
    blended = torch.float32 if move.blends else values.dtype
    total = values.new_zeros((len(values), *places.shape[:3]), dtype=blended)
    low = places.floor() if move.blends else places.round()
    for corner in product((0, 1), repeat=3) if move.blends else [(0, 0, 0)]:
        weight, flat = torch.ones((), dtype=places.dtype), torch.zeros((), dtype=torch.long)
        for axis, step in enumerate(corner):
            at, n = low[..., 2 - axis] + step, move.old_shape[axis]
            if move.blends:
                place = places[..., 2 - axis]
                weight = weight * (place - low[..., 2 - axis] if step else low[..., 2 - axis] + 1 - place)
            weight = weight * ((at >= 0) & (at <= n - 1)) if move.sampling.padding == "zeros" else weight
            flat = flat * values.shape[axis + 1] + at.clamp(0, n - 1).long() - first[axis]
        flat, weight = flat.flatten().to(values.device), weight.to(values.device, blended)
        for channel, into in zip(values.reshape(len(values), -1), total, strict=True):
            into.add_(channel.index_select(0, flat).view(into.shape) * weight)
    return total


def _reflected(values: torch.Tensor, places: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    places = places.to(values.device)[None]
    channels = [
        functional.grid_sample(
            channel[None, None].to(places.dtype),
            places,
            mode="nearest" if sampling.nearest else "bilinear",
            padding_mode=sampling.padding,
            align_corners=sampling.align_corners,
        )[0, 0]
        for channel in values
    ]
    return torch.stack(channels).to(values.dtype if sampling.nearest else torch.float32)
