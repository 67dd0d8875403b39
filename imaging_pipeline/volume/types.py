"""Array and affine, always together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A 3D grid in patient space.

    Attributes:
        array: Values of shape (I, J, K), axes closest to RAS+; modality units (HU for CT) or label numbers.
        affine: (4, 4) voxel index → RAS+ patient coordinate in mm; sheared for a tilted gantry.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along I, J, K."""
        return self.array.shape

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Length of a voxel's edge along I, J, K."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel; right for sheared grids too."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def hollow(self) -> "Volume":
        """The grid alone: no values, and no memory for them."""
        return Volume(array=np.broadcast_to(np.uint8(0), self.array.shape), affine=self.affine)

    def with_array(self, array: NDArray[Any]) -> "Volume":
        """Other values on the same grid.

        Raises:
            ValueError: The shape is another.
        """
        if array.shape != self.array.shape:
            raise ValueError(f"array of shape {array.shape} on a grid of shape {self.array.shape}")
        return Volume(array=array, affine=self.affine)
