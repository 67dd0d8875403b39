"""Make the sample study from the MNI ICBM152 average brain: real anatomy, no patient.

    python sample_data/make_sample.py [FOLDER]

FOLDER defaults to `studies` beside this file. Two runs write identical bytes: identifiers are hashes of fixed words,
nothing is drawn at random and no clock is read. Needs nilearn, which carries the template.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nilearn.datasets import load_mni152_template
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SEED = "imaging_pipeline sample study 1"
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

LEFT_HIPPOCAMPUS_MM = ((-43, -51, -33), (-4, 4, 10))
"""First and last voxel (x, y, z) of the left crop in the template's RAS+ millimetres, both included.

The hippocampus lies in it as it does in the crops of the Medical Segmentation Decathlon, Task04: its centre at 0.41,
0.52 and 0.42 of the crop's extent, counted from lateral, posterior and inferior.
"""

SCALE = 4 * 255
"""Stored value of the template's brightest voxel; the template comes scaled to 0..1 from 8-bit steps."""

LOCALIZER_STEP_MM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSpec:
    """What the slices of one series share."""

    number: int
    description: str
    image_type: tuple[str, ...]
    plane: str
    """Directions in which column, row and slice index grow, as letters of LRAPSI."""


AXIAL, CORONAL, SAGITTAL = "LPS", "LIP", "PIR"
SCAN = ("ORIGINAL", "PRIMARY", "M", "ND")
LEFT = SeriesSpec(number=2, description="T1 3D axial, left hippocampus", image_type=SCAN, plane=AXIAL)
RIGHT = SeriesSpec(number=3, description="T1 3D sagittal, right hippocampus", image_type=SCAN, plane=SAGITTAL)
NOTES = "Scout, then two slabs. Left slab axial, right slab sagittal. No contrast.\n"


