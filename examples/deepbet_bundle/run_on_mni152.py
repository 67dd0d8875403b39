"""Write the MNI152 T1 template as a DICOM series and segment the brain in it with the bundle of this folder.

    python examples/deepbet_bundle/run_on_mni152.py OUT [--resolution 2] [options of imaging_pipeline.run]

OUT gets `studies/` with the series and `results/` with the mask. The template is the MNI ICBM152 2009a nonlinear
symmetric average as nilearn carries it, without a skull; the notice that it comes under stands in LICENSE. Every call
writes a new study: its identifiers are drawn anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
from nilearn.datasets import load_mni152_template
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from imaging_pipeline.run import main as run_pipeline

BUNDLE = Path(__file__).resolve().parent
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SCALE = 16 * 255
"""Stored value of the template's brightest voxel, within 12 bits; the template comes as 8-bit steps of 0..1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the series, run the command on it and say where the mask is.

    Args:
        argv: Arguments without the program's name; None: those of this process.

    Returns:
        The exit code of the command.
    """
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", metavar="OUT", type=Path)
    arguments.add_argument("--resolution", metavar="MM", type=int, default=1, help="voxel size (default: 1)")
    given, options = arguments.parse_known_args(argv)
    studies, results = given.out / "studies" / f"mni152_{given.resolution}mm", given.out / "results"
    series_uid = write_series(template(given.resolution), studies)
    trusted = json.dumps([str(BUNDLE.parent)])
    command = [str(studies), "--out", str(results), "--model", str(BUNDLE), "--set", f"models.trusted_dirs={trusted}"]
    code = run_pipeline([*command, *options])
    for line in found_volumes(results, series_uid):
        sys.stdout.write(f"{line}\n")
    return code


def template(resolution_mm: int) -> nib.Nifti1Image:
    """The template with 12-bit integers, (I, J, K) RAS+."""
    image = load_mni152_template(resolution=resolution_mm)
    return nib.Nifti1Image(np.rint(image.get_fdata() * SCALE).astype(np.int16), image.affine)


def write_series(image: nib.Nifti1Image, folder: Path) -> UID:
    """Write a volume as an axial T1 MR series, one file a slice.

    Args:
        image: (I, J, K) integers of 0 to 4095 with any affine that is not sheared.
        folder: Where to; files of an earlier call are replaced.

    Returns:
        The Series Instance UID, as fresh as all the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.dcm"):
        stale.unlink()
    to_lps = nib.orientations.axcodes2ornt(("L", "P", "S"))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), to_lps))
    affine_lps = LPS_FROM_RAS @ turned.affine
    common = _header()
    for k, plane in enumerate(np.asanyarray(turned.dataobj).T):
        ds = Dataset()
        ds.update(common)
        ds.SOPInstanceUID = generate_uid()
        ds.InstanceNumber = k + 1
        _place(ds, affine_lps, k)
        _fill(ds, plane)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"{k + 1:04d}.dcm", enforce_file_format=True)
    return UID(common.SeriesInstanceUID)


def found_volumes(results: Path, series_uid: UID) -> list[str]:
    """What the command found in a series, one line a mask."""
    lines = []
    for sidecar in sorted(results.glob("sub-*/ses-*/mr/*_dseg.json")):
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        if content["SeriesInstanceUID"] == series_uid:
            volumes = ", ".join(f"{name} {volume:.1f} ml" for name, volume in content["VolumesMl"].items())
            lines.append(f"{volumes}: {sidecar.with_suffix('.nii.gz')}")
    return lines


def _header() -> Dataset:
    """What all slices share; echo and repetition time are plausible ones, an average has none of its own."""
    now = datetime.now()
    ds = Dataset()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SOPClassUID = MRImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = now.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = now.strftime("%H%M%S")
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ds.PositionReferenceIndicator = ""
    ds.Modality = "MR"
    ds.Manufacturer = "None (average of 152 brains)"
    ds.StudyDescription, ds.SeriesDescription = "MNI152 template, no patient", "T1w 3D axial"
    ds.PatientName, ds.PatientID = "Template^MNI152", "MNI152"
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.BodyPartExamined, ds.PatientPosition = "BRAIN", "HFS"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
    ds.RepetitionTime, ds.EchoTime, ds.FlipAngle, ds.EchoTrainLength = "18", "10", "30", "1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    ds.SeriesNumber = ds.AcquisitionNumber = 1
    ds.ImageComments = (
        "MNI ICBM152 2009a nonlinear symmetric T1 average, (C) 1993-2004 Louis Collins, McConnell BIC, MNI"
    )
    return ds


def _place(ds: Dataset, affine_lps: NDArray[np.float64], k: int) -> None:
    """The Image Plane module (PS3.3 C.7.6.2) of slice `k` of an affine from (column, row, slice)."""
    spacing_mm = np.linalg.norm(affine_lps[:3, :3], axis=0)
    cosines = affine_lps[:3, :3] / spacing_mm
    ds.ImagePositionPatient = [f"{v:.10g}" for v in affine_lps[:3] @ (0, 0, k, 1)]
    ds.ImageOrientationPatient = [f"{v:.10g}" for v in (*cosines[:, 0], *cosines[:, 1])]
    ds.PixelSpacing = [f"{v:.10g}" for v in (spacing_mm[1], spacing_mm[0])]
    ds.SliceThickness = ds.SpacingBetweenSlices = f"{spacing_mm[2]:.10g}"


def _fill(ds: Dataset, plane: NDArray[np.integer]) -> None:
    """The Image Pixel module (PS3.3 C.7.6.3) of one plane (rows, columns)."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = plane.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = SCALE // 2, SCALE
    ds.PixelData = np.ascontiguousarray(plane, dtype="<u2").tobytes()


if __name__ == "__main__":
    sys.exit(main())
