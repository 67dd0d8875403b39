"""Volumes as compressed NIfTI-1 files with the same bytes every time."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from imaging_pipeline.results.publish import publish
from imaging_pipeline.volume import Volume

_ORTHOGONAL = 1e-3


def write_nifti(volume: Volume, path: Path, gzip_level: int) -> str:
    """Write a volume atomically; SHA-256 of the file.

    The sform carries the affine in full. The qform, which knows no shear, is set only where the axes are orthogonal.
    The gzip header holds neither time nor name, so equal voxels give equal bytes.

    Args:
        volume: Axes closest to RAS+; int16, int32, float32, uint8 or uint16.
        path: Ends in .nii.gz.
        gzip_level: 0 to 9.

    Raises:
        PipelineError: `write-failed`.
    """
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1 if _is_orthogonal(volume) else 0)
    return publish(path, gzip.compress(image.to_bytes(), compresslevel=gzip_level, mtime=0))


def _is_orthogonal(volume: Volume) -> bool:
    axes = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < _ORTHOGONAL)
