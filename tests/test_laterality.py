"""A point of the patient is at its coordinate in every output alike, and left stays left, however it was scanned."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from imaging_pipeline.intake.series import Grouped
from imaging_pipeline.job import Job
from imaging_pipeline.partition import process
from imaging_pipeline.records import Status
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.segment.bundle import Bundle, describe
from imaging_pipeline.settings import ModelSettings, Settings
from imaging_pipeline.stores import LocalStore
from sample_data.phantom import CtSpec, Marker, write_ct
from tests.dicom_objects import points_of_rtstruct, points_of_seg

AXES = np.eye(3)
AXIS_ALIGNED = [
    (*(a * AXES[i]), *(b * AXES[j]))
    for i, j in itertools.permutations(range(3), 2)
    for a, b in itertools.product((1, -1), repeat=2)
]
MARKER_HU = 3000
SPEC = CtSpec(shape=(20, 24, 16), file_names="random")
Group = Callable[..., Grouped]

INFERENCE = {
    "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.25},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ],
    },
}


@pytest.fixture(scope="module")
def brighter_than_bone(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that labels what is brighter than 2500 HU: the marker, and nothing else."""
    path = tmp_path_factory.mktemp("models") / "bright"
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    (path / "configs" / "inference.json").write_text(json.dumps(INFERENCE))
    (path / "configs" / "metadata.json").write_text(json.dumps({"version": "1"}))
    (path / "labels.tsv").write_text("index\tname\n1\tbright\n")
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -2500.0])}, path / "models" / "model.pt")
    return describe("bright", ModelSettings(trusted_dirs=(path.parent,)))


def assert_found(spec: CtSpec, folder: Path, grouped: Group, settings: Settings, bundle: Bundle) -> None:
    """Put a marker on the patient's left and look for it in the files that come out."""
    corner = spec.affine_lps() @ [12, 11, 7, 1]
    left = np.array([40.0, 15.0, -20.0])  # LPS: x grows to the left
    spec = dataclasses.replace(
        spec,
        origin_mm=tuple(np.array(spec.origin_mm) + left - corner[:3]),
        marker=Marker(centre_mm=tuple(left), size_mm=0.1, value=MARKER_HU),
    )
    write_ct(spec, folder / "in")
    open_results(LocalStore(root=folder / "out"))
    output = settings.output.model_copy(update={"save_image": True, "formats": ("nifti", "seg", "rtstruct")})
    saving = settings.model_copy(update={"output": output})
    job = Job(out=LocalStore(root=folder / "out"), run_id="r", settings=saving, bundle=bundle)
    (task,) = grouped(folder / "in").tasks
    (result,) = process([task], job)
    assert result.status is Status.DONE, result.message
    for path, value in ((result.image_path, MARKER_HU), (result.mask_path, 1)):
        image = nib.load(folder / "out" / path)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        places = np.argwhere(np.asanyarray(image.dataobj) == value)
        assert len(places) == 1
        x, y, z = nib.affines.apply_affine(image.affine, places[0])
        assert (x, y, z) == pytest.approx((-40.0, -15.0, -20.0), abs=1e-3), "RAS: x shrinks to the left"
    segment = points_of_seg(folder / "out" / result.dicom_paths["seg"])
    structure = points_of_rtstruct(folder / "out" / result.dicom_paths["rtstruct"], task)
    for points in (segment, structure):
        assert points.keys() == {1}
        np.testing.assert_allclose(points[1], [left], atol=1e-3)


@pytest.mark.parametrize("orientation", AXIS_ALIGNED)
def test_left_stays_left_in_every_axis_aligned_orientation(
    orientation: tuple[float, ...], tmp_path: Path, grouped: Group, settings: Settings, brighter_than_bone: Bundle
) -> None:
    spec = dataclasses.replace(SPEC, orientation=orientation, spacing_mm=(1.5, 2.5, 4.0))
    assert_found(spec, tmp_path, grouped, settings, brighter_than_bone)


@profile(max_examples=20)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    tilt_deg=st.floats(-20, 20),
    spacing_mm=st.tuples(*[st.floats(0.5, 5.0)] * 3),
)
def test_left_stays_left_in_oblique_and_tilted_scans_of_any_spacing(
    tmp_path_factory: pytest.TempPathFactory,
    grouped: Group,
    settings: Settings,
    brighter_than_bone: Bundle,
    angles: tuple[float, float, float],
    tilt_deg: float,
    spacing_mm: tuple[float, float, float],
) -> None:
    rotation = Rotation.from_euler("xyz", angles).as_matrix()
    cosines = (*rotation[:, 0], *rotation[:, 1])
    spec = dataclasses.replace(SPEC, orientation=cosines, tilt_deg=tilt_deg, spacing_mm=spacing_mm)
    assert_found(spec, tmp_path_factory.mktemp("oblique"), grouped, settings, brighter_than_bone)
