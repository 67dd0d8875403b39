"""Random affine and elastic deformation in one resampling step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch.nn.functional import grid_sample, interpolate, one_hot


class RandDeformd(RandomizableTransform, MapTransform):
    """Cut a patch of fixed size through a randomly rotated, scaled, shifted and bent grid.

    One `grid_sample` does what RandAffined, Rand3DElasticd and a crop or pad do in three, which
    matters on a CPU. Outside of the image the patch holds zeros, as sliding-window padding does,
    or made-up background: training crops are tight, and a wider crop must not surprise the model.

    Args:
        keys: one image `(1, I, J, K)` and its label map `(1, I, J, K)`, in this order.
        spatial_size: size of the patch in voxels.
        num_classes: number of labels, background included.
        rotate_deg: largest rotation about each axis.
        scale: largest relative change of size, common to all axes (half of it more per axis).
        shift_voxels: largest shift of the patch's centre along each axis.
        bend_voxels: standard deviation of the displacement at the control points.
        control_points: number of control points along each axis.
        prob: probability of a deformation; otherwise the patch is cut straight at the centre.
        fill_prob: probability that the outside is not zero but the image mirrored at its border,
            the image repeated, or its darkest value, one as often as the other.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        num_classes: int,
        rotate_deg: float = 15.0,
        scale: float = 0.2,
        shift_voxels: float = 6.0,
        bend_voxels: float = 1.5,
        control_points: Sequence[int] = (5, 6, 5),
        prob: float = 0.9,
        fill_prob: float = 0.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.spatial_size = tuple(spatial_size)
        self.num_classes = num_classes
        self.rotate_deg = rotate_deg
        self.scale = scale
        self.shift_voxels = shift_voxels
        self.bend_voxels = bend_voxels
        self.control_points = tuple(control_points)
        self.fill_prob = fill_prob

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the data with a patch of the image and the same patch of its label map."""
        result = dict(data)
        image_key, label_key = self.keys
        self.randomize(None)
        grid = self._grid(tuple(result[image_key].shape[1:]))
        labels = one_hot(result[label_key][0].long(), self.num_classes).movedim(-1, 0).float()
        result[image_key] = _fill(result[image_key], grid, self._outside)
        result[label_key] = _sample(labels, grid).argmax(dim=0, keepdim=True)
        return result

    def randomize(self, data: Any) -> None:
        """Draw the matrix, the shift and the control points of the next deformation."""
        super().randomize(data)
        self._matrix, self._shift, self._bend = np.eye(3), np.zeros(3), None
        filled = self.R.uniform() < self.fill_prob
        self._outside = str(self.R.choice(["mirrored", "repeated", "dark"])) if filled else "zero"
        if not self._do_transform:
            return
        spread = 1 + self.R.uniform(-self.scale, self.scale)
        per_axis = 1 + self.R.uniform(-self.scale / 2, self.scale / 2, 3)
        self._matrix = _rotation(self.R.uniform(-self.rotate_deg, self.rotate_deg, 3))
        self._matrix = self._matrix @ np.diag(spread * per_axis)
        self._shift = self.R.uniform(-self.shift_voxels, self.shift_voxels, 3)
        size = self.R.uniform(0, self.bend_voxels)
        self._bend = self.R.normal(0, size, (1, 3, *self.control_points))

    def _grid(self, image_shape: tuple[int, ...]) -> torch.Tensor:
        """Return where in the image each voxel of the patch lies, `(I, J, K, 3)` in -1 to 1."""
        axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in self.spatial_size]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        points = points @ torch.tensor(self._matrix.T, dtype=torch.float32)
        points = points + torch.tensor(self._shift, dtype=torch.float32)
        if self._bend is not None:
            bend = torch.tensor(self._bend, dtype=torch.float32)
            bend = interpolate(bend, self.spatial_size, mode="trilinear", align_corners=True)
            points = points + bend[0].movedim(0, -1)
        return points * 2 / (torch.tensor(image_shape, dtype=torch.float32) - 1)


def _rotation(angles_deg: np.ndarray) -> np.ndarray:
    """Return the product of the rotations about the three axes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _fill(image: torch.Tensor, grid: torch.Tensor, outside: str) -> torch.Tensor:
    """Sample an image and put the chosen background where the grid leaves it."""
    inside = (grid.abs() <= 1).all(dim=-1)
    patch = _sample(image, grid)
    if outside == "mirrored":
        return torch.where(inside, patch, _sample(image, 1 - ((grid + 1) % 4 - 2).abs()))
    if outside == "repeated":
        return torch.where(inside, patch, _sample(image, (grid + 1) % 2 - 1))
    return torch.where(inside, patch, image.min()) if outside == "dark" else patch


def _sample(channels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample `(C, I, J, K)` linearly; grid_sample wants the coordinates in the order K, J, I."""
    return grid_sample(channels[None], grid.flip(-1)[None], align_corners=True)[0]
