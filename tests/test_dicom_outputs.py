"""A mask goes back to the PACS: on the right voxels of the right patient, and valid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from scipy.ndimage import gaussian_filter
from skimage.draw import polygon2mask

from imaging_pipeline.errors import Code
from imaging_pipeline.intake.series import Grouped
from imaging_pipeline.results.dicom.coding import PRIVATE
from imaging_pipeline.results.dicom.contours import outlines
from imaging_pipeline.results.dicom.source import TYPE_2
from imaging_pipeline.results.dicom.stamp import NOTICE
from imaging_pipeline.segment.labels import read_labels
from imaging_pipeline.settings import Settings
from sample_data.phantom import CtSpec, write_ct, write_enhanced_ct
from tests.dicom_objects import (
    ALL,
    Made,
    by_dcmqi,
    by_dcmrtstruct2nii,
    complaints,
    dice,
    images_of,
    labels_on,
    make,
    on_grid,
    points_of_rtstruct,
    points_of_seg,
)

Group = Callable[..., Grouped]

COS, SIN = np.cos(0.4), np.sin(0.4)
SPEC = CtSpec(
    shape=(26, 30, 9), spacing_mm=(1.5, 2.5, 4.0), file_names="random", extra={"FrameOfReferenceUID": "1.2.3"}
)
SPECS = {
    "axial": SPEC,
    "sagittal": dataclasses.replace(SPEC, orientation=(0, 1, 0, 0, 0, -1)),
    "coronal": dataclasses.replace(SPEC, orientation=(1, 0, 0, 0, 0, -1)),
    "oblique": dataclasses.replace(SPEC, orientation=(COS, SIN, 0, -SIN * COS, COS * COS, SIN)),
    "feet first": dataclasses.replace(SPEC, orientation=(-1, 0, 0, 0, 1, 0)),
}


@pytest.fixture(scope="module")
def made(grouped: Group, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Outputs of a series in each orientation, of a tilted and of a multi-frame one."""
    folder, outputs = tmp_path_factory.mktemp("outputs"), {}
    tilted = {"tilted": dataclasses.replace(SPEC, tilt_deg=15.0)}
    for name, spec in {**SPECS, **tilted}.items():
        write_ct(spec, folder / name / "in")
    write_enhanced_ct(SPEC, folder / "multi-frame" / "in" / "all.dcm")
    for name in (*SPECS, "tilted", "multi-frame"):
        (task,) = grouped(folder / name / "in").tasks
        outputs[name] = make(task, folder / name)
    return outputs


KINDS = (*SPECS, "tilted", "multi-frame")


@pytest.mark.parametrize("name", KINDS)
def test_every_labelled_voxel_is_at_its_place_in_seg_and_rtstruct(name: str, made: dict[str, Made]) -> None:
    outputs = made[name]
    assert not outputs.outputs.refused
    np.testing.assert_array_equal(on_grid(points_of_seg(outputs.file("seg")), outputs.mask), outputs.mask.array)
    structures = on_grid(points_of_rtstruct(outputs.file("rtstruct"), outputs.task), outputs.mask)
    np.testing.assert_array_equal(structures, outputs.mask.array)


@pytest.mark.parametrize("name", [*SPECS, "multi-frame"])
def test_highdicom_and_dcmqi_read_the_same_labels_back_from_a_seg(
    name: str, made: dict[str, Made], tmp_path: Path
) -> None:
    outputs = made[name]
    np.testing.assert_array_equal(by_dcmqi(outputs.file("seg"), tmp_path / "dcmqi", outputs.mask), outputs.mask.array)
    seg = highdicom.seg.segread(outputs.file("seg"))
    sources = [ref.sop_instance_uid for ref in outputs.task.slices]
    if name == "multi-frame":
        frames = [ref.frame + 1 for ref in outputs.task.slices]
        read = seg.get_pixels_by_source_frame(sources[0], frames, combine_segments=True, ignore_spatial_locations=False)
    else:
        read = seg.get_pixels_by_source_instance(sources, combine_segments=True)
    counts = np.bincount(read.ravel(), minlength=5)[1:]
    assert counts.tolist() == [int((outputs.mask.array == label).sum()) for label in (1, 2, 3, 7)]


@pytest.mark.parametrize("name", SPECS)
def test_dcmrtstruct2nii_reads_the_same_structures_back(name: str, made: dict[str, Made], tmp_path: Path) -> None:
    outputs = made[name]
    read = by_dcmrtstruct2nii(outputs.file("rtstruct"), images_of(outputs.task, tmp_path / "in"), tmp_path / "out")
    assert len(read) == 3
    for file, label in (("mask_anterior-hippocampus", 1), ("mask_Uberraschung", 2), ("mask_islands", 7)):
        image = read[f"{file}.nii.gz"]
        np.testing.assert_allclose(image.affine, outputs.mask.affine, atol=1e-3)
        assert dice(image.get_fdata() > 0, outputs.mask.array == label) >= 0.98