def make_sample(folder: Path) -> list[Path]:
    """Write the sample study: two T1 series, one localizer and one file that is not DICOM.

    Args:
        folder: Where to write; made if it does not exist.

    Returns:
        The paths of the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    template = load_mni152_template(resolution=1)
    image = nib.Nifti1Image(np.rint(template.get_fdata() * SCALE).astype(np.uint16), template.affine)
    paths = _write(_localizer(image), folder)
    paths += _write(_slices(_crop(image, *LEFT_HIPPOCAMPUS_MM), LEFT), folder)
    paths += _write(_slices(_crop(image, *_mirrored(*LEFT_HIPPOCAMPUS_MM)), RIGHT), folder)
    notes = folder / "notes.txt"
    notes.write_text(NOTES)
    return [*paths, notes]


def _crop(image: nib.Nifti1Image, first_mm: Sequence[float], last_mm: Sequence[float]) -> nib.Nifti1Image:
    to_voxel = np.linalg.inv(image.affine)
    first, last = (np.rint(nib.affines.apply_affine(to_voxel, mm)).astype(int) for mm in (first_mm, last_mm))
    return image.slicer[first[0] : last[0] + 1, first[1] : last[1] + 1, first[2] : last[2] + 1]


def _mirrored(first_mm: tuple[int, int, int], last_mm: tuple[int, int, int]) -> Sequence[tuple[int, int, int]]:
    """The same box on the other side; the template is symmetric about x = 0."""
    return (-last_mm[0], *first_mm[1:]), (-first_mm[0], *last_mm[1:])


def _localizer(image: nib.Nifti1Image) -> Iterator[Dataset]:
    """Three orthogonal planes of the whole head in one series, as a scout has them."""
    coarse = image.slicer[::LOCALIZER_STEP_MM, ::LOCALIZER_STEP_MM, ::LOCALIZER_STEP_MM]
    i, j, k = (n // 2 for n in coarse.shape)
    cuts = {
        SAGITTAL: coarse.slicer[i : i + 1],
        CORONAL: coarse.slicer[:, j : j + 1],
        AXIAL: coarse.slicer[:, :, k : k + 1],
    }
    for n, (plane, cut) in enumerate(cuts.items()):
        scout = ("ORIGINAL", "PRIMARY", "LOCALIZER")
        spec = SeriesSpec(number=1, description="Localizer 3 planes", image_type=scout, plane=plane)
        yield from _slices(cut, spec, first_instance=n + 1)


def _slices(image: nib.Nifti1Image, spec: SeriesSpec, first_instance: int = 1) -> Iterator[Dataset]:
    """Cut an image into MR slices along the planes of `spec`.

    Image Position and Orientation (Patient), (0020,0032) and (0020,0037), are read off the affine of the reordered
    image, with x and y turned from RAS+ to the patient's LPS (PS3.3 C.7.6.2.1.1).
    """
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(spec.plane))
    )
    turned = image.as_reoriented(turn)
    affine_lps = LPS_FROM_RAS @ turned.affine
    for k, plane in enumerate(np.asanyarray(turned.dataobj).T):
        ds = _header(spec, first_instance + k)
        _place(ds, affine_lps, k)
        _fill(ds, plane)
        yield ds


def _header(spec: SeriesSpec, instance: int) -> Dataset:
    ds = Dataset()
    ds.ImageType = list(spec.image_type)
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = _uid("instance", spec.number, instance)
    ds.StudyDate = ds.SeriesDate = "20090101"
    ds.StudyTime = ds.SeriesTime = "120000"
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ds.Laterality = ""
    ds.Modality = "MR"
    ds.Manufacturer = "None (average of 152 brains)"
    ds.StudyDescription = "Sample study, no patient"
    ds.SeriesDescription = spec.description
    ds.PatientName = "Template^Average"
    ds.PatientID = "SAMPLE-0001"
    ds.PatientBirthDate = "19000101"
    ds.PatientSex = "O"
    ds.BodyPartExamined = "BRAIN"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", "SP", ""
    ds.MRAcquisitionType = "3D"
    ds.RepetitionTime = ds.EchoTime = ds.EchoTrainLength = None
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = _uid("study")
    ds.SeriesInstanceUID = _uid("series", spec.number)
    ds.FrameOfReferenceUID = _uid("frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.SeriesNumber = spec.number
    ds.InstanceNumber = instance
    ds.ImageComments = "Cut from the MNI ICBM152 nonlinear average, see sample_data/LICENSE"
    return ds


def _place(ds: Dataset, affine_lps: NDArray[np.float64], k: int) -> None:
    spacing_mm = np.linalg.norm(affine_lps[:3, :3], axis=0)
    cosines = affine_lps[:3, :3] / spacing_mm
    ds.ImagePositionPatient = [float(v) for v in affine_lps[:3] @ (0, 0, k, 1)]
    ds.ImageOrientationPatient = [float(v) for v in (*cosines[:, 0], *cosines[:, 1])]
    ds.PixelSpacing = [float(spacing_mm[1]), float(spacing_mm[0])]
    ds.SliceThickness = ds.SpacingBetweenSlices = float(spacing_mm[2])


def _fill(ds: Dataset, plane: NDArray[np.uint16]) -> None:
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = plane.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = SCALE // 2, SCALE
    ds.PixelData = np.ascontiguousarray(plane, dtype="<u2").tobytes()


def _write(slices: Iterator[Dataset], folder: Path) -> list[Path]:
    paths = []
    for ds in slices:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.ImplementationClassUID = _uid("implementation")
        ds.file_meta.ImplementationVersionName = "SAMPLE_1"
        paths.append(folder / _file_name(ds.SOPInstanceUID))
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def _file_name(sop_uid: str) -> str:
    """A name that tells neither series nor order; one in four has no extension, as exports do."""
    digest = hashlib.sha256(sop_uid.encode()).hexdigest()
    return digest[:12] if digest[-1] in "0123" else f"{digest[:12]}.dcm"


def _uid(*words: str | int) -> UID:
    return generate_uid(entropy_srcs=[SEED, *(f"/{word}" for word in words)])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("studies")
    written = make_sample(target)
    print(f"{len(written)} files, {sum(p.stat().st_size for p in written) / 1000:.0f} kB in {target}")
