"""DICOM outputs of series with made-up masks, and independent readers of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from skimage.draw import polygon

from imaging_pipeline.records import SeriesTask
from imaging_pipeline.results.dicom.source import read_origin
from imaging_pipeline.results.dicom.stamp import Maker
from imaging_pipeline.results.dicom.write import DicomOutputs, DicomWriter
from imaging_pipeline.results.measure import measure
from imaging_pipeline.segment.labels import Concept, Label
from imaging_pipeline.sources import open_source
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.decode import decode

LABELS = (
    Label(
        index=1,
        name="anterior hippocampus",
        colour="#E6550D",
        category=Concept(code="91723000", meaning="Anatomical Structure"),
        type=Concept(code="5366008", meaning="Hippocampus"),
        modifier=Concept(code="255549009", meaning="Anterior"),
    ),
    Label(index=2, name="Überraschung"),
    Label(index=3, name="never there"),
    Label(index=7, name="islands"),
)
MAKER = Maker(model_name="test_model", model_version="1.0", model_digest="ab" * 32, fingerprint="cd" * 32)
ALL = {"seg": "binary", "rtstruct": "", "sr": "binary"}
LPS = np.array([-1.0, -1.0, 1.0])

Points = NDArray[np.float64]
"""(N, 3) LPS in mm."""


@dataclass(frozen=True)
class Made:
    """What was made of one series."""

    task: SeriesTask
    folder: Path
    mask: Volume
    image: Volume
    outputs: DicomOutputs

    @property
    def source(self) -> Path:
        """The first slice."""
        return Path(self.task.slices[0].path)

    def file(self, kind: str) -> Path:
        return self.folder / self.outputs.paths[kind]

    def read(self, kind: str) -> pydicom.FileDataset:
        return pydicom.dcmread(self.file(kind))


def labels_on(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask with no symmetry: a block with a hole and an island in it, a corner, and two single voxels."""
    mask = np.zeros(shape, np.uint8)
    n, m, k = shape
    mask[n // 8 : n // 2, m // 8 : m // 2, : max(k // 2, 1)] = 1
    mask[n // 6 : n // 3, m // 6 : m // 3] = 0
    mask[n // 4, m // 4, : max(k // 2, 1)] = 1
    mask[n // 2 + 1 :, m // 2 + 1 :, k // 3 :] = 2
    mask[0, 0, 0] = mask[n - 1, 0, k - 1] = 7
    return mask


def make(
    task: SeriesTask, folder: Path, mask: NDArray[Any] | None = None, formats: dict[str, str] | None = None
) -> Made:
    """Outputs of a series."""
    folder.mkdir(parents=True, exist_ok=True)
    image = decode(task)
    volume = image.with_array(labels_on(image.shape) if mask is None else mask)
    writer = DicomWriter(
        out=LocalStore(root=folder),
        path_of=lambda kind: f"{kind}.dcm",
        formats=formats or ALL,
        labels=LABELS,
        maker=MAKER,
    )
    outputs = writer.write(volume, measure(volume, image, LABELS), read_origin(task, open_source))
    return Made(task=task, folder=folder, mask=volume, image=image, outputs=outputs)


def label_of_segment(seg: pydicom.Dataset) -> dict[int, int]:
    """Segment number to label number, by what the segment says of itself."""
    return {
        int(item.SegmentNumber): int(item.SegmentDescription.split()[1])
        for item in seg.SegmentSequence
        if item.SegmentNumber
    }


def points_of_seg(path: Path) -> dict[int, Points]:
    """Centres of every pixel of every label, by pydicom and PS3.3 equation C.7.6.2.1-1 alone: no order is assumed."""
    seg = pydicom.dcmread(path)
    shared, names = seg.SharedFunctionalGroupsSequence[0], label_of_segment(seg)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[int, list[Points]] = {}
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for pixels, frame in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        by_segment = {0: 0, **names}
        if seg.SegmentationType == "BINARY":
            number = frame.get("SegmentIdentificationSequence", shared.get("SegmentIdentificationSequence"))
            by_segment = {1: names[int(number[0].ReferencedSegmentNumber)]}
        for value, label in by_segment.items():
            rows, columns = np.nonzero(pixels == value) if value else ([], [])
            here = np.outer(columns, cosines[0]) * between_columns + np.outer(rows, cosines[1]) * between_rows
            found.setdefault(label, []).append(corner + here)
    return {label: points for label, parts in found.items() if label and len(points := np.concatenate(parts))}


def points_of_rtstruct(path: Path, task: SeriesTask) -> dict[int, Points]:
    """Centres of pixels within each contour, filled by scikit-image on the plane that it is on."""
    structures = pydicom.dcmread(path)
    cosines = np.array(task.orientation).reshape(2, 3)
    spacing = np.array(task.pixel_spacing_mm[::-1])
    normal = np.cross(*cosines)
    found: dict[int, list[Points]] = {}
    for roi in structures.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            first = np.array(task.slices[0].position_mm)
            step = np.array(task.step_mm)
            slices = (points - first) @ normal / (step @ normal)
            assert np.ptp(slices) < 0.01, "a contour lies on one plane"
            corner = first + round(float(slices.mean())) * step
            columns, rows = ((points - corner) @ cosines.T / spacing).T
            filled = polygon(rows, columns, (task.rows, task.columns))
            inside = np.stack(filled[::-1], axis=1) * spacing @ cosines + corner
            found.setdefault(int(roi.ReferencedROINumber), []).append(inside)
    return {label: np.concatenate(parts) for label, parts in found.items()}


def on_grid(points: dict[int, Points], mask: Volume) -> NDArray[np.uint8]:
    """Labels at the voxels of a mask's grid that points are the centres of; no two may be at one voxel."""
    found, inverse = np.zeros(mask.shape, np.uint8), np.linalg.inv(mask.affine)
    for label, places in points.items():
        exact = nib.affines.apply_affine(inverse, places * LPS)
        voxels = np.rint(exact).astype(int)
        assert np.abs(exact - voxels).max() < 0.05
        times = np.bincount(np.ravel_multi_index(tuple(voxels.T), mask.shape), minlength=found.size)
        assert times.max() == 1
        assert not found[tuple(voxels.T)].any()
        found[tuple(voxels.T)] = label
    return found


def by_dcmqi(path: Path, folder: Path, mask: Volume) -> NDArray[np.uint8]:
    """A SEG as dcmqi reads it, on the grid of a mask."""
    tool = _tool("segimage2itkimage")
    folder.mkdir()
    command = [tool, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nifti", "--prefix", "s"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names, points = label_of_segment(pydicom.dcmread(path)), dict[int, Points]()
    for file in folder.glob("*.nii.gz"):
        image = nib.load(file)
        places = np.argwhere(np.asanyarray(image.dataobj))
        points[names[int(file.name.split("-")[1].split(".")[0])]] = nib.affines.apply_affine(image.affine, places) * LPS
    return on_grid({label: places for label, places in points.items() if len(places)}, mask)


def by_dcmrtstruct2nii(path: Path, images: Path, folder: Path) -> dict[str, nib.Nifti1Image]:
    """Structures as dcmrtstruct2nii reads them, by file name, in canonical axes."""
    reader = pytest.importorskip("dcmrtstruct2nii", reason="dcmrtstruct2nii is not installed: see the extra dev")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom, "read_file", pydicom.dcmread, raising=False)  # its name in pydicom 2
        reader.dcmrtstruct2nii(str(path), str(images), str(folder), convert_original_dicom=False)
    return {file.name: nib.as_closest_canonical(nib.load(file)) for file in folder.glob("*.nii.gz")}


def images_of(task: SeriesTask, folder: Path) -> Path:
    """A folder of the files of one series alone."""
    folder.mkdir()
    for number, ref in enumerate(task.slices):
        shutil.copy(ref.path, folder / f"{number:04d}.dcm")
    return folder


def complaints(path: Path, kind: str = "Error") -> Counter[str]:
    """What dciodvfy says of a file."""
    done = subprocess.run([_tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    return Counter(line for line in (done.stdout + done.stderr).splitlines() if line.startswith(kind))


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _tool(name: str) -> str:
    tool = Path(sys.executable).with_name(name)
    if not tool.exists():
        pytest.skip(f"{name} is not installed: see the extra dev")
    return str(tool)