@pytest.mark.parametrize("name", KINDS)
def test_an_independent_validator_finds_no_error(name: str, made: dict[str, Made]) -> None:
    for kind in ALL:
        assert not complaints(made[name].file(kind)), kind


def test_objects_are_of_the_patient_and_study_of_their_source(grouped: Group, tmp_path: Path) -> None:
    whose = {
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientID": "007",
        "PatientBirthDate": "19701231",
        "PatientSex": "F",
        "PatientAge": "044Y",
        "StudyID": "S1",
        "AccessionNumber": "A 1",
        "StudyDescription": "Follow-up",
        "PatientIdentityRemoved": "NO",
        "IssuerOfPatientID": "Clinic",
    }
    write_ct(dataclasses.replace(SPEC, extra={**SPEC.extra, **whose}), tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    outputs = make(task, tmp_path)
    source = pydicom.dcmread(outputs.source)
    for kind in ALL:
        found = outputs.read(kind)
        for keyword in (*whose, "StudyInstanceUID", "StudyDate", "StudyTime"):
            assert found[keyword].value == source[keyword].value, keyword
        assert found.SeriesInstanceUID != source.SeriesInstanceUID
        assert found.SeriesDescription.endswith(NOTICE)
        assert found.SeriesDescription.startswith("test_model")
    for kind in ("seg", "rtstruct"):
        assert outputs.read(kind).FrameOfReferenceUID == source.FrameOfReferenceUID
    assert {item.ReferencedSOPInstanceUID for item in outputs.read("seg").SourceImageSequence} == {
        ref.sop_instance_uid for ref in task.slices
    }


def test_what_a_de_identified_source_lacks_stays_empty_and_is_never_made_up(grouped: Group, tmp_path: Path) -> None:
    nothing = dict.fromkeys(("PatientName", *TYPE_2, "SliceThickness", "PositionReferenceIndicator"))
    write_ct(dataclasses.replace(SPEC, extra={**SPEC.extra, **nothing, "PatientSex": "?"}), tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    outputs = make(task, tmp_path)
    assert not outputs.outputs.refused
    for kind in ALL:
        found = outputs.read(kind)
        assert all(keyword in found and not found[keyword].value for keyword in TYPE_2 if keyword != "PatientSex")
        assert found.PatientSex == "?", "what the source says is the source's to correct"
        assert not complaints(outputs.file(kind)) - complaints(outputs.source)


def test_without_a_frame_of_reference_or_uids_objects_are_refused_with_a_code(grouped: Group, tmp_path: Path) -> None:
    for keyword, code in (
        ("FrameOfReferenceUID", Code.NO_FRAME_OF_REFERENCE),
        ("StudyInstanceUID", Code.MISSING_UID),
        ("SeriesInstanceUID", Code.MISSING_UID),
    ):
        folder = tmp_path / keyword
        write_ct(dataclasses.replace(SPEC, extra={**SPEC.extra, keyword: None}), folder / "in")
        (task,) = grouped(folder / "in").tasks
        outputs = make(task, folder).outputs
        assert not outputs.paths
        assert [(item.format, item.code) for item in outputs.refused] == [(kind, code) for kind in ALL]
        assert all(item.message and item.hint for item in outputs.refused)


def test_a_header_that_nothing_valid_can_be_made_of_is_refused_with_its_fault(
    grouped: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ct(SPEC, tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks

    def breaks(*_: object, **__: object) -> None:
        raise UnicodeEncodeError("latin-1", "ü", 0, 1, "no such letter")

    monkeypatch.setattr(pydicom.FileDataset, "save_as", breaks)
    outputs = make(task, tmp_path).outputs
    assert not outputs.paths
    assert not list(tmp_path.glob("*.dcm")), "nothing half-written stays"
    assert [item.code for item in outputs.refused] == [Code.NOT_ENCODABLE] * 3
    assert "no such letter" in outputs.refused[0].message


def test_slices_that_were_filled_in_refer_to_their_neighbours(
    grouped: Group, settings: Settings, tmp_path: Path
) -> None:
    write_ct(dataclasses.replace(SPEC, missing=(4,)), tmp_path / "in")
    filling = settings.geometry.model_copy(update={"missing_slices": "interpolate"})
    (task,) = grouped(tmp_path / "in", settings.model_copy(update={"geometry": filling})).tasks
    mask = np.zeros((30, 26, 9), np.uint8)
    mask[5:9, 4:20] = 1
    outputs = make(task, tmp_path, mask)
    np.testing.assert_array_equal(on_grid(points_of_seg(outputs.file("seg")), outputs.mask), mask)
    np.testing.assert_array_equal(on_grid(points_of_rtstruct(outputs.file("rtstruct"), task), outputs.mask), mask)
    sources = [
        frame.DerivationImageSequence[0].SourceImageSequence
        for frame in outputs.read("seg").PerFrameFunctionalGroupsSequence
    ]
    assert [len(items) for items in sources] == [1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert [item.SpatialLocationsPreserved for item in sources[4]] == ["NO", "NO"]
    for kind in ALL:
        assert not complaints(outputs.file(kind))


def test_the_same_series_gives_the_same_bytes_and_another_mask_another_object(grouped: Group, tmp_path: Path) -> None:
    write_ct(SPEC, tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    first, again = (make(task, tmp_path / name) for name in ("first", "again"))
    assert first.outputs.digests == again.outputs.digests
    changed = first.mask.array.copy()
    changed[10, 10, 3] = 2
    other = make(task, tmp_path / "other", changed)
    for kind in ALL:
        assert other.read(kind).SOPInstanceUID != first.read(kind).SOPInstanceUID
        assert other.read(kind).SeriesInstanceUID == first.read(kind).SeriesInstanceUID
    source, seg = pydicom.dcmread(first.source), first.read("seg")
    assert (seg.ContentDate, seg.ContentTime) == (source.StudyDate, source.StudyTime), "the source's, not today"


def test_segments_carry_codes_and_colours_of_the_table_and_private_codes_where_it_has_none(
    made: dict[str, Made],
) -> None:
    seg = made["axial"].read("seg")
    coded, private, absent, islands = seg.SegmentSequence
    kind = coded.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("5366008", "SCT", "Hippocampus")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "255549009"
    colour = highdicom.color.CIELabColor.from_dicom_value(tuple(coded.RecommendedDisplayCIELabValue))
    assert np.abs(np.array(colour.to_rgb()) - (0xE6, 0x55, 0x0D)).max() <= 1
    algorithm = coded.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("test_model", "1.0")
    assert "ab" * 32 in "".join(algorithm.AlgorithmParameters)
    kind = private.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodingSchemeDesignator, kind.CodeMeaning) == (PRIVATE, "Uberraschung")
    assert seg.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == PRIVATE
    assert (absent.SegmentLabel, islands.SegmentNumber) == ("never there", 4)
    structures = made["axial"].read("rtstruct")
    assert structures.StructureSetROISequence[0].ROIName == "anterior hippocampus"
    assert list(structures.ROIContourSequence[0].ROIDisplayColor) == [0xE6, 0x55, 0x0D]
    observation = structures.RTROIObservationsSequence[0]
    assert observation.RTROIIdentificationCodeSequence[0].CodeValue == "5366008"
    assert "keyhole" in structures.StructureSetDescription


def test_the_report_has_the_volume_mean_and_deviation_of_each_label_of_the_seg(made: dict[str, Made]) -> None:
    outputs = made["oblique"]
    report = highdicom.sr.srread(outputs.file("sr"))
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 3, "labels that are not found are not measured"
    for group, label, segment in zip(groups, (1, 2, 7), (1, 2, 4), strict=True):
        voxels = outputs.image.array[outputs.mask.array == label].astype(float)
        values = [item.value for item in group.get_measurements()]
        volume_mm3 = voxels.size * 1.5 * 2.5 * 4.0
        assert values == pytest.approx([volume_mm3, voxels.mean(), voxels.std()], rel=1e-4)
        (reference,) = group.referenced_segment[0].ReferencedSOPSequence
        assert reference.ReferencedSOPInstanceUID == outputs.read("seg").SOPInstanceUID
        assert int(reference.ReferencedSegmentNumber) == segment
        assert group.tracking_uid == outputs.read("seg").SegmentSequence[segment - 1].TrackingUID


def test_decimals_of_the_source_that_are_too_long_are_written_as_long_as_allowed(
    grouped: Group, tmp_path: Path
) -> None:
    def lengthen(ds: pydicom.Dataset, k: int) -> None:
        for tag, value in (
            (0x00200032, f"-20.12345678901234567\\-30.000000000000000001\\{-100 + 4.0 * k:.20f}"),
            (0x00200037, "0.92106099400288508\\0.38941834230865052\\0\\-0.38941834230865052\\0.92106099400288508\\0"),
        ):
            ds[tag] = RawDataElement(Tag(tag), "DS", len(value), value.encode(), 0, False, True)

    write_ct(dataclasses.replace(SPEC, edit=lengthen), tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    outputs = make(task, tmp_path)
    np.testing.assert_array_equal(on_grid(points_of_seg(outputs.file("seg")), outputs.mask), outputs.mask.array)
    for kind in ALL:
        assert not complaints(outputs.file(kind))


def test_a_mask_of_nothing_is_a_seg_without_a_voxel_and_no_structure_set(grouped: Group, tmp_path: Path) -> None:
    write_ct(SPEC, tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    outputs = make(task, tmp_path, np.zeros((30, 26, 9), np.uint8))
    assert list(outputs.outputs.paths) == ["seg"]
    assert [(item.format, item.code) for item in outputs.outputs.refused] == [
        ("rtstruct", Code.NOTHING_FOUND),
        ("sr", Code.NOTHING_FOUND),
    ]
    assert not outputs.read("seg").pixel_array.any()
    assert outputs.read("seg").NumberOfFrames == 4, "one for each label"
    assert not complaints(outputs.file("seg"))


@pytest.mark.parametrize(("rows", "columns", "dtype"), [(26, 30, np.uint8), (15, 13, np.uint8), (15, 13, np.uint16)])
def test_a_label_map_holds_the_same_labels_under_their_own_numbers(
    rows: int, columns: int, dtype: type, grouped: Group, tmp_path: Path
) -> None:
    write_ct(dataclasses.replace(SPEC, shape=(rows, columns, 9)), tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    mask = labels_on((columns, rows, 9)).astype(dtype)
    outputs = make(task, tmp_path, mask, {"seg": "labelmap", "sr": "labelmap"})
    seg = outputs.read("seg")
    assert [int(item.SegmentNumber) for item in seg.SegmentSequence] == [0, 1, 2, 3, 7]
    np.testing.assert_array_equal(on_grid(points_of_seg(outputs.file("seg")), outputs.mask), mask)
    volume = highdicom.seg.segread(outputs.file("seg")).get_volume(combine_segments=True)
    assert np.bincount(volume.array.ravel()).tolist() == np.bincount(mask.ravel()).tolist()
    # dciodvfy of 2026-09 does not know the class of label maps
    assert all("Referenced SOP Class that is not segmentation" in line for line in complaints(outputs.file("sr")))


def test_a_label_that_the_table_does_not_name_keeps_its_number_and_gets_a_private_code(
    grouped: Group, tmp_path: Path
) -> None:
    write_ct(SPEC, tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    mask = np.zeros((30, 26, 9), np.uint16)
    mask[2:5, 3:9, 1:6], mask[9:12, 3, 2] = 1, 60000
    for kind in ("binary", "labelmap"):
        outputs = make(task, tmp_path / kind, mask, {"seg": kind, "rtstruct": ""})
        points = points_of_seg(outputs.file("seg"))
        assert {label: len(places) for label, places in points.items()} == {1: 90, 60000: 3}
        last = outputs.read("seg").SegmentSequence[-1]
        assert (last.SegmentLabel, last.SegmentNumber) == ("label 60000", 5 if kind == "binary" else 60000)
        assert not complaints(outputs.file("rtstruct"))


def test_more_frames_than_a_reader_could_hold_are_refused_before_memory_is_taken(
    grouped: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ct(SPEC, tmp_path / "in")
    (task,) = grouped(tmp_path / "in").tasks
    monkeypatch.setattr("imaging_pipeline.results.dicom.seg.LARGEST_BYTES", 1000)
    outputs = make(task, tmp_path)
    assert list(outputs.outputs.paths) == ["rtstruct"]
    assert [item.code for item in outputs.outputs.refused] == [Code.SEG_TOO_LARGE] * 2
    assert "labelmap" in outputs.outputs.refused[0].hint


@profile(max_examples=60)
@given(
    seed=st.integers(0, 10**6), rows=st.integers(1, 30), columns=st.integers(1, 30), blur=st.sampled_from([0, 0.7, 1.5])
)
def test_contours_enclose_exactly_the_pixels_of_a_mask_holes_and_islands_included(
    seed: int, rows: int, columns: int, blur: float
) -> None:
    mask = gaussian_filter(np.random.default_rng(seed).normal(size=(rows, columns)), blur) > 0
    filled = np.zeros_like(mask)
    for ring in outlines(mask):
        inside = polygon2mask(mask.shape, ring[:, ::-1])
        assert not (inside & filled).any()
        filled |= inside
    np.testing.assert_array_equal(filled, mask)


@pytest.mark.parametrize(
    ("columns", "values", "told"),
    [
        ("color", "red", "'red'"),
        ("type_code\ttype_meaning", "5366008\t", "type_meaning"),
        ("type_code\ttype_meaning", "12345678901234567\tToo long", "1 to 16 characters"),
    ],
)
def test_a_label_table_with_half_a_code_is_refused(columns: str, values: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(f"index\tname\t{columns}\n1\tliver\t{values}\n")
    with pytest.raises(Exception, match="model-invalid") as refused:
        read_labels(tmp_path / "labels.tsv")
    assert told in str(refused.value)
