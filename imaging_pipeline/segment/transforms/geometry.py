"""Voxel grids, and what carries values from one grid to another, slab by slab."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Source = Callable[[int, int, int], torch.Tensor]
"""(axis, start, stop) → (C, I, J, K) of which that spatial axis runs from start to stop only."""

_SLAB_VALUES = 2 << 20
"""Values in a slab, all channels, for each thread: on CPU 8 MiB stay near caches and need no fresh pages."""

_SLAB_VALUES_CUDA = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where voxels lie.

    Attributes:
        affine: (4, 4) float64, voxel index → mm.
        shape: Voxels along I, J, K.
    """

    affine: NDArray[np.float64]
    shape: Shape

    def moved(self, xform: NDArray[np.float64], shape: Shape) -> "Grid":
        """The grid whose voxel indices `xform` maps to those of this one."""
        affine = torch.from_numpy(self.affine) @ torch.from_numpy(np.asarray(xform, dtype=np.float64))  # as MONAI
        return Grid(affine=affine.numpy(), shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move(ABC):
    """Carries values to a grid.

    Attributes:
        grid: Where they arrive.
    """

    grid: Grid

    @property
    def blends(self) -> bool:
        """Whether values of several voxels make a new one; if not, it may as well be done on labels."""
        return False

    @property
    def slabwise(self) -> bool:
        """Whether it needs memory beyond its result, which slabs keep small."""
        return False

    def follow(self, axis: int) -> tuple[int, bool]:
        """Where an axis of the old grid lies on the new one, and whether it runs the other way round there."""
        return axis, False

    @abstractmethod
    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab of the values on the new grid.

        Args:
            source: Gives slabs of the values on the old grid.
            axis: Spatial axis of the new grid that is cut.
            start: First index along it.
            stop: Index behind the last one.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay(Move):
    """Leaves everything where it is."""

    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """The same slab."""
        return source(axis, start, stop)


class Undo(Protocol):
    """What leads back to the grid that a step came from."""

    def plan(self, grid: Grid, *, nearest: bool) -> Move:
        """The way back from a grid.

        Args:
            grid: Where the values lie by now.
            nearest: Never blend, whatever the step itself did.
        """


def whole(values: torch.Tensor) -> Source:
    """A source that cuts slabs out of a tensor of shape (C, I, J, K)."""
    return lambda axis, start, stop: values.narrow(axis + 1, start, stop - start)


def through(moves: Sequence[Move], source: Source) -> Source:
    """A source behind moves."""
    for move in moves:
        source = partial(move.slab, source)
    return source


def carry(values: torch.Tensor, *moves: Move) -> torch.Tensor:
    """All values of shape (C, I, J, K) behind moves; a view where that is possible."""
    if not moves:
        return values
    source, shape = through(moves, whole(values)), moves[-1].grid.shape
    if not any(move.slabwise for move in moves) or 0 in shape:
        return source(0, 0, shape[0])
    axis, out = _slowest(values), None
    for move in moves:
        axis, _ = move.follow(axis)
    plane = max(values.numel(), len(values) * shape[0] * shape[1] * shape[2]) // shape[axis]
    for start, stop in slabs(plane, shape[axis], values.device):
        part = source(axis, start, stop)
        if out is None:
            out = part.new_empty((len(part), *shape))
        out.narrow(axis + 1, start, stop - start).copy_(part)
    assert out is not None
    return out


def _slowest(values: torch.Tensor) -> int:
    """The spatial axis whose neighbours lie farthest apart in memory: slabs along it are read in one piece."""
    strides = values.stride()[1:]
    return strides.index(max(strides))


def slabs(plane: int, n_planes: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Start and stop of slabs of a bearable size, of planes of so many values."""
    bearable = _SLAB_VALUES_CUDA if device.type == "cuda" else _SLAB_VALUES * torch.get_num_threads()
    step = max(bearable // max(plane, 1), 1)
    for start in range(0, n_planes, step):
        yield start, min(start + step, n_planes)


def grid_of(image: MetaTensor) -> Grid:
    """Affine and shape of an image of shape (C, I, J, K)."""
    i, j, k = image.shape[1:]
    return Grid(affine=image.affine.cpu().numpy().astype(np.float64), shape=(i, j, k))


def with_values(image: MetaTensor, values: torch.Tensor, grid: Grid | None = None) -> MetaTensor:
    """Other values under an image's metadata.

    Args:
        image: What gives metadata and applied operations.
        values: (C, I, J, K).
        grid: Where they lie; None: where the image lies.
    """
    meta = dict(image.meta)
    if grid is not None:
        meta["affine"] = torch.from_numpy(grid.affine.copy())
        if "pixdim" in meta:
            spacing = affine_to_spacing(meta["affine"])
            meta["pixdim"] = (
                meta["pixdim"].clone() if isinstance(meta["pixdim"], torch.Tensor) else meta["pixdim"].copy()
            )
            meta["pixdim"][1 : 1 + len(spacing)] = spacing
    return MetaTensor(values, meta=meta, applied_operations=list(image.applied_operations))


def plain(values: torch.Tensor) -> torch.Tensor:
    """Values without metadata."""
    return values.as_tensor() if isinstance(values, MetaTensor) else values
