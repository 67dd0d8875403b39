"""The sample study in the repository is small, nobody's, and what its script makes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest

STUDIES = Path(__file__).parents[1] / "sample_data" / "studies"


@pytest.fixture(scope="module")
def series() -> dict[int, list[pydicom.Dataset]]:
    """The slices of each series by its number, unordered."""
    found: dict[int, list[pydicom.Dataset]] = defaultdict(list)
    for path in STUDIES.iterdir():
        if path.suffix != ".txt":
            ds = pydicom.dcmread(path)
            found[ds.SeriesNumber].append(ds)
    return found


def test_the_committed_study_is_what_the_script_makes(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    from sample_data.make_sample import make_sample

    made = {path.name: path.read_bytes() for path in make_sample(tmp_path)}
    assert made == {path.name: path.read_bytes() for path in STUDIES.iterdir()}


def test_the_study_is_small_and_names_nobody(series: dict[int, list[pydicom.Dataset]]) -> None:
    assert sum(path.stat().st_size for path in STUDIES.iterdir()) < 600_000
    assert {str(ds.PatientName) for slices in series.values() for ds in slices} == {"Template^Average"}
    assert len({ds.StudyInstanceUID for slices in series.values() for ds in slices}) == 1


def test_two_series_are_regular_volumes_of_1_mm_between_20_and_90_mm_wide(
    series: dict[int, list[pydicom.Dataset]],
) -> None:
    for number in (2, 3):
        slices = series[number]
        normal = np.cross(*np.reshape(np.asarray(slices[0].ImageOrientationPatient, float), (2, 3)))
        along = sorted(float(normal @ np.asarray(ds.ImagePositionPatient, float)) for ds in slices)
        np.testing.assert_allclose(np.diff(along), 1.0)
        assert all(20 <= extent <= 90 for extent in (len(slices), slices[0].Rows, slices[0].Columns))
        assert slices[0].PixelSpacing == [1, 1]


def test_left_and_right_series_show_mirrored_anatomy_in_different_planes(
    series: dict[int, list[pydicom.Dataset]],
) -> None:
    def volume(number: int, axis: int) -> np.ndarray:
        ordered = sorted(series[number], key=lambda ds: float(ds.ImagePositionPatient[axis]))
        return np.stack([ds.pixel_array for ds in ordered]).astype(float)

    left_xyz = volume(2, axis=2).transpose(2, 1, 0)  # slices go up, rows back, columns to the left
    right_xyz = volume(3, axis=0).transpose(0, 2, 1)[:, :, ::-1]  # slices go left, rows down, columns back
    assert all(ds.ImagePositionPatient[0] > 0 for ds in series[2])
    assert all(ds.ImagePositionPatient[0] < 0 for ds in series[3])
    assert np.corrcoef(left_xyz.ravel(), right_xyz[::-1].ravel())[0, 1] > 0.99


def test_the_localizer_is_three_crossing_planes(series: dict[int, list[pydicom.Dataset]]) -> None:
    planes = [np.reshape(np.asarray(ds.ImageOrientationPatient, float), (2, 3)) for ds in series[1]]
    normals = np.array([np.cross(*plane) for plane in planes])
    np.testing.assert_allclose(np.abs(normals @ normals.T), np.eye(3))
    assert {ds.ImageType[2] for ds in series[1]} == {"LOCALIZER"}
