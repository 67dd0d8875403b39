"""What is measured of a label is what NumPy, SciPy and SimpleITK say of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import ndimage

from imaging_pipeline.results.measure import PERCENTILES, Measurement, measure
from imaging_pipeline.results.measurements import describe_columns, read_measurements, write_measurements
from imaging_pipeline.results.sides import pairs, side_of, split_name
from imaging_pipeline.segment.labels import Concept, Label
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.volume import Volume

LABELS = tuple(Label(index=index, name=name) for index, name in ((1, "liver"), (2, "left kidney"), (9, "absent")))
SHEARED = np.array([[1.5, 0.2, 0, -30], [0, 2, 0.3, 4], [0.1, 0, 2.5, 5], [0, 0, 0, 1]])


def scene(
    seed: int = 0, shape: tuple[int, ...] = (13, 11, 9), order: str = "C", dtype: str = "int16"
) -> tuple[Volume, Volume]:
    """Labels in clumps, and noise."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1)
    labels = np.digitize(smooth, np.quantile(smooth, [0.5, 0.7, 0.9])).astype(np.uint8)
    values = rng.integers(-1000, 1000, shape).astype(dtype)
    if dtype.startswith("float"):
        values += 0.25
    grid = [np.asarray(array, order=order) for array in (labels, values)]  # type: ignore[call-overload]
    return Volume(array=grid[0], affine=SHEARED), Volume(array=grid[1], affine=SHEARED)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_places_and_parts_are_those_of_numpy_and_scipy(dtype: str, order: str) -> None:
    mask, image = scene(order=order, dtype=dtype)
    found = {item.label: item for item in measure(mask, image, LABELS)}
    assert list(found) == [1, 2, 3, 9]
    assert found[3].name == "label 3"
    for index in (1, 2, 3):
        where, item = mask.array == index, found[index]
        values = image.array[where].astype(np.float64)
        expected = [values.mean(), values.std(), *np.percentile(values, PERCENTILES)]
        assert [item.mean, item.sd, item.p5, item.p25, item.p50, item.p75, item.p95] == pytest.approx(
            expected, abs=1e-5
        )
        sizes = np.bincount(ndimage.label(where, np.ones((3, 3, 3)))[0].ravel())[1:]
        assert item.n_parts == len(sizes)
        assert item.largest_share == pytest.approx(sizes.max() / len(values), abs=1e-6)
        voxels = np.argwhere(where)
        assert item.n_voxels == len(voxels)
        assert item.volume_ml == pytest.approx(len(voxels) * abs(np.linalg.det(SHEARED[:3, :3])) / 1000)
        centre = SHEARED[:3, :3] @ voxels.mean(axis=0) + SHEARED[:3, 3]
        assert [item.centroid_x_mm, item.centroid_y_mm, item.centroid_z_mm] == pytest.approx(
            [-centre[0], -centre[1], centre[2]], abs=1e-5
        )
        assert [item.first_i, item.first_j, item.first_k] == voxels.min(axis=0).tolist()
        assert [item.last_i, item.last_j, item.last_k] == voxels.max(axis=0).tolist()


def test_simpleitk_finds_the_same_on_an_upright_grid() -> None:
    sitk = pytest.importorskip("SimpleITK")
    mask, image = scene(shape=(21, 17, 12))
    labels, values = (sitk.GetImageFromArray(volume.array.transpose(2, 1, 0)) for volume in (mask, image))
    for each in (labels, values):  # LPS, as ITK has it: the first two axes of RAS run the other way
        each.SetSpacing((1.5, 2.0, 2.5))
        each.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        each.SetOrigin((30, -4, 5))
    upright = np.array([[1.5, 0, 0, -30], [0, 2, 0, 4], [0, 0, 2.5, 5], [0, 0, 0, 1]])
    shapes, statistics = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelIntensityStatisticsImageFilter()
    shapes.Execute(labels)
    statistics.Execute(labels, values)
    for item in measure(
        Volume(array=mask.array, affine=upright), Volume(array=image.array, affine=upright), LABELS[:2]
    ):
        assert item.volume_ml == pytest.approx(shapes.GetPhysicalSize(item.label) / 1000)
        assert (item.centroid_x_mm, item.centroid_y_mm, item.centroid_z_mm) == pytest.approx(
            shapes.GetCentroid(item.label), abs=1e-4
        )
        box = shapes.GetBoundingBox(item.label)
        assert (item.first_i, item.first_j, item.first_k) == box[:3]
        assert item.mean == pytest.approx(statistics.GetMean(item.label), abs=1e-4)
        variance = statistics.GetVariance(item.label) * (item.n_voxels - 1) / item.n_voxels  # divided by n - 1 there
        assert item.sd == pytest.approx(np.sqrt(variance), abs=1e-4)


