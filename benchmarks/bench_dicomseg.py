"""A mask of many labels as a DICOM SEG, against dcmqi and against highdicom as its documentation uses it.

    python -m benchmarks.bench_dicomseg [--quick] [--json FILE] [--repeats N]

104 labels (ellipsoids, as a whole-body model's organs lie) on a CT of 512 x 512 x 400, NIfTI and DICOM folder in, one
.dcm out. Each run is a process of its own, with reading of both; the peers get what they need and nothing else:

  imaging_pipeline, binary | labelmap | rtstruct   headers, one mask, `results.dicom`
  highdicom                                        every instance read by pydicom, Segmentation(...), save_as
  dcmqi                                            itkimage2segimage --skip 1

Every SEG is read back by highdicom and must hold the labels.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray

from benchmarks.harness import Row, interleave, parse_options, report, summarise
from benchmarks.measure import Command
from sample_data.phantom import CtSpec, WrittenSeries, write_ct

BINARY, LABELMAP, RTSTRUCT = (f"imaging_pipeline, {kind}" for kind in ("binary", "labelmap", "rtstruct"))
HIGHDICOM, DCMQI = "highdicom", "dcmqi"
SYSTEMS = (BINARY, HIGHDICOM, DCMQI, LABELMAP, RTSTRUCT)
SHAPE, N_LABELS = (512, 512, 400), 104
QUICK_SHAPE, QUICK_LABELS = (128, 128, 60), 20


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; as `one SYSTEM FOLDER` a single run of it."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["one"]:
        _one(arguments[1], Path(arguments[2]))
        return
    options = parse_options(__doc__ or "", argv)
    shape, n_labels = (QUICK_SHAPE, QUICK_LABELS) if options.quick else (SHAPE, N_LABELS)
    with tempfile.TemporaryDirectory(prefix="bench-dicomseg-") as scratch:
        folder = Path(scratch)
        series = write_ct(CtSpec(shape=shape, spacing_mm=(0.8, 0.8, 1.5), noise_sd=0.0), folder / "ct")
        truth = _prepare(series, n_labels, folder)
        commands = {system: partial(_command, system, folder) for system in SYSTEMS}
        runs = interleave(commands, options.repeats or (1 if options.quick else 3))
        figures: dict[str, dict[str, float | int | str]] = {name: _figures(name, folder, truth) for name in SYSTEMS}
        case = f"{' x '.join(map(str, shape))}, {n_labels} labels"
        rows: list[Row] = summarise(case, runs, peer=DCMQI, figures=figures)
    report("bench_dicomseg", rows, options, ["different_voxels: read back by highdicom, against the mask"])


def ellipsoids(shape: tuple[int, ...], n_labels: int) -> NDArray[np.uint8]:
    """(I, J, K) label numbers 1 to n: bodies of all sizes, later ones over earlier ones."""
    rng, labels = np.random.default_rng(7), np.zeros(shape, np.uint8)
    for label in range(1, n_labels + 1):
        radii = np.array(shape) * rng.uniform(0.02, 0.09, 3)
        centre = np.array(shape) * rng.uniform(0.15, 0.85, 3)
        box = tuple(
            slice(max(int(c - r), 0), min(int(c + r) + 2, n)) for c, r, n in zip(centre, radii, shape, strict=True)
        )
        places = np.ogrid[box]
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip(places, centre, radii, strict=True)) <= 1
        labels[box][inside] = label
    return labels


def _prepare(series: WrittenSeries, n_labels: int, folder: Path) -> NDArray[np.uint8]:
    """What all systems read, and the truth as (slice, row, column)."""
    rows, columns, depth = series.spec.shape
    labels = ellipsoids((columns, rows, depth), n_labels)
    native = nib.Nifti1Image(labels, series.affine_ras)
    nib.save(nib.as_closest_canonical(native), folder / "labels.nii.gz")
    segments = [
        {
            "labelID": number,
            "SegmentLabel": f"structure {number}",
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "benchmark",
            "SegmentedPropertyCategoryCodeSequence": _code("91723000", "Anatomical Structure"),
            "SegmentedPropertyTypeCodeSequence": _code("113343008", "Organ"),
        }
        for number in range(1, n_labels + 1)
    ]
    metadata = {"SeriesDescription": "peer", "SeriesNumber": "7", "InstanceNumber": "1", "BodyPartExamined": ""}
    meta = {**metadata, "ContentCreatorName": "x", "segmentAttributes": [segments]}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "n_labels").write_text(str(n_labels))
    return np.ascontiguousarray(labels.transpose(2, 1, 0))


def _code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


def _command(system: str, folder: Path, _number: int) -> Command:
    if system != DCMQI:
        return Command(argv=(sys.executable, "-m", "benchmarks.bench_dicomseg", "one", system, str(folder)))
    tool = Path(sys.executable).with_name("itkimage2segimage")
    options = {
        "--inputImageList": folder / "labels.nii.gz",
        "--inputDICOMDirectory": folder / "ct",
        "--inputMetadata": folder / "meta.json",
        "--outputDICOM": _file(DCMQI, folder),
    }
    return Command(argv=(str(tool), "--skip", "1", *(str(part) for pair in options.items() for part in pair)))


def _file(system: str, folder: Path) -> Path:
    return folder / f"{system.replace(', ', '_')}.dcm"


def _one(system: str, folder: Path) -> None:
    image = nib.load(folder / "labels.nii.gz")
    n_labels = int((folder / "n_labels").read_text())
    if system == HIGHDICOM:
        _by_highdicom(np.asanyarray(image.dataobj), n_labels, folder)
    else:
        _by_us(system, np.asanyarray(image.dataobj), image.affine, n_labels, folder)


def _by_us(system: str, labels: NDArray[np.uint8], affine: NDArray[np.float64], n_labels: int, folder: Path) -> None:
    from imaging_pipeline.identity import Keys
    from imaging_pipeline.intake.headers import read_file
    from imaging_pipeline.intake.listing import list_files
    from imaging_pipeline.intake.series import group_series
    from imaging_pipeline.results.dicom.source import read_origin
    from imaging_pipeline.results.dicom.stamp import Maker
    from imaging_pipeline.results.dicom.write import DicomWriter
    from imaging_pipeline.segment.labels import Label
    from imaging_pipeline.settings import resolve
    from imaging_pipeline.sources import open_source
    from imaging_pipeline.stores import LocalStore
    from imaging_pipeline.volume import Volume

    rows = [row.plane for file in list_files(folder / "ct") for row in read_file(file) if row.plane is not None]
    (task,) = group_series(rows, Keys(b"0" * 16), resolve()).tasks
    kind, how = ("rtstruct", "") if system == RTSTRUCT else ("seg", "labelmap" if system == LABELMAP else "binary")
    names = tuple(Label(index=number, name=f"structure {number}") for number in range(1, n_labels + 1))
    maker = Maker(model_name="benchmark", model_version="1", model_digest="0" * 64, fingerprint="0" * 64)
    path = _file(system, folder).name
    writer = DicomWriter(
        out=LocalStore(root=folder), path_of=lambda _kind: path, formats={kind: how}, labels=names, maker=maker
    )
    done = writer.write(Volume(array=labels, affine=affine), (), read_origin(task, open_source))
    if done.refused:
        raise SystemExit(done.refused[0].message)


def _by_highdicom(labels: NDArray[np.uint8], n_labels: int, folder: Path) -> None:
    import highdicom
    from pydicom.sr.codedict import codes

    images = sorted(
        (pydicom.dcmread(file) for file in (folder / "ct").iterdir()), key=lambda image: image.InstanceNumber
    )
    # canonical axes back to (slice, row, column): the phantom is axial, head first, supine
    planes = np.ascontiguousarray(labels[::-1, ::-1].transpose(2, 1, 0))
    algorithm = highdicom.AlgorithmIdentificationSequence("benchmark", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"structure {number}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number in range(1, n_labels + 1)
    ]
    seg = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=7,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="benchmark",
        manufacturer_model_name="benchmark",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(_file(HIGHDICOM, folder))


def _figures(system: str, folder: Path, truth: NDArray[np.uint8]) -> dict[str, float | int | str]:
    import highdicom

    file = _file(system, folder)
    figures: dict[str, float | int | str] = {"megabytes": round(file.stat().st_size / 1e6, 1)}
    if system == RTSTRUCT:
        return figures
    seg = highdicom.seg.segread(file)
    volume = seg.get_volume(combine_segments=True, rescale_fractional=False)
    volume = volume.to_patient_orientation("HPL")  # dcmqi keeps the axes of the NIfTI
    heights_mm = volume.position[2] + np.arange(len(volume.array)) * volume.spacing[0]
    found = np.zeros_like(truth)  # planes without a voxel are left out
    found[np.rint((heights_mm - _lowest(folder)) / volume.spacing[0]).astype(int)] = volume.array
    return {**figures, "frames": int(seg.NumberOfFrames), "different_voxels": int((found != truth).sum())}


def _lowest(folder: Path) -> float:
    heights = (pydicom.dcmread(file, specific_tags=["ImagePositionPatient"]) for file in (folder / "ct").iterdir())
    return min(float(image.ImagePositionPatient[2]) for image in heights)


if __name__ == "__main__":
    main()
