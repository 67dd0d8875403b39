"""Where three planes through a mask lie, and which way is which in them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.volume import Volume

_AXES = (("L", "R"), ("P", "A"), ("I", "S"))
"""Letters of where RAS+ axes come from and go to."""

_OBLIQUE = 0.3
"""Share of a second axis in a direction, from which on it gets a letter of its own: about 17 degrees."""

_SMALLEST_MM, _MARGIN = 60.0, 2.2
"""A field of view is at least this, and so many times the mask's largest extent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A plane of a volume along two of its axes.

    Attributes:
        name: What it is closest to.
        through: The axis (0, 1, 2 of RAS+) that it is perpendicular to.
        across: The axis from right to left, or from front to back, of the picture.
        down: The axis from top to bottom.
    """

    name: str
    through: int
    across: int
    down: int


AXIAL = Plane(name="axial", through=2, across=0, down=1)
CORONAL = Plane(name="coronal", through=1, across=0, down=2)
SAGITTAL = Plane(name="sagittal", through=0, across=1, down=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A box of a volume that three planes show, and the voxel that they meet in.

    Attributes:
        centre: That voxel, (I, J, K).
        start: First voxel of the box along each axis.
        size: Voxels of the box along each axis.
        spacing_mm: Length of a voxel's edge along each axis.
        directions: (3, 3) unit vectors of the axes in RAS+, one a column.
    """

    centre: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    directions: NDArray[np.float64]

    @property
    def extent_mm(self) -> tuple[float, ...]:
        """Length of the box along each axis."""
        return tuple(size * spacing for size, spacing in zip(self.size, self.spacing_mm, strict=True))

    def cut(self, plane: Plane) -> tuple[slice | int, ...]:
        """Index of the plane's part in the box, into an array of the whole grid."""
        index: list[slice | int] = [
            slice(start, start + size) for start, size in zip(self.start, self.size, strict=True)
        ]
        index[plane.through] = self.centre[plane.through]
        return tuple(index)

    def letters(self, plane: Plane) -> tuple[str, str, str, str]:
        """Which side of the patient is at the left, right, top and bottom of the picture."""
        across, down = self.directions[:, plane.across], self.directions[:, plane.down]
        return _letters(across), _letters(-across), _letters(down), _letters(-down)


def aim(grid: Volume, mask: Volume | None) -> Field:
    """The box around a mask, and the voxel in its midst; all of the volume and its middle where there is no label.

    Each plane goes through the mask's centroid, or, where it would show less than half of the mask's largest section
    (between two kidneys, say), through that section.
    """
    areas = None if mask is None else _areas(mask.array)
    if areas is None or not areas[0].any():
        centre, boxes, reach = tuple(size // 2 for size in grid.shape), [(0, size) for size in grid.shape], np.inf
    else:
        centre = tuple(_section(area) for area in areas)
        boxes = [(int(np.flatnonzero(area)[0]), int(np.flatnonzero(area)[-1]) + 1) for area in areas]
        reach = max((stop - start) * spacing for (start, stop), spacing in zip(boxes, grid.spacing_mm, strict=True))
    wanted = max(_MARGIN * reach, _SMALLEST_MM)
    ends = [
        _around(box, size, wanted / spacing)
        for box, size, spacing in zip(boxes, grid.shape, grid.spacing_mm, strict=True)
    ]
    return Field(
        centre=centre,
        start=tuple(start for start, _ in ends),
        size=tuple(stop - start for start, stop in ends),
        spacing_mm=grid.spacing_mm,
        directions=grid.affine[:3, :3] / np.array(grid.spacing_mm),
    )


def _around(box: tuple[int, int], size: int, wanted: float) -> tuple[int, int]:
    """So many voxels with a box in their midst, within the volume."""
    n_voxels = int(min(max(wanted, 1), size))
    start = min(max((box[0] + box[1] - n_voxels) // 2, 0), size - n_voxels)
    return start, start + n_voxels


def _section(area: NDArray[np.int64]) -> int:
    centroid = round(float(np.average(np.arange(area.size), weights=area)))
    return centroid if area[centroid] * 2 >= area.max() else int(np.argmax(area))


def _areas(array: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """Labelled voxels of every plane across each axis, in memory of one plane."""
    i, j, k = (np.zeros(size, np.int64) for size in array.shape)
    for number, plane in enumerate(array):
        labelled = plane != 0
        rows = np.count_nonzero(labelled, axis=1)
        if rows.any():
            i[number] = rows.sum()
            j += rows
            k += np.count_nonzero(labelled, axis=0)
    return i, j, k


def _letters(direction: NDArray[np.float64]) -> str:
    """Where a direction goes to, the closest axis first."""
    order = np.argsort(-np.abs(direction), kind="stable")
    told = [axis for rank, axis in enumerate(order) if rank == 0 or abs(direction[axis]) >= _OBLIQUE]
    return "".join(_AXES[axis][int(direction[axis] > 0)] for axis in told)
