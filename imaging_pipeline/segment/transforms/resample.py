"""Values on the voxels of another grid: linear or nearest, axis by axis where the grids' axes are parallel.

Positions are those of `torch.nn.functional.grid_sample` as `monai.networks.layers.AffineTransform` calls it, in the
same float64 operations, so that nearest neighbours round the same way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from monai.data.utils import AFFINE_TOL
from monai.networks.utils import to_norm_affine
from numpy.typing import NDArray
from torch.nn import functional

from imaging_pipeline.segment.transforms.geometry import Grid, Move, Shape, Source, Stay

_PARALLEL_VOXELS = 1e-4
"""Axes count as parallel where no voxel lies farther than this off the place that parallel axes give it."""

_ON_VOXEL = 1e-6
"""Positions this close to whole numbers are those of the voxels themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to read values between voxels.

    Attributes:
        nearest: The nearest voxel's, rather than linear between eight.
        padding: What lies outside: border, zeros or reflection.
        align_corners: As of `grid_sample`.
        dtype: Of positions: float64 or float32.
    """

    nearest: bool
    padding: str
    align_corners: bool
    dtype: torch.dtype


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
    target = grid.moved(xform, shape)
    off_diagonal = np.abs(xform[:3, :3] - np.diag(np.diag(xform)[:3])) @ np.asarray(shape, dtype=float)
    if off_diagonal.max() > _PARALLEL_VOXELS or sampling.padding == "reflection":
        return Sampled(grid=target, xform=xform, old_shape=grid.shape, sampling=sampling)
    taps = _taps(xform, grid.shape, shape, sampling)
    return Separable(grid=target, old_shape=grid.shape, taps=taps, nearest=sampling.nearest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Which voxels of an old axis make one of a new axis.

    Attributes:
        index: (T, n) old indices; T is 1 for nearest, 2 for linear.
        weight: (T, n) float32; None: 1.
        convex: The weights of a voxel add up to 1.
    """

    index: torch.Tensor
    weight: torch.Tensor | None
    convex: bool


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

    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab of the new grid; see `Move`."""
        taps = list(self.taps)
        along = taps[axis]
        if along is None:
            values = source(axis, start, stop)
        else:
            first, last, taps[axis] = _cut(along, start, stop)
            values = source(axis, first, last)
        if not self.nearest and values.dtype != torch.float32:
            values = values.float()
        growth = [new / max(old, 1) for new, old in zip(self.grid.shape, self.old_shape, strict=True)]
        for n in sorted(range(3), key=growth.__getitem__):  # what shrinks goes first: less is left for the others
            tap = taps[n]
            values = values if tap is None else _resample_axis(values, n + 1, tap)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Move):
    """Resamples between axes that are not parallel, as MONAI does.

    Attributes:
        xform: (4, 4), new voxel index → old voxel index.
        old_shape: Voxels before.
        sampling: How to read between voxels.
    """

    xform: NDArray[np.float64]
    old_shape: Shape
    sampling: Sampling

    @property
    def blends(self) -> bool:
        """Whether values of several voxels make a new one."""
        return not self.sampling.nearest

    @property
    def slabwise(self) -> bool:
        """The grid of positions takes six times the memory of a channel."""
        return True

    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab of the new grid, read from the slab of the old one that it reaches; see `Move`."""
        size = [*self.grid.shape]
        size[axis] = stop - start
        xform = self.xform @ _shift(axis, start)
        first, last = self._reach(xform, size, axis)
        values = source(axis, first, last)
        positions = _positions(_shift(axis, -first) @ xform, tuple(values.shape[1:]), size, self.sampling)
        positions = positions.to(values.device)
        channels = [_sample(channel, positions, self.sampling) for channel in values]
        labels = self.sampling.nearest and not values.is_floating_point()
        return torch.stack(channels).to(values.dtype if labels else torch.float32)

    def _reach(self, xform: NDArray[np.float64], size: list[int], axis: int) -> tuple[int, int]:
        n = self.old_shape[axis]
        if self.sampling.padding == "reflection":
            return 0, n
        corners = np.stack(np.meshgrid(*((0, max(length - 1, 0)) for length in size), indexing="ij")).reshape(3, -1)
        places = xform[axis, :3] @ corners + xform[axis, 3]
        first = int(np.clip(np.floor(places.min()) - 1, 0, max(n - 1, 0)))
        return first, int(np.clip(np.ceil(places.max()) + 2, first + 1, n))


def _shift(axis: int, by: int) -> NDArray[np.float64]:
    shift = np.eye(4)
    shift[axis, 3] = by
    return shift


