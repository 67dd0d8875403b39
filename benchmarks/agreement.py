"""How far two masks of one series agree, voxel by voxel on the same grid."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE_TOLERANCE_MM = 1e-3
"""Affines further apart than this are not the same grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of two masks, or of many pairs of them.

    Attributes:
        n_pairs: Pairs of masks that were compared.
        n_voxels: Voxels of all pairs.
        n_different: Voxels whose labels differ.
        smallest_dice: The least Dice coefficient (2 |A and B| / (|A| + |B|)) of any label but 0 in any pair.
        n_labelled: Voxels that carry a label in either mask; 0 would make any agreement worthless.
    """

    n_pairs: int
    n_voxels: int
    n_different: int
    smallest_dice: float
    n_labelled: int


def compare(one: Path, other: Path) -> Agreement:
    """Compare two NIfTI masks, both reordered to closest canonical (RAS+) axes first.

    Raises:
        ValueError: They lie on different grids.
    """
    images = [nib.as_closest_canonical(nib.load(path)) for path in (one, other)]
    a, b = (np.asarray(image.dataobj).squeeze().astype(np.int32) for image in images)
    off_mm = float(np.abs(images[0].affine - images[1].affine).max())
    if a.shape != b.shape or off_mm > AFFINE_TOLERANCE_MM:
        raise ValueError(f"{one} of shape {a.shape} and {other} of shape {b.shape}: affines {off_mm:.3g} mm apart")
    labels = set(np.unique(a)) | set(np.unique(b))
    return Agreement(
        n_pairs=1,
        n_voxels=a.size,
        n_different=int((a != b).sum()),
        smallest_dice=min((_dice(a == label, b == label) for label in labels - {0}), default=1.0),
        n_labelled=int(((a > 0) | (b > 0)).sum()),
    )


def compare_all(pairs: Iterable[tuple[Path, Path]]) -> Agreement:
    """Compare many pairs of masks."""
    found = [compare(one, other) for one, other in pairs]
    return Agreement(
        n_pairs=len(found),
        n_voxels=sum(item.n_voxels for item in found),
        n_different=sum(item.n_different for item in found),
        smallest_dice=min((item.smallest_dice for item in found), default=1.0),
        n_labelled=sum(item.n_labelled for item in found),
    )


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