@hypothesis_settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(*(st.integers(1, 9) for _ in range(3))),
    density=st.floats(0.05, 0.95),
    order=st.sampled_from("CF"),
)
def test_parts_of_any_mask_are_counted_as_scipy_counts_them(
    seed: int, shape: tuple[int, ...], density: float, order: str
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.asarray((rng.random(shape) < density) * rng.integers(1, 3, shape), np.uint16, order=order)  # type: ignore[call-overload]
    mask = Volume(array=labels, affine=np.eye(4))
    for item in measure(mask, Volume(array=labels.astype(np.int16), affine=np.eye(4)), ()):
        parts, n_parts = ndimage.label(labels == item.label, np.ones((3, 3, 3)))
        assert item.n_parts == n_parts
        assert item.largest_share == pytest.approx(np.bincount(parts.ravel())[1:].max() / item.n_voxels, abs=1e-6)


def test_a_label_at_the_edge_says_which_faces_it_touches() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[0, 2, 3] = labels[1, 2, 5] = 1
    labels[2, 2, 2] = 2
    image = Volume(array=np.zeros(labels.shape, np.int16), affine=np.eye(4))
    edge, within = measure(image.with_array(labels), image, LABELS[:2])
    assert (edge.borders, within.borders) == ("left superior", "")
    assert (within.box_min_x_mm, within.box_max_x_mm, within.box_min_z_mm) == (-2.5, -1.5, 1.5)


def test_values_that_are_no_numbers_have_no_mean_and_an_empty_mask_no_place() -> None:
    mask, image = scene(dtype="float32")
    image.array[mask.array == 1] = np.nan
    first, _, _, absent = measure(mask, image, LABELS)
    assert (first.mean, first.p50) == (None, None)
    assert first.n_voxels > 0
    empty = measure(mask.with_array(np.zeros_like(mask.array)), image, LABELS)
    assert [item.n_voxels for item in empty] == [0, 0, 0]
    assert absent == empty[2] == Measurement(label=9, name="absent")


def test_a_table_beside_the_mask_comes_back_as_it_was_written(tmp_path: Path) -> None:
    out, (mask, image) = LocalStore(root=tmp_path), scene()
    measured = measure(mask, image, LABELS)
    digests = {write_measurements(out, f"{name}.tsv", measured) for name in "ab"}
    assert len(digests) == 1
    assert read_measurements(out, "a.tsv") == measured
    header = (tmp_path / "a.tsv").read_text().splitlines()[0].split("\t")
    assert header == list(describe_columns()), "every column is explained, in its order"
    (tmp_path / "a.tsv").write_text("label\tname\nx\ty\n")
    with pytest.raises(ValueError, match="not what they should be"):
        read_measurements(out, "a.tsv")


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("left kidney", "left", "kidney"),
        ("Kidney_Right", "right", "kidney"),
        ("lung_upper_lobe_left", "left", "lung_upper_lobe"),
        ("L hippocampus", "left", "hippocampus"),
        ("rib-left-4", "", "rib-left-4"),
        ("leftover", "", "leftover"),
        ("liver", "", "liver"),
    ],
)
def test_left_and_right_are_read_from_names(name: str, side: str, rest: str) -> None:
    assert split_name(name) == (side, rest)
    assert side_of(Label(index=1, name=name)) == side


def test_a_code_says_the_side_where_the_name_does_not_and_only_whole_pairs_are_pairs() -> None:
    coded = Label(index=1, name="kidney", modifier=Concept(code="24028007", meaning="Right"))
    assert side_of(coded) == "right"
    names = ["left lung", "lung_right", "kidney left", "spleen"]
    assert list(pairs((name, name) for name in names)) == [("lung", "left lung", "lung_right")]
