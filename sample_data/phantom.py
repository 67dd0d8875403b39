"""Write CT-like DICOM studies of any size, with the voxel values and the affine a reader must arrive at.

`write_ct(CtSpec(shape=(512, 512, 400), spacing_mm=(0.8, 0.8, 1.0)), folder)` returns a `WrittenSeries` with both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage

from sample_data.anatomy import slices
from sample_data.ct_spec import CtSpec, Marker
from sample_data.encode import encode
from sample_data.enhanced import functional_groups
from sample_data.headers import common_header, decimals, file_meta, pixel_header, place

__all__ = ["CtSpec", "Marker", "WrittenSeries", "write_ct", "write_enhanced_ct", "write_text_files"]

SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrittenSeries:
    """A series on disk and what is true about it."""

    spec: CtSpec
    paths: tuple[Path, ...]
    """One a slice, in slice order, duplicates last; a single one for a multi-frame object."""
    study_uid: UID
    series_uid: UID
    affine_ras: NDArray[np.float64]
    """(4, 4) from index (column, row, slice) of `values()` to RAS+ millimetres: the native grid, not reordered."""

    def values(self) -> NDArray[np.float32]:
        """The voxels in modality units, made anew: (columns, rows, slices), slices in `spec.missing` included."""
        rows, columns, n = self.spec.shape
        values = np.empty((columns, rows, n), np.float32)
        for k, stored in enumerate(slices(self.spec)):
            slope, intercept = self.spec.rescale(k)
            values[:, :, k] = (stored * slope + intercept).T
        return values

    def canonical(self) -> nib.Nifti1Image:
        """Values and affine as one image, axes reordered to closest canonical (RAS+)."""
        image: nib.Nifti1Image = nib.as_closest_canonical(nib.Nifti1Image(self.values(), self.affine_ras))
        return image


def write_ct(spec: CtSpec, folder: Path) -> WrittenSeries:
    """Write a series, one file a slice.

    Args:
        spec: What to write.
        folder: Where to; made if it does not exist. Files of the same series number and names are written over.

    Returns:
        The files, and the voxels and affine they stand for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first: list[Path] = []
    copies: list[Path] = []
    for k, stored in enumerate(slices(spec)):
        if k not in spec.missing:
            first.append(_write_slice(spec, k, stored, folder))
        if k in spec.duplicates:
            copies.append(_write_slice(spec, k, stored, folder, copy=1))
    return _written(spec, (*first, *copies))


def write_enhanced_ct(spec: CtSpec, path: Path) -> WrittenSeries:
    """Write the same volume as one Enhanced CT Image object (PS3.3 A.38), one frame a slice.

    Args:
        spec: What to write; `missing` slices are left out, `edit` is called once with index 0.
        path: The file to write; its folder is made if it does not exist.

    Raises:
        ValueError: The spec asks for duplicates or for another modality than CT.
    """
    if spec.duplicates or spec.modality != "CT":
        raise ValueError(f"no Enhanced CT with duplicates {spec.duplicates} and modality {spec.modality}")
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = functional_groups(spec)
    encode(ds, (stored for k, stored in enumerate(slices(spec)) if k not in spec.missing), spec.transfer_syntax)
    _save(spec, ds, 0, path)
    return _written(spec, (path,))


def write_text_files(folder: Path, n: int) -> list[Path]:
    """Write `n` small files that are not DICOM, as they lie about in real study folders."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"notes_{i:03d}.txt" for i in range(n)]
    for i, path in enumerate(paths):
        path.write_text(f"Note {i}: not an image.\n")
    return paths


def _written(spec: CtSpec, paths: Iterable[Path]) -> WrittenSeries:
    return WrittenSeries(
        spec=spec,
        paths=tuple(paths),
        study_uid=spec.study_instance_uid,
        series_uid=spec.series_instance_uid,
        affine_ras=LPS_TO_RAS @ spec.affine_lps(),
    )


def _write_slice(spec: CtSpec, k: int, stored: NDArray[np.integer], folder: Path, copy: int = 0) -> Path:
    ds = common_header(spec, SOP_CLASSES[spec.modality], spec.sop_instance_uid(k, copy))
    ds.InstanceNumber = k + 1 + copy * spec.shape[2]
    place(ds, spec, k)
    pixel_header(ds, spec)
    if spec.writes_rescale:
        ds.RescaleSlope, ds.RescaleIntercept = decimals(spec.rescale(k))
    if spec.modality == "CT":
        ds.RescaleType = "HU"
    elif spec.modality == "PT":
        ds.Units = "BQML"
    encode(ds, [stored], spec.transfer_syntax)
    path = folder / _file_name(spec, ds)
    _save(spec, ds, k, path)
    return path


def _file_name(spec: CtSpec, ds: Dataset) -> str:
    if spec.file_names == "random":
        return f"{hashlib.sha256(ds.SOPInstanceUID.encode()).hexdigest()[:16]}.dcm"
    name = f"{spec.series_number:04d}_{ds.InstanceNumber:05d}"
    return f"{name}.dcm" if spec.file_names == "sequential" else name


def _save(spec: CtSpec, ds: Dataset, k: int, path: Path) -> None:
    for keyword, value in spec.extra.items():
        if value is None:
            ds.pop(keyword, None)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = file_meta(spec, ds)
    if spec.edit:
        spec.edit(ds, k)
    ds.save_as(path, enforce_file_format=True)
