"""How well two masks of one structure agree: overlap, and the distance of their surfaces in the patient."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

_PERCENTILE = 95
_FACES = ndimage.generate_binary_structure(3, 1)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What two masks have in common.

    Attributes:
        dice: 2 |A and B| / (|A| + |B|), 0 to 1; None where both are empty.
        mean_mm: Mean distance of the surfaces, over the voxels of both; None where one mask is empty.
        hausdorff95_mm: The larger of the two directions' 95th percentiles of distances; None likewise.
    """

    dice: float | None
    mean_mm: float | None
    hausdorff95_mm: float | None


def agreement(first: Mask, second: Mask, affine: NDArray[np.float64]) -> Agreement:
    """Overlap and surface distances of two masks on one grid.

    A surface is the voxels of a mask with a face that is no other of its voxels'. Distances are those of centres of
    voxels in the patient, by the whole affine: sheared and anisotropic grids need no care of their own.

    Args:
        first: (I, J, K).
        second: Of the same shape.
        affine: (4, 4) of the grid, in mm.
    """
    sizes = int(first.sum()), int(second.sum())
    if not any(sizes):
        return Agreement(dice=None, mean_mm=None, hausdorff95_mm=None)
    dice = 2 * int((first & second).sum()) / sum(sizes)
    if not all(sizes):
        return Agreement(dice=dice, mean_mm=None, hausdorff95_mm=None)
    surfaces = [_surface(mask) @ affine[:3, :3].T for mask in (first, second)]
    there, back = (KDTree(surfaces[1 - n]).query(surfaces[n])[0] for n in (0, 1))
    return Agreement(
        dice=dice,
        mean_mm=float(np.concatenate((there, back)).mean()),
        hausdorff95_mm=float(max(np.percentile(distances, _PERCENTILE) for distances in (there, back))),
    )


def boxes(first: NDArray[Any], second: NDArray[Any]) -> dict[int, tuple[slice, ...]]:
    """Label number to the box that holds its voxels in both masks, a voxel wider where there is one."""
    found: dict[int, list[tuple[slice, ...]]] = {}
    for mask in (first, second):
        for label, box in enumerate(ndimage.find_objects(mask.astype(np.int32, copy=False)), 1):
            if box is not None:
                found.setdefault(label, []).append(box)
    return {
        label: tuple(
            slice(max(min(part.start for part in parts) - 1, 0), max(part.stop for part in parts) + 1)
            for parts in zip(*places, strict=True)
        )
        for label, places in found.items()
    }


def _surface(mask: Mask) -> NDArray[np.int64]:
    """(n, 3) voxels of a surface; what lies outside of the array is no voxel of the mask."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask, _FACES))
