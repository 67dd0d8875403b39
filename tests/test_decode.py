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
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.decode import decode
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
