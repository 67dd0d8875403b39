"""A decoded volume holds the right value at the right place in the patient."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.series import Grouped
from imaging_pipeline.records import GeometryVerdict
from imaging_pipeline.settings import Settings
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.decode import decode
from imaging_pipeline.volume.pixels import open_pixels
from sample_data.phantom import CtSpec, Marker, WrittenSeries, write_ct, write_enhanced_ct

SPEC = CtSpec(shape=(38, 34, 6), spacing_mm=(2.0, 3.0, 4.0), origin_mm=(11.0, -22.5, 33.0))
AXES = np.eye(3)
AXIS_ALIGNED = [
    (*(a * AXES[i]), *(b * AXES[j]))
    for i, j in itertools.permutations(range(3), 2)
    for a, b in itertools.product((1, -1), repeat=2)
]
Group = Callable[..., Grouped]


def only_volume(folder: Path, grouped: Group) -> Volume:
    (task,) = grouped(folder).tasks
    return decode(task)


def assert_same(volume: Volume, written: WrittenSeries) -> None:
    truth = written.canonical()
    assert volume.shape == truth.shape
    np.testing.assert_allclose(volume.affine, truth.affine, atol=1e-4)
    np.testing.assert_allclose(volume.array, truth.get_fdata(), atol=1e-3)


@pytest.mark.parametrize("orientation", AXIS_ALIGNED)
def test_every_axis_aligned_orientation_comes_out_in_ras(
    orientation: tuple[float, ...], tmp_path: Path, grouped: Group
) -> None:
    written = write_ct(dataclasses.replace(SPEC, orientation=orientation, file_names="random"), tmp_path)
    volume = only_volume(tmp_path, grouped)
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert_same(volume, written)


@profile(max_examples=15, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    tilt_deg=st.floats(-25, 25),
    spacing_mm=st.tuples(*[st.floats(0.4, 6.0)] * 3),
)
def test_a_marker_is_found_at_its_patient_coordinate(
    tmp_path_factory: pytest.TempPathFactory,
    grouped: Group,
    angles: tuple[float, float, float],
    tilt_deg: float,
    spacing_mm: tuple[float, float, float],
) -> None:
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_euler("xyz", angles).as_matrix()
    spec = dataclasses.replace(
        SPEC, orientation=(*rotation[:, 0], *rotation[:, 1]), tilt_deg=tilt_deg, spacing_mm=spacing_mm
    )
    centre_lps = tuple(float(x) for x in (spec.affine_lps() @ [20, 25, 3, 1])[:3])
    folder = tmp_path_factory.mktemp("marker")
    write_ct(dataclasses.replace(spec, marker=Marker(centre_mm=centre_lps, size_mm=0.1, value=3000)), folder)
    volume = only_volume(folder, grouped)
    index = np.linalg.inv(volume.affine) @ (np.array([-1, -1, 1, 1]) * [*centre_lps, 1])
    assert np.abs(index[:3] - np.round(index[:3])).max() < 0.02
    assert volume.array[tuple(np.round(index[:3]).astype(int))] == 3000


def test_whole_numbers_stay_int16_and_a_slope_for_each_slice_makes_float32(tmp_path: Path, grouped: Group) -> None:
    write_ct(SPEC, tmp_path / "ct")
    assert only_volume(tmp_path / "ct", grouped).array.dtype == np.int16
    slopes = tuple(1.1 + 0.2 * k for k in range(6))
    written = write_ct(dataclasses.replace(SPEC, modality="PT", slope=slopes), tmp_path / "pet")
    volume = only_volume(tmp_path / "pet", grouped)
    assert volume.array.dtype == np.float32
    assert_same(volume, written)


def test_values_beyond_int16_are_kept(tmp_path: Path, grouped: Group) -> None:
    written = write_ct(dataclasses.replace(SPEC, modality="MR", slope=1.0, intercept=40000.0), tmp_path)
    volume = only_volume(tmp_path, grouped)
    assert volume.array.dtype == np.int32
    assert_same(volume, written)


def test_a_multi_frame_file_is_the_same_volume_as_its_slices(tmp_path: Path, grouped: Group) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "one").mkdir()
    write_ct(SPEC, tmp_path / "many")
    write_enhanced_ct(SPEC, tmp_path / "one" / "volume.dcm")
    many, one = only_volume(tmp_path / "many", grouped), only_volume(tmp_path / "one", grouped)
    np.testing.assert_array_equal(one.array, many.array)
    np.testing.assert_allclose(one.affine, many.affine, atol=1e-6)


def test_the_files_of_a_concatenation_are_one_volume(tmp_path: Path, grouped: Group) -> None:
    written = write_enhanced_ct(SPEC, tmp_path / "whole.dcm")
    ds = pydicom.dcmread(written.paths[0])
    frames, size = list(ds.PerFrameFunctionalGroupsSequence), 38 * 34 * 2
    for number, (first, last) in enumerate(((0, 4), (4, 6))):
        ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = frames[first:last], last - first
        ds.PixelData = written_pixels(written.paths[0])[first * size : last * size]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        ds.ConcatenationUID, ds.InConcatenationNumber = "1.2.9", number + 1
        ds.save_as(tmp_path / f"part{number}.dcm")
    written.paths[0].unlink()
    assert_same(only_volume(tmp_path, grouped), written)


def written_pixels(path: Path) -> bytes:
    return bytes(pydicom.dcmread(path).PixelData)


@pytest.mark.parametrize(
    "syntax",
    [
        pydicom.uid.ImplicitVRLittleEndian,
        pydicom.uid.ExplicitVRBigEndian,
        pydicom.uid.DeflatedExplicitVRLittleEndian,
        pydicom.uid.RLELossless,
        pydicom.uid.JPEGLosslessSV1,
        pydicom.uid.JPEGLSLossless,
        pydicom.uid.JPEG2000Lossless,
        pydicom.uid.HTJ2KLossless,
    ],
)
def test_compressed_series_decode_to_the_same_values(syntax: str, tmp_path: Path, grouped: Group) -> None:
    written = write_ct(dataclasses.replace(SPEC, transfer_syntax=syntax), tmp_path)
    assert_same(only_volume(tmp_path, grouped), written)


def test_six_real_series_equal_their_references(shared: Path, grouped: Group) -> None:
    folder = shared / "data" / "hippocrop_dicom"
    tasks = grouped(folder / "dicom").tasks
    assert len(tasks) == 6
    for task in tasks:
        volume = decode(task)
        reference = nib.as_closest_canonical(nib.load(folder / "reference" / f"{task.identity.series_uid}.nii.gz"))
        np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-6)
        tolerance = 0 if all(ref.slope == 1 for ref in task.slices) else task.slices[0].slope / 2
        np.testing.assert_allclose(volume.array, reference.get_fdata(), atol=tolerance)


def with_policy(settings: Settings, **geometry: object) -> Settings:
    return settings.model_copy(update={"geometry": settings.geometry.model_copy(update=geometry)})


@pytest.mark.parametrize("tilt_deg", [0, 12])
def test_missing_slices_are_filled_in_only_on_demand_and_the_others_left_as_they_are(
    tilt_deg: float, tmp_path: Path, grouped: Group, settings: Settings
) -> None:
    spec = dataclasses.replace(SPEC, shape=(38, 34, 14), tilt_deg=tilt_deg, missing=(4, 9, 10))
    written = write_ct(spec, tmp_path)
    (task,) = grouped(tmp_path, with_policy(settings, missing_slices="interpolate")).tasks
    assert task.verdict is GeometryVerdict.REPAIRED
    assert "3 of 14 slices interpolated" in task.findings[0].message
    truth, volume = written.canonical(), decode(task)
    np.testing.assert_allclose(volume.affine, truth.affine, atol=1e-4)
    values = truth.get_fdata()
    kept = [k for k in range(14) if k not in (4, 9, 10)]
    np.testing.assert_array_equal(volume.array[..., kept], values[..., kept])
    between = values[..., 8] + (values[..., 11] - values[..., 8]) / 3
    np.testing.assert_allclose(volume.array[..., 9], between, atol=0.51)


def test_interpolation_that_would_invent_too_much_is_refused(
    tmp_path: Path, grouped: Group, settings: Settings
) -> None:
    write_ct(dataclasses.replace(SPEC, shape=(38, 34, 12), missing=(3, 5, 7, 9)), tmp_path)
    (series,) = grouped(tmp_path, with_policy(settings, missing_slices="interpolate")).skipped
    assert series.code is Code.MISSING_SLICES


def test_one_slice_light_years_away_takes_no_memory(tmp_path: Path, grouped: Group, settings: Settings) -> None:
    def shift(ds: pydicom.Dataset, k: int) -> None:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, z if k < 5 else 4e11]

    write_ct(dataclasses.replace(SPEC, edit=shift), tmp_path)
    for policy in ("missing_slices", "variable_spacing"):
        assert not grouped(tmp_path, with_policy(settings, **{policy: "interpolate"})).tasks


def test_uneven_slices_are_resampled_on_demand(tmp_path: Path, grouped: Group, settings: Settings) -> None:
    def shift(ds: pydicom.Dataset, k: int) -> None:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, z + (1.4 if k == 5 else 0)]

    write_ct(dataclasses.replace(SPEC, shape=(38, 34, 12), edit=shift), tmp_path)
    (task,) = grouped(tmp_path, with_policy(settings, variable_spacing="interpolate")).tasks
    assert task.depth == 12
    assert [blend.weight > 0 for blend in task.blends].count(True) == 1
    assert decode(task).shape[2] == 12


@pytest.mark.parametrize(
    ("bits_allocated", "bits_stored", "signed"),
    [(8, 8, 0), (16, 12, 0), (16, 12, 1), (16, 16, 0), (32, 32, 0), (32, 24, 1)],
)
def test_every_depth_and_sign_reads_what_was_stored(
    bits_allocated: int, bits_stored: int, signed: int, tmp_path: Path, grouped: Group
) -> None:
    low, high = (-(2 ** (bits_stored - 1)), 2 ** (bits_stored - 1)) if signed else (0, 2**bits_stored)
    truth = np.random.default_rng(bits_stored).integers(low, high, (6, 38, 34))
    rubbish = 0x5 << bits_stored if bits_stored < bits_allocated else 0  # an overlay of old

    def store(ds: pydicom.Dataset, k: int) -> None:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits_allocated, bits_stored, bits_stored - 1
        ds.PixelRepresentation = signed
        stored = (truth[k] & (2**bits_stored - 1)) | rubbish
        ds.PixelData = stored.astype(f"<u{bits_allocated // 8}").tobytes()
        ds["PixelData"].VR = "OW"

    write_ct(dataclasses.replace(SPEC, modality="MR", edit=store), tmp_path)
    volume = only_volume(tmp_path, grouped)
    expected = np.flip(truth.transpose(2, 1, 0), (0, 1))  # LPS axes to RAS axes
    np.testing.assert_array_equal(volume.array, expected)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_float_pixels_stay_float(keyword: str, dtype: str, tmp_path: Path, grouped: Group) -> None:
    truth = np.random.default_rng(0).normal(0, 1e-3, (6, 38, 34))

    def store(ds: pydicom.Dataset, k: int) -> None:
        del ds.PixelData
        setattr(ds, keyword, truth[k].astype(dtype).tobytes())

    write_ct(dataclasses.replace(SPEC, modality="MR", edit=store), tmp_path)
    volume = only_volume(tmp_path, grouped)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, np.flip(truth.transpose(2, 1, 0), (0, 1)), rtol=1e-6)


def test_a_modality_lut_is_looked_up(tmp_path: Path, grouped: Group) -> None:
    def store(ds: pydicom.Dataset, k: int) -> None:
        ds.PixelData = (np.arange(38 * 34).reshape(38, 34) % 4).astype("<u2").tobytes()
        table = pydicom.Dataset()
        table.add_new("LUTDescriptor", "US", [4, 0, 16])
        table.add_new("LUTData", "US", [100, 20, 3000, 4])
        table.ModalityLUTType = "US"
        ds.ModalityLUTSequence = [table]

    write_ct(dataclasses.replace(SPEC, modality="MR", edit=store), tmp_path)
    assert set(np.unique(only_volume(tmp_path, grouped).array)) == {100, 20, 3000, 4}


def test_monochrome1_is_a_matter_of_display(tmp_path: Path, grouped: Group) -> None:
    written = write_ct(dataclasses.replace(SPEC, extra={"PhotometricInterpretation": "MONOCHROME1"}), tmp_path)
    assert_same(only_volume(tmp_path, grouped), written)


@pytest.mark.parametrize("syntax", [pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEGLSLossless, pydicom.uid.RLELossless])
def test_compressed_pixels_that_were_cut_off_are_refused(syntax: str, tmp_path: Path, grouped: Group) -> None:
    written = write_ct(dataclasses.replace(SPEC, transfer_syntax=syntax), tmp_path)
    content = written.paths[1].read_bytes()
    written.paths[1].write_bytes(content[: len(content) * 3 // 4])
    (task,) = grouped(tmp_path).tasks
    with pytest.raises(PipelineError, match="slice 2 of 6") as refused:
        decode(task)
    assert refused.value.code is Code.TRUNCATED_PIXELS


def test_eight_bit_jpeg_of_twelve_bit_pixels_is_refused(shared: Path, tmp_path: Path, grouped: Group) -> None:
    (source,) = (shared / "data" / "dicom" / "ct_transfer_syntaxes" / "dicom").glob("*4.50.dcm")
    for k in range(4):
        ds = pydicom.dcmread(source)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{k}"
        ds.ImagePositionPatient, ds.Modality = [0, 0, k], "OT"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.save_as(tmp_path / str(k))
    (task,) = grouped(tmp_path).tasks
    with pytest.raises(PipelineError, match="8 bits a pixel, the header says 12") as refused:
        decode(task)
    assert refused.value.code is Code.PRECISION_LOSS


def test_a_ct_in_8_bit_jpeg_is_refused_before_it_is_decoded(tmp_path: Path, grouped: Group) -> None:
    for path in write_ct(SPEC, tmp_path).paths:
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        ds.save_as(path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is Code.PRECISION_LOSS


def test_every_syntax_of_one_real_slice_gives_the_uncompressed_values(
    shared: Path, tmp_path: Path, grouped: Group
) -> None:
    folder = shared / "data" / "dicom" / "ct_transfer_syntaxes" / "dicom"
    truth = pydicom.dcmread(folder / "CTImage.dcm").pixel_array
    outcomes = {}
    for source in folder.glob("*.dcm"):
        syntax = str(pydicom.dcmread(source, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        try:
            outcomes[syntax] = np.abs(open_pixels(str(source)).plane(None).astype(int) - truth).max()
        except PipelineError as error:
            outcomes[syntax] = error.code
    jpeg = "1.2.840.10008.1.2.4."
    lossless = ["1.2.840.10008.1.2", *(f"1.2.840.10008.1.2.{n}" for n in ("1", "2", "1.99", "5"))]
    lossless += [f"{jpeg}{n}" for n in (57, 70, 80, 90)]
    assert {syntax: outcomes[syntax] for syntax in lossless} == dict.fromkeys(lossless, 0)
    assert outcomes[f"{jpeg}81"] <= 1
    assert outcomes[f"{jpeg}91"] <= 5
    (lossy,) = folder.glob("*4.51.dcm")  # 12 bits under another slope: compared in Hounsfield units
    ds = pydicom.dcmread(lossy, stop_before_pixels=True)
    hounsfield = open_pixels(str(lossy)).plane(None) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    assert np.abs(hounsfield - (truth - 1024.0)).mean() < 4
    for unread in (53, 55):
        assert outcomes[f"{jpeg}{unread}"] is Code.UNSUPPORTED_TRANSFER_SYNTAX


def test_a_file_that_vanished_and_one_that_changed_are_told_apart(tmp_path: Path, grouped: Group) -> None:
    written = write_ct(SPEC, tmp_path)
    (task,) = grouped(tmp_path).tasks
    other = pydicom.dcmread(written.paths[2])
    other.Rows, other.PixelData = 19, other.PixelData[: 19 * 34 * 2]
    other.save_as(written.paths[2])
    with pytest.raises(PipelineError, match="slice 3 of 6: 34 x 19 pixels, the header said 34 x 38") as wrong:
        decode(task)
    assert wrong.value.code is Code.DECODE_FAILED
    written.paths[2].unlink()
    with pytest.raises(PipelineError) as gone:
        decode(task)
    assert gone.value.code is Code.INPUT_VANISHED
