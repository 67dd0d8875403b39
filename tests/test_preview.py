"""The small picture beside each mask."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imaging_pipeline.results.colours import colours_of
from imaging_pipeline.results.planes import AXIAL, CORONAL, SAGITTAL, aim
from imaging_pipeline.results.preview import backdrop_of, preview
from imaging_pipeline.volume import Volume
from tests.results_made import LABELS, ball

COLOURS = colours_of(LABELS)


def _opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(int)


def _places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == colour).all(axis=2))


def test_outlines_have_the_colours_of_the_models_table_and_the_same_bytes_each_time() -> None:
    image, mask = ball()
    first, second = (preview(backdrop_of(image, "MR"), mask, COLOURS) for _ in range(2))
    assert first == second
    assert len(_places(_opened(first), (0, 255, 0))) > 50
    assert len(_places(_opened(first), (255, 0, 255))) > 50


def test_the_patients_left_is_on_the_right_of_the_picture_and_anterior_on_top_or_to_the_left() -> None:
    array, labels = np.full((40, 40, 40), 100, np.int16), np.zeros((40, 40, 40), np.uint8)
    array[0, 0, 0] = 0
    labels[15:25, 15:25, 15:25] = 1
    array[4:8, :, :] = 1000  # RAS+: low I is the patient's left
    array[:, 32:36, :] = 500  # high J is anterior
    grid = Volume(array=array, affine=np.diag([1.0, 1, 1, 1]))
    picture = _opened(preview(backdrop_of(grid, "MR"), Volume(array=labels, affine=grid.affine), {1: "#00FF00"}))[
        ..., 0
    ]
    side = (picture.shape[1] - 12) // 3
    axial, sagittal = picture[:side, :side], picture[:side, -side:]
    middle = axial[side // 2 - 8 : side // 2 + 8]
    assert middle[:, side // 2 :].max(axis=0).argmax() + side // 2 > side * 0.75
    assert axial[: side // 4, side // 4].mean() > axial[-side // 4 :, side // 4].mean()
    assert sagittal[side // 4, : side // 4].mean() > sagittal[side // 4, -side // 4 :].mean()


def test_letters_tell_the_patients_sides_and_an_oblique_axis_gets_two() -> None:
    _, mask = ball()
    field = aim(mask, mask)
    assert field.letters(AXIAL) == ("R", "L", "A", "P")
    assert field.letters(CORONAL) == ("R", "L", "S", "I")
    assert field.letters(SAGITTAL) == ("A", "P", "S", "I")
    turned = np.eye(4)
    angle = np.deg2rad(30)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert aim(Volume(array=mask.array, affine=turned), mask).letters(AXIAL)[:2] == ("RA", "LP")


def test_planes_go_through_the_mask_and_through_a_kidney_where_the_centroid_lies_between_two() -> None:
    labels = np.zeros((60, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:15] = labels[45:55, 5:15, 5:15] = 1
    grid = Volume(array=labels, affine=np.eye(4))
    assert labels[aim(grid, grid).centre] == 1


def test_pixels_that_are_not_square_are_shown_in_their_true_proportions() -> None:
    grid = Volume(array=np.zeros((50, 100, 20), np.int16), affine=np.diag([2.0, 1.0, 5.0, 1.0]))
    picture = _opened(preview(backdrop_of(grid, "CT"), None, {}))
    assert picture.shape[1] == pytest.approx(3 * 288 + 12, abs=3)  # all three are 100 mm by 100 mm


def test_a_large_volume_is_thinned_and_its_outline_stays_on_the_edge_that_it_follows() -> None:
    array = np.full((400, 400, 120), -1000, np.int16)
    array[150:250, 150:250, 40:80] = 200
    grid = Volume(array=array, affine=np.diag([0.5, 0.5, 1.0, 1.0]))
    backdrop = backdrop_of(grid, "CT")
    assert backdrop.array.size <= 2**24
    assert backdrop.strides == (2, 1, 1) or backdrop.strides == (1, 2, 1)
    mask = Volume(array=(array > 0).astype(np.uint8), affine=grid.affine)
    picture = _opened(preview(backdrop, mask, {1: "#00FF00"}))
    rows, columns = _places(picture, (0, 255, 0)).T
    row, left = int(np.median(rows)), int(columns.min())
    assert picture[row, left - 6].mean() < 80  # outside
    assert picture[row, left + 8].mean() > 200  # inside


@settings(max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    fill=st.sampled_from([0.0, np.nan, np.inf, -1e30, 7.5]),
    modality=st.sampled_from(["CT", "MR", ""]),
    labelled=st.booleans(),
)
def test_any_volume_has_a_picture(shape, spacing, fill, modality, labelled) -> None:
    grid = Volume(array=np.full(shape, fill, np.float32), affine=np.diag([*spacing, 1.0]))
    mask = Volume(array=np.full(shape, labelled, np.uint8), affine=grid.affine)
    assert _opened(preview(backdrop_of(grid, modality), mask, COLOURS)).size
