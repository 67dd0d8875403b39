"""Voxels of given sizes, along the axes as they are."""

from dataclasses import dataclass, replace

import numpy as np
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL, affine_to_spacing, compute_shape_offset, zoom_affine
from numpy.typing import NDArray

from imaging_pipeline.segment.transforms.geometry import Grid, Move, Shape, grid_of
from imaging_pipeline.segment.transforms.places import Sampling
from imaging_pipeline.segment.transforms.resample import plan_resample

Millimetres = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spacing:
    """To voxels of a size in mm.

    Attributes:
        pixdim: Of each axis; the last one stands for those that are missing; not positive: as it is.
        smallest: Sizes from here to `largest` are left alone; NaN: from `pixdim`.
        largest: See `smallest`.
        diagonal: To axes along those of the world.
        sampling: How to read between voxels.
    """

    pixdim: Millimetres
    smallest: Millimetres
    largest: Millimetres
    diagonal: bool
    sampling: Sampling

    def plan(self, image: MetaTensor) -> tuple[Move, "Unspace"]:
        """The move of an image, and the way back."""
        grid = grid_of(image)
        affine = zoom_affine(grid.affine, self._target(grid.affine), diagonal=self.diagonal)
        (i, j, k), origin = compute_shape_offset(grid.shape, grid.affine, affine)
        affine[:3, -1] = origin[:3]
        move = plan_resample(grid, affine, (int(i), int(j), int(k)), self.sampling)
        return move, Unspace(affine=grid.affine, shape=grid.shape, sampling=self.sampling)

    def _target(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        now = affine_to_spacing(affine, 3, np.float64)
        target = np.array([*self.pixdim, *[self.pixdim[-1]] * 3][:3])
        low = np.fmin(_three(self.smallest), target)
        high = np.fmax(_three(self.largest), target)
        return np.where((low - AFFINE_TOL <= now) & (now <= high + AFFINE_TOL), now, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unspace:
    """Back to the voxels of before; see `Undo`."""

    affine: NDArray[np.float64]
    shape: Shape
    sampling: Sampling

    def plan(self, grid: Grid, *, nearest: bool) -> Move:
        """The way back from a grid."""
        sampling = replace(self.sampling, nearest=True, align_corners=False) if nearest else self.sampling
        return plan_resample(grid, self.affine, self.shape, sampling)


def _three(values: Millimetres) -> NDArray[np.float64]:
    return np.array([*values, np.nan, np.nan, np.nan][:3])
