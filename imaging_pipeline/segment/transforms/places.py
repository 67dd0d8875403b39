"""Where the voxels of a new grid lie on an old one.

In the operations of `torch.nn.functional.affine_grid` and `grid_sample` as `monai.networks.layers.AffineTransform`
calls them, so that places halfway between two voxels round the same way. Normalised places run from -1 to 1, last axis
first.
"""

from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.utils import to_norm_affine
from numpy.typing import NDArray

from imaging_pipeline.segment.transforms.geometry import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to read values between voxels.

    Attributes:
        nearest: The nearest voxel's, rather than linear between eight.
        padding: What lies outside: border, zeros or reflection.
        align_corners: As of `grid_sample`.
        dtype: Of places: float64 or float32.
    """

    nearest: bool
    padding: str
    align_corners: bool
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Which voxels of an old axis make one of a new axis.

    Attributes:
        index: (T, n) old indices; T is 1 for nearest, 2 for linear.
        weight: (T, n) float32; None: 1.
    """

    index: torch.Tensor
    weight: torch.Tensor | None

    def cut(self, start: int, stop: int) -> tuple[int, int, "Taps"]:
        """Taps of a slab, relative to the first old index that it needs; that index, and the one behind the last."""
        index = self.index[:, start:stop]
        first, last = int(index.min()), int(index.max())
        weight = None if self.weight is None else self.weight[:, start:stop]
        return first, last + 1, Taps(index=index - first, weight=weight)


def theta_of(xform: NDArray[np.float64], old: Shape, new: Shape, sampling: Sampling) -> torch.Tensor:
    """(3, 4) normalised places on a new grid → on an old grid.

    Args:
        xform: (4, 4) new voxel index → old voxel index.
        old: Voxels of the old grid.
        new: Voxels of the new grid.
        sampling: Says what is normalised to -1 and 1.
    """
    affine = torch.from_numpy(xform)[None].to(sampling.dtype)
    theta: torch.Tensor = to_norm_affine(affine, old, new, align_corners=sampling.align_corners)[0]
    theta = theta[[2, 1, 0, 3]]
    return theta[:3, [2, 1, 0, 3]]


def taps_along(axis: int, theta: torch.Tensor, old: int, new: int, sampling: Sampling) -> Taps | None:
    """Taps of an axis that is parallel to its old one; None where each voxel lies exactly on the old one.

    Args:
        axis: 0, 1 or 2.
        theta: As of `theta_of`.
        old: Voxels along it before.
        new: Voxels along it after.
        sampling: How to read between voxels.
    """
    line = torch.zeros((new, 4), dtype=sampling.dtype)
    line[:, 3] = 1
    line[:, 2 - axis] = _line(new, sampling)
    places = _as_voxels((line @ theta.T)[:, 2 - axis], old, sampling)
    if len(places) == old and torch.equal(places, torch.arange(old).to(places)):
        return None
    if sampling.nearest:
        index, weight = places.round()[None], None
    else:
        low = places.floor()
        index, weight = torch.stack((low, low + 1)), torch.stack((low + 1 - places, places - low))
    if sampling.padding == "zeros":
        inside = (index >= 0) & (index <= old - 1)
        weight = inside.to(places.dtype) if weight is None else weight * inside
    return Taps(index=index.clamp(0, old - 1).long(), weight=None if weight is None else weight.float())


def normalised_places(
    theta: torch.Tensor, shape: Shape, axis: int, start: int, stop: int, sampling: Sampling
) -> torch.Tensor:
    """(I, J, K, 3) places of a slab of a grid.

    Args:
        theta: As of `theta_of`.
        shape: Voxels of the whole grid.
        axis: The one that is cut.
        start: First index along it.
        stop: Index behind the last one.
        sampling: How to read between voxels.
    """
    lines = [_line(n, sampling) for n in shape]
    lines[axis] = lines[axis][start:stop]
    i, j, k = (len(line) for line in lines)
    base = torch.ones((i, j, k, 4), dtype=sampling.dtype)
    base[..., 0] = lines[2]
    base[..., 1] = lines[1][:, None]
    base[..., 2] = lines[0][:, None, None]
    return base.view(1, -1, 4).bmm(theta.T[None]).view(i, j, k, 3)


def voxel_places(places: torch.Tensor, shape: Shape, sampling: Sampling) -> torch.Tensor:
    """(I, J, K, 3) normalised places as voxel indices, last axis first."""
    return torch.stack([_as_voxels(places[..., 2 - axis], shape[axis], sampling) for axis in (2, 1, 0)], -1)


def _line(n: int, sampling: Sampling) -> torch.Tensor:
    if n == 1:
        return torch.zeros(1, dtype=sampling.dtype)
    line = torch.linspace(-1, 1, n, dtype=sampling.dtype)
    return line if sampling.align_corners else line * (n - 1) / n


def _as_voxels(places: torch.Tensor, n: int, sampling: Sampling) -> torch.Tensor:
    voxels = (places + 1) / 2 * (n - 1) if sampling.align_corners else ((places + 1) * n - 1) / 2
    return voxels if sampling.padding == "zeros" else voxels.clamp(0, n - 1)
