"""The generated studies are what they say they are: every other test leans on them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import uid

from sample_data.phantom import CtSpec, Marker, WrittenSeries, write_ct, write_enhanced_ct, write_text_files

AXES = np.eye(3)
AXIS_ALIGNED = [
    (*(row_sign * AXES[i]), *(column_sign * AXES[j]))
    for i, j in itertools.permutations(range(3), 2)
    for row_sign, column_sign in itertools.product((1, -1), repeat=2)
]
LPS_TO_RAS = np.diag([-1, -1, 1, 1])
OBLIQUE = (0.8, 0.36, -0.48, 0.0, 0.8, 0.6)
UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
COMPRESSED = (
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
)


def patient_spec(**changes: object) -> CtSpec:
    """A small series with three different sizes and spacings, so that no two axes can be mixed up unseen."""
    fields: dict[str, object] = {"shape": (38, 34, 6), "spacing_mm": (2.0, 3.0, 4.0), "origin_mm": (11.0, -22.5, 33.0)}
    return CtSpec(**{**fields, **changes})  # type: ignore[arg-type]


def modality_values(ds: pydicom.Dataset) -> NDArray[np.float64]:
    return ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))


def pixel_positions_ras(ds: pydicom.Dataset) -> NDArray[np.float64]:
    """Patient coordinates of all pixels from the slice alone (PS3.3 C.7.6.2.1.1): (rows, columns, 3), RAS+ mm."""
    row, column = np.indices((ds.Rows, ds.Columns))[..., None]
    along_row, along_column = np.reshape(np.asarray(ds.ImageOrientationPatient, float), (2, 3))
    start = np.asarray(ds.ImagePositionPatient, float)
    lps = start + column * ds.PixelSpacing[1] * along_row + row * ds.PixelSpacing[0] * along_column
    return np.asarray(lps * (-1, -1, 1))


def assert_every_pixel_is_where_the_affine_says(series: WrittenSeries) -> None:
    values, to_voxel = series.values(), np.linalg.inv(series.affine_ras)
    for ds in map(pydicom.dcmread, series.paths):
        voxel = nib.affines.apply_affine(to_voxel, pixel_positions_ras(ds))
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-6)
        i, j, k = np.moveaxis(np.rint(voxel).astype(int), -1, 0)
        np.testing.assert_array_equal(values[i, j, k], modality_values(ds))


@pytest.mark.parametrize("orientation", [*AXIS_ALIGNED, OBLIQUE])
def test_values_and_affine_agree_with_every_slice_at_any_orientation(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    assert_every_pixel_is_where_the_affine_says(write_ct(patient_spec(orientation=orientation), tmp_path))


def test_a_tilted_gantry_moves_slices_along_the_table_not_along_their_normal(tmp_path: Path) -> None:
    series = write_ct(patient_spec(tilt_deg=15.0), tmp_path)
    assert_every_pixel_is_where_the_affine_says(series)
    row, step = series.affine_ras[:3, 1] / 2, series.affine_ras[:3, 2] / 4
    assert row @ step == pytest.approx(np.sin(np.deg2rad(15)))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *COMPRESSED], ids=lambda s: s.keyword)
def test_every_transfer_syntax_decodes_back_to_the_values(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    spec = patient_spec(shape=(38, 34, 2), transfer_syntax=syntax, bits_stored=bits, signed=signed)
    series = write_ct(spec, tmp_path)
    for k, ds in enumerate(map(pydicom.dcmread, series.paths)):
        assert ds.file_meta.TransferSyntaxUID == syntax
        np.testing.assert_array_equal(modality_values(ds).T, series.values()[:, :, k])


def test_a_missing_encoder_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImportError, match="pip install imagecodecs"):
        write_ct(patient_spec(transfer_syntax=uid.HTJ2KLossless), tmp_path)


def test_high_throughput_jpeg_2000_decodes_back_where_an_encoder_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    series = write_ct(patient_spec(transfer_syntax=uid.HTJ2KLossless), tmp_path)
    ds = pydicom.dcmread(series.paths[3])
    np.testing.assert_array_equal(modality_values(ds).T, series.values()[:, :, 3])


def test_a_pet_series_scales_each_slice_by_its_own_slope(tmp_path: Path) -> None:
    slopes = (0.3, 0.7, 1.1, 1.9, 2.3, 2.9)
    series = write_ct(patient_spec(modality="PT", slope=slopes, intercept=0.0), tmp_path)
    assert [float(pydicom.dcmread(path).RescaleSlope) for path in series.paths] == list(slopes)
    for k, ds in enumerate(map(pydicom.dcmread, series.paths)):
        np.testing.assert_allclose(modality_values(ds).T, series.values()[:, :, k], rtol=1e-6)


def test_a_marker_is_found_again_at_its_patient_coordinate(tmp_path: Path) -> None:
    spec = patient_spec(orientation=OBLIQUE)
    centre_mm = (spec.affine_lps() @ (20, 11, 3, 1))[:3]
    marker = Marker(centre_mm=tuple(centre_mm), size_mm=1.0, value=2500.0)
    image = write_ct(patient_spec(orientation=OBLIQUE, marker=marker), tmp_path).canonical()
    found = np.argwhere(image.get_fdata() == marker.value)
    assert len(found) == 1
    found_mm = LPS_TO_RAS @ image.affine @ (*found[0], 1)
    assert found_mm[:3] == pytest.approx(centre_mm, abs=1e-4)


def test_two_runs_write_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    one, two, other = (
        [path.read_bytes() for path in write_ct(patient_spec(seed=seed), tmp_path / name).paths]
        for seed, name in ((1, "one"), (1, "two"), (2, "other"))
    )
    assert one == two
    assert set(one).isdisjoint(other)


def test_a_dirty_series_lacks_slices_repeats_others_and_hides_its_order(tmp_path: Path) -> None:
    spec = patient_spec(missing=(2,), duplicates=(4,), file_names="random", extra={"InstitutionName": "Nowhere"})
    headers = [pydicom.dcmread(path) for path in write_ct(spec, tmp_path).paths]
    z = [float(ds.ImagePositionPatient[2]) for ds in headers]
    assert z == [33.0, 37.0, 45.0, 49.0, 53.0, 49.0]
    assert len({ds.SOPInstanceUID for ds in headers}) == 6
    assert {ds.InstitutionName for ds in headers} == {"Nowhere"}
    write_text_files(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_test_can_break_one_slice(tmp_path: Path) -> None:
    def drop_position(ds: pydicom.Dataset, k: int) -> None:
        if k == 3:
            del ds.ImagePositionPatient

    paths = write_ct(patient_spec(edit=drop_position, file_names="no-extension"), tmp_path).paths
    assert ["ImagePositionPatient" in pydicom.dcmread(path) for path in paths] == [True] * 3 + [False] + [True] * 2
    assert not any(path.suffix for path in paths)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless], ids=lambda s: s.keyword)
def test_an_enhanced_object_holds_the_same_volume_frame_by_frame(tmp_path: Path, syntax: str) -> None:
    series = write_enhanced_ct(patient_spec(orientation=OBLIQUE, missing=(2,), transfer_syntax=syntax), tmp_path / "e")
    ds = pydicom.dcmread(series.paths[0])
    assert ds.NumberOfFrames == len(ds.PerFrameFunctionalGroupsSequence) == 5
    for frame, group, k in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, series.spec.kept, strict=True):
        np.testing.assert_array_equal(frame.T - 1024.0, series.values()[:, :, k])
        start_ras = np.asarray(group.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
        np.testing.assert_allclose(start_ras, (series.affine_ras @ (0, 0, k, 1))[:3], atol=1e-6)


@pytest.mark.parametrize("orientation", [AXIS_ALIGNED[0], AXIS_ALIGNED[13], OBLIQUE])
@pytest.mark.parametrize("enhanced", [False, True])
def test_dcm2niix_arrives_at_the_same_image(tmp_path: Path, orientation: tuple[float, ...], enhanced: bool) -> None:
    dcm2niix = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
    if not dcm2niix:
        pytest.skip("dcm2niix is not installed")
    spec = patient_spec(orientation=orientation)
    source = tmp_path / "dicom"
    series = write_enhanced_ct(spec, source / "enhanced.dcm") if enhanced else write_ct(spec, source)
    subprocess.run([dcm2niix, "-f", "image", "-o", tmp_path, source], check=True, capture_output=True)
    theirs, ours = nib.as_closest_canonical(nib.load(tmp_path / "image.nii")), series.canonical()
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-3)
    np.testing.assert_array_equal(theirs.get_fdata(), ours.get_fdata())


def test_an_impossible_spec_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValueError, match=r"off orthonormal by 0\.2"):
        CtSpec(orientation=(1, 0, 0, 0.2, 1, 0))
    with pytest.raises(ValueError, match="2 values of slope for 40 slices"):
        CtSpec(slope=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"\[40\] are outside 0\.\.39"):
        CtSpec(missing=(40,))
