"""Every series becomes one task, or one reason why not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from imaging_pipeline.errors import Code
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.headers import read_header
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.intake.series import Grouped, group_series
from imaging_pipeline.records import Finding, GeometryVerdict
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
    assert task.findings == (
        Finding(code=Code.GANTRY_TILT, message="15.0 degrees, carried by the affine"),
        Finding(code=Code.NON_SQUARE_PIXELS, message="0.7 mm between rows, 1.3 mm between columns"),
    )
    assert task.verdict is GeometryVerdict.OK


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


def test_an_intact_copy_wins_over_one_that_was_cut_off(tmp_path: Path, grouped: Group) -> None:
    written = write_ct(SPEC, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    written.paths[3].write_bytes(written.paths[3].read_bytes()[:-60])
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


def changed(settings: Settings, **geometry: object) -> Settings:
    """Settings with another policy for geometry."""
    return settings.model_copy(update={"geometry": settings.geometry.model_copy(update=geometry)})


def test_a_settled_series_is_taken_and_a_young_one_waits(tmp_path: Path, grouped: Group, settings: Settings) -> None:
    written = write_ct(SPEC, tmp_path)
    waiting = settings.model_copy(update={"intake": settings.intake.model_copy(update={"settle_seconds": 60.0})})
    (series,) = grouped(tmp_path, waiting).skipped
    assert series.code is Code.NOT_SETTLED
    assert "60 s are waited for" in series.message
    for path in written.paths:
        os.utime(path, (time.time() - 90, time.time() - 90))
    assert len(grouped(tmp_path, waiting).tasks) == 1
    for path in written.paths:
        os.utime(path, (time.time() + 9000, time.time() + 9000))
    assert len(grouped(tmp_path, waiting).tasks) == 1, "a clock that is ahead holds nothing up"


def test_copies_of_positions_may_be_left_out_on_demand(tmp_path: Path, grouped: Group, settings: Settings) -> None:
    write_ct(dataclasses.replace(SPEC, duplicates=(3, 4)), tmp_path)
    (task,) = grouped(tmp_path, changed(settings, duplicate_positions="first")).tasks
    assert len(task.slices) == 20
    assert task.verdict is GeometryVerdict.REPAIRED
    assert task.findings[0].code is Code.DUPLICATE_POSITIONS


def test_a_time_series_becomes_volumes_or_is_refused_as_asked(
    tmp_path: Path, grouped: Group, settings: Settings
) -> None:
    for point in (1, 2, 3):
        extra = {"TemporalPositionIdentifier": point, "SeriesInstanceUID": "1.2.3", "EchoTime": 30}
        spec = dataclasses.replace(SPEC, modality="MR", extra=extra, edit=numbered(f"1.2.3.{point}"))
        write_ct(spec, tmp_path / str(point))
    tasks = grouped(tmp_path).tasks
    assert [len(task.slices) for task in tasks] == [20, 20, 20]
    assert "told apart by Temporal Position" in tasks[0].findings[0].message
    refused = grouped(tmp_path, changed(settings, time_series="reject")).skipped
    assert [series.code for series in refused] == [Code.TIME_SERIES] * 3


def test_overlong_decimals_are_read_and_reported_as_a_repair(tmp_path: Path, grouped: Group) -> None:
    def lengthen(ds: Dataset, k: int) -> None:
        value = f"-157.50000000000000000\\-157.500000000000000000\\{-100 + 2.5 * k:.20f}"
        ds[0x00200032] = RawDataElement(Tag(0x00200032), "DS", len(value), value.encode(), 0, False, True)

    write_ct(dataclasses.replace(SPEC, edit=lengthen), tmp_path)
    (task,) = grouped(tmp_path).tasks
    assert task.verdict is GeometryVerdict.REPAIRED
    assert any("more than 16 characters" in finding.message for finding in task.findings)
    assert task.slices[3].position_mm == (-157.5, -157.5, -92.5)


def test_decimals_that_are_no_numbers_are_told_from_absent_ones(tmp_path: Path, grouped: Group) -> None:
    def spoil(ds: Dataset, k: int) -> None:
        value = b"0,7\\1,3 "
        ds[0x00280030] = RawDataElement(Tag(0x00280030), "DS", len(value), value, 0, False, True)

    write_ct(dataclasses.replace(SPEC, edit=spoil), tmp_path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is Code.DAMAGED_DECIMALS
    assert "Pixel Spacing (0028,0030) is no number in 20 of 20 planes" in series.message


def test_colour_by_palette_and_mosaics_are_no_volumes(tmp_path: Path, grouped: Group, settings: Settings) -> None:
    write_ct(dataclasses.replace(SPEC, extra={"PhotometricInterpretation": "PALETTE COLOR"}), tmp_path / "a")
    write_ct(
        dataclasses.replace(SPEC, series_number=2, modality="MR", image_type=("ORIGINAL", "PRIMARY", "M", "MOSAIC")),
        tmp_path / "b",
    )
    write_ct(dataclasses.replace(SPEC, series_number=3, image_type=("DERIVED", "PRIMARY", "MPR")), tmp_path / "c")
    found = grouped(tmp_path, changed(settings, derived="reject"))
    assert {series.identity.series_number: series.code for series in found.skipped} == {
        1: Code.NOT_MONOCHROME,
        2: Code.MOSAIC,
        3: Code.DERIVED,
    }
    (task,) = grouped(tmp_path).tasks
    assert task.findings[-1].code is Code.DERIVED


def test_a_series_without_uid_is_grouped_by_its_folder(tmp_path: Path, grouped: Group) -> None:
    for name in "ab":
        extra = {"SeriesInstanceUID": ""}
        write_ct(dataclasses.replace(SPEC, extra=extra, edit=numbered(f"1.2.{ord(name)}")), tmp_path / name)
    tasks = grouped(tmp_path).tasks
    assert [len(task.slices) for task in tasks] == [20, 20]
    assert tasks[0].findings[0].code is Code.MISSING_UID


def test_frames_that_nothing_places_are_no_volume(tmp_path: Path, grouped: Group) -> None:
    write_ct(dataclasses.replace(SPEC, shape=(32, 24, 1), extra={"NumberOfFrames": 1}), tmp_path)
    (path,) = tmp_path.iterdir()
    ds = pydicom.dcmread(path)
    ds.NumberOfFrames, ds.PixelData = 12, ds.PixelData * 12
    ds.save_as(path)
    (series,) = grouped(tmp_path).skipped
    assert series.code is Code.MULTI_FRAME
    assert "12 frames" in series.message


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
