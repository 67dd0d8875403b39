"""From DICOM's plane attributes to one affine, and from acquisition order to axes closest to RAS+."""

from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesTask
from imaging_pipeline.volume.types import Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_GRID_MM = 1e-3


def affine_lps(task: SeriesTask) -> NDArray[np.float64]:
    """(4, 4) matrix from (column, row, slice) to LPS in mm: DICOM PS3.3 equation C.7.6.2.1-1, a step for each slice.

    The first column is the step along a row: Image Orientation's first triple times the distance between *columns*,
    which is the second value of Pixel Spacing (0028,0030).
    """
    between_rows_mm, between_columns_mm = task.pixel_spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = np.array(task.orientation[:3]) * between_columns_mm
    affine[:3, 1] = np.array(task.orientation[3:]) * between_rows_mm
    affine[:3, 2] = task.step_mm
    affine[:3, 3] = task.slices[0].position_mm
    return affine


def to_canonical(planes: NDArray[Any], task: SeriesTask) -> Volume:
    """Planes as acquired, put on the axes closest to RAS+ without touching a value.

    Axes are turned round within the array: a view that runs backwards would have to be copied sooner or later.

    Args:
        planes: (slice, row, column) array in the order of `task.slices`; it is changed.
        task: The series that it was decoded from.

    Returns:
        A view of the array, its axes permuted, with its affine.
    """
    array = planes.transpose(2, 1, 0)
    affine = _LPS_TO_RAS @ affine_lps(task)
    orientation = io_orientation(affine)
    along_column, along_row, along_slice = (bool(direction < 0) for direction in orientation[:, 1])
    _turn(
        planes, along_slice, (slice(None, None, -1 if along_row else 1), slice(None, None, -1 if along_column else 1))
    )
    turned = np.stack((orientation[:, 0], np.ones(3)), axis=1)
    return Volume(array=apply_orientation(array, turned), affine=affine @ inv_ornt_aff(orientation, array.shape))


def to_planes(volume: Volume, task: SeriesTask) -> NDArray[Any]:
    """A volume on the task's own grid, back in the order of its planes: what `to_canonical` did, undone.

    Args:
        volume: Axes closest to RAS+.
        task: The series whose grid it is on.

    Returns:
        (slice, row, column) array in one piece.

    Raises:
        PipelineError: `grid-mismatch` for a volume on another grid.
    """
    affine, shape = _LPS_TO_RAS @ affine_lps(task), (task.columns, task.rows, task.depth)
    orientation = io_orientation(affine)
    axes = orientation[:, 0].astype(int)
    expected = affine @ inv_ornt_aff(orientation, shape)
    distance_mm = float(np.abs(expected - volume.affine).max())
    if tuple(volume.shape[axis] for axis in axes) != shape or distance_mm > _SAME_GRID_MM:
        found, wanted = (" x ".join(map(str, size)) for size in (volume.shape, shape))
        raise PipelineError(
            Code.GRID_MISMATCH,
            f"a mask of {found} voxels, {distance_mm:g} mm off, for planes that make {wanted}",
            "the bundle's postprocessing must invert its preprocessing",
        )
    turned = volume.array.transpose(axes)[tuple(slice(None, None, int(step)) for step in orientation[:, 1])]
    return in_file_order(turned)


def in_file_order(array: NDArray[Any]) -> NDArray[Any]:
    """(K, J, I) in one piece. Row by row: a turn of the whole would fetch a line of the cache for every voxel."""
    if array.flags.f_contiguous:
        return array.T
    turned = np.empty(array.shape[::-1], array.dtype)
    for row in range(array.shape[1]):
        turned[:, row] = np.ascontiguousarray(array[:, row]).T
    return turned


def _turn(planes: NDArray[Any], reverse: bool, within: tuple[slice, slice]) -> None:
    """Turn every plane, and their order; two planes are copied at a time."""
    if not reverse and within == (slice(None, None, 1),) * 2:
        return
    n_planes = len(planes)
    for low in range((n_planes + 1) // 2 if reverse else n_planes):
        high = n_planes - 1 - low if reverse else low
        first, last = planes[low][within].copy(), planes[high][within].copy()
        planes[high], planes[low] = first, last