def _positions(xform: NDArray[np.float64], old: tuple[int, ...], new: list[int], sampling: Sampling) -> torch.Tensor:
    """(1, I, J, K, 3) places in the normalised coordinates of `grid_sample`, last axis first."""
    theta = _theta(xform, old, tuple(new), sampling)
    return functional.affine_grid(theta, [1, 1, *new], align_corners=sampling.align_corners)


def _theta(xform: NDArray[np.float64], old: tuple[int, ...], new: tuple[int, ...], sampling: Sampling) -> torch.Tensor:
    affine = torch.from_numpy(xform)[None].to(sampling.dtype)
    theta: torch.Tensor = to_norm_affine(affine, old, new, align_corners=sampling.align_corners)
    theta[:, :3] = theta[:, [2, 1, 0]]
    theta[:, :, :3] = theta[:, :, [2, 1, 0]]
    return theta[:, :3]


def _sample(channel: torch.Tensor, positions: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    sampled: torch.Tensor = functional.grid_sample(
        channel[None, None].to(positions.dtype),
        positions,
        mode="nearest" if sampling.nearest else "bilinear",
        padding_mode=sampling.padding,
        align_corners=sampling.align_corners,
    )[0, 0]
    return sampled


def _taps(xform: NDArray[np.float64], old: Shape, new: Shape, sampling: Sampling) -> tuple[Taps | None, ...]:
    theta = _theta(xform, old, new, sampling)
    taps = []
    for axis, (n_old, n_new) in enumerate(zip(old, new, strict=True)):
        places = _line(n_new, axis, sampling) @ theta[0].T
        taps.append(_taps_of(_unnormalised(places[:, 2 - axis], n_old, sampling), n_old, sampling))
    return tuple(taps)


def _line(n: int, axis: int, sampling: Sampling) -> torch.Tensor:
    """(n, 4) voxels along an axis through the middle, in the normalised coordinates of `affine_grid`."""
    line = torch.zeros((n, 4), dtype=sampling.dtype)
    line[:, 3] = 1
    if n > 1:
        along = torch.linspace(-1, 1, n, dtype=sampling.dtype)
        line[:, 2 - axis] = along if sampling.align_corners else along * (n - 1) / n
    return line


def _unnormalised(places: torch.Tensor, n: int, sampling: Sampling) -> torch.Tensor:
    """Normalised coordinates as voxel indices, in the operations of `grid_sample`."""
    return (places + 1) / 2 * (n - 1) if sampling.align_corners else ((places + 1) * n - 1) / 2


def _taps_of(places: torch.Tensor, n: int, sampling: Sampling) -> Taps | None:
    zeros = sampling.padding == "zeros"
    if not zeros:
        places = places.clamp(0, n - 1)
    if len(places) == n and (places - torch.arange(n)).abs().max() < _ON_VOXEL:
        return None
    if sampling.nearest:
        index, weight = places.round()[None], None
    else:
        low = places.floor()
        index, weight = torch.stack((low, low + 1)), torch.stack((low + 1 - places, places - low))
    if zeros:
        inside = (index >= 0) & (index <= n - 1)
        weight = inside.to(places.dtype) if weight is None else weight * inside
    index = index.clamp(0, n - 1).long()
    return Taps(index=index, weight=None if weight is None else weight.float(), convex=not zeros)


def _cut(taps: Taps, start: int, stop: int) -> tuple[int, int, Taps]:
    """Taps of a slab, relative to the first old index that it needs; that index, and the one behind the last."""
    index = taps.index[:, start:stop]
    if index.numel() == 0:
        return 0, 0, Taps(index=index, weight=None, convex=True)
    first, last = int(index.min()), int(index.max())
    weight = None if taps.weight is None else taps.weight[:, start:stop]
    return first, last + 1, Taps(index=index - first, weight=weight, convex=taps.convex)


def _resample_axis(values: torch.Tensor, axis: int, taps: Taps) -> torch.Tensor:
    parts = [_take(values, axis, index.to(values.device)) for index in taps.index]
    if taps.weight is None:
        return parts[0]
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    weights = [weight.to(values.device).view(shape) for weight in taps.weight]
    if taps.convex:
        return parts[0].lerp_(parts[1], weights[1])
    if len(parts) == 1:
        return parts[0] * weights[0].to(values.dtype)
    return parts[0].mul_(weights[0]).add_(parts[1].mul_(weights[1]))


def _take(values: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
    values = values.contiguous()
    if axis < values.ndim - 1:
        return values.index_select(axis, index)
    return values.gather(axis, index.expand(*values.shape[:-1], len(index)))  # index_select strides through all rows
