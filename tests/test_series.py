"""Every series becomes one task, or one reason why not."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from imaging_pipeline.errors import Code
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.headers import read_header
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.intake.series import Grouped, group_series
from imaging_pipeline.settings import Settings
from sample_data.phantom import CtSpec, write_ct

SPEC = CtSpec(shape=(32, 24, 20), spacing_mm=(0.7, 1.3, 2.5))
Group = Callable[..., Grouped]


def numbered(root: str) -> Callable[[Dataset, int], None]:
    """Gives the slices SOP Instance UIDs below a root."""
    return lambda ds, k: setattr(ds, "SOPInstanceUID", f"{root}.{k}")


def test_a_clean_series_is_one_task_in_order_of_position(tmp_path: Path, grouped: Group) -> None:
    write_ct(dataclasses.replace(SPEC, file_names="random"), tmp_path)
    (task,) = grouped(tmp_path).tasks
    assert (task.columns, task.rows, len(task.slices)) == (24, 32, 20)
    assert task.step_mm == pytest.approx((0, 0, 2.5))
    assert np.all(np.diff([ref.position_mm[2] for ref in task.slices]) > 0)


def test_three_missing_slices_are_counted_and_placed(tmp_path: Path, grouped: Group) -> None:
    write_ct(dataclasses.replace(SPEC, missing=(4, 11, 12)), tmp_path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is Code.MISSING_SLICES
    assert "3 slices missing" in series.message
    assert "5 mm is between slices 4 and 5" in series.message


def test_a_tilted_gantry_is_no_obstacle(tmp_path: Path, grouped: Group) -> None:
    write_ct(dataclasses.replace(SPEC, tilt_deg=15), tmp_path)
    (task,) = grouped(tmp_path).tasks
    assert task.notes == ("gantry-tilt: 15.0 degrees, carried by the affine",)


def test_two_series_in_one_folder_stay_two(tmp_path: Path, grouped: Group) -> None:
    write_ct(SPEC, tmp_path)
    write_ct(dataclasses.replace(SPEC, series_number=2, spacing_mm=(0.7, 1.3, 5.0)), tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / f"b-{path.name}")
    tasks = grouped(tmp_path).tasks
    assert sorted(task.step_mm[2] for task in tasks) == pytest.approx([2.5, 5.0])


def test_one_series_over_two_folders_is_one(tmp_path: Path, grouped: Group) -> None:
    written = write_ct(SPEC, tmp_path / "a")
    (tmp_path / "b").mkdir()
    for path in written.paths[::2]:
        path.rename(tmp_path / "b" / path.name)
    (task,) = grouped(tmp_path).tasks
    assert len(task.slices) == 20


def test_copies_of_an_instance_count_once(tmp_path: Path, grouped: Group) -> None:
    write_ct(SPEC, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    result = grouped(tmp_path)
    assert len(result.tasks) == 1
    assert result.n_duplicates == 20


def test_two_echoes_under_one_uid_become_two_stacks(tmp_path: Path, grouped: Group) -> None:
    for echo_ms in (10, 20):
        extra = {"EchoTime": echo_ms, "SeriesInstanceUID": "1.2.3"}
        spec = dataclasses.replace(SPEC, modality="MR", extra=extra, edit=numbered(f"1.2.3.{echo_ms}"))
        write_ct(spec, tmp_path / str(echo_ms))
    tasks = grouped(tmp_path).tasks
    assert [len(task.slices) for task in tasks] == [20, 20]
    assert len({task.identity.series_key for task in tasks}) == 2


def test_copies_of_positions_that_nothing_tells_apart_are_refused(tmp_path: Path, grouped: Group) -> None:
    write_ct(dataclasses.replace(SPEC, duplicates=(3, 4)), tmp_path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is Code.DUPLICATE_POSITIONS
    assert series.message.startswith("2 of 22 planes")


def test_uneven_spacing_is_refused_with_its_numbers(tmp_path: Path, grouped: Group) -> None:
    def shift(ds: Dataset, k: int) -> None:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, z + (0.9 if k > 9 else 0)]

    write_ct(dataclasses.replace(SPEC, edit=shift), tmp_path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is Code.VARIABLE_SPACING
    assert "2.5 to 3.4 mm" in series.message


def test_a_matrix_that_changes_within_a_series_makes_two_stacks(tmp_path: Path, grouped: Group) -> None:
    for rows in (32, 40):
        write_ct(dataclasses.replace(SPEC, shape=(rows, 24, 20), edit=numbered(f"1.2.{rows}")), tmp_path / str(rows))
    assert sorted(task.rows for task in grouped(tmp_path).tasks) == [32, 40]


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"ImagePositionPatient": None}, Code.MISSING_GEOMETRY),
        ({"PixelSpacing": None}, Code.MISSING_GEOMETRY),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Code.LOCALIZER),
        ({"Modality": "SEG"}, Code.NOT_AN_IMAGE),
    ],
)
def test_what_is_no_volume_says_why(extra: dict[str, object], code: Code, tmp_path: Path, grouped: Group) -> None:
    write_ct(dataclasses.replace(SPEC, extra=extra), tmp_path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is code
    assert series.hint


def test_two_slices_are_no_volume(tmp_path: Path, grouped: Group) -> None:
    write_ct(dataclasses.replace(SPEC, shape=(32, 24, 2)), tmp_path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is Code.TOO_FEW_SLICES


def test_a_volume_beyond_the_limit_is_refused_before_memory_is_taken(
    tmp_path: Path, grouped: Group, settings: Settings
) -> None:
    write_ct(SPEC, tmp_path)
    small = settings.model_copy(update={"intake": settings.intake.model_copy(update={"max_voxels": 1000})})
    (series,) = grouped(tmp_path, small).skipped
    assert series.code is Code.TOO_LARGE
    assert "15360" in series.message


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("series")
    write_ct(SPEC, folder / "a")
    write_ct(dataclasses.replace(SPEC, series_number=2, tilt_deg=8), folder / "b")
    return [row.plane for file in list_files(folder) for row in read_header(file)]


@profile(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_order_of_files_changes_nothing(planes: list, settings: Settings, data: st.DataObject) -> None:
    keys = Keys(b"0" * 16)
    shuffled = data.draw(st.permutations(planes))
    assert group_series(shuffled, keys, settings) == group_series(planes, keys, settings)
