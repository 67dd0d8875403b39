"""Volumes as compressed NIfTI-1 files with the same bytes every time."""

import zlib
from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.stores import Store
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.geometry import in_file_order

_ORTHOGONAL = 1e-3
_PART_BYTES = 8 << 20
_DATA_OFFSET = 352

_GZIP = 31
"""zlib's window size of 15 with a gzip header, which then holds neither time nor name."""


def write_nifti(volume: Volume, out: Store, path: str, gzip_level: int) -> str:
    """Write a volume atomically; SHA-256 of the file.

    The sform carries the affine in full. The qform, which knows no shear, is set only where the axes are orthogonal.
    The gzip header holds neither time nor name, so equal voxels give equal bytes.

    Args:
        volume: Axes closest to RAS+; int16, int32, float32, uint8 or uint16.
        out: RESULTS.
        path: Relative to it; ends in .nii.gz.
        gzip_level: 0 to 9.

    Raises:
        PipelineError: `write-failed`.
    """
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1 if _is_orthogonal(volume) else 0)
    image.header.set_data_offset(_DATA_OFFSET)
    image.header.set_slope_inter(1, 0)
    return out.publish(path, _compressed(image.header, volume.array, gzip_level))


def _compressed(header: nib.Nifti1Header, array: NDArray[Any], level: int) -> Iterator[bytes]:
    """The file in parts of some planes: neither its bytes nor a copy of the array are in memory as a whole."""
    deflate = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
    yield deflate.compress(header.binaryblock.ljust(_DATA_OFFSET, b"\0"))  # no extensions
    n_planes = max(_PART_BYTES // max(array[..., 0].nbytes, 1), 1)
    for first in range(0, array.shape[2], n_planes):
        yield deflate.compress(in_file_order(array[:, :, first : first + n_planes]).data)
    yield deflate.flush()


def _is_orthogonal(volume: Volume) -> bool:
    axes = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < _ORTHOGONAL)
