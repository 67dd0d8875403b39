"""Somebody else's package as a bundle: the example of deepbet gives what deepbet gives."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized
from numpy.typing import NDArray

from imaging_pipeline.settings import ROOT

BUNDLE = ROOT / "examples" / "deepbet_bundle"
NOT_INSTALLED = "deepbet brings the weights: pip install 'imaging-pipeline[deepbet]'"


def module(path: Path) -> ModuleType:
    """A file of the example under a name of its own: every bundle has a package `scripts`."""
    spec = importlib.util.spec_from_file_location(f"deepbet_example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("nilearn", reason="nilearn carries the MNI152 template")
    return module(BUNDLE / "run_on_mni152.py")


first_stage = module(BUNDLE / "scripts" / "first_stage.py")
installed = module(BUNDLE / "scripts" / "installed.py")


def told_by(ds: pydicom.Dataset) -> NDArray[np.float64]:
    """RAS+ millimetres of every pixel, (rows, columns, 3), by equation C.7.6.2.1-1 of PS3.3."""
    row, column = np.reshape(np.asarray(ds.ImageOrientationPatient, float), (2, 3))
    between_rows, between_columns = map(float, ds.PixelSpacing)
    i, j = np.meshgrid(np.arange(ds.Columns), np.arange(ds.Rows))
    lps = np.asarray(ds.ImagePositionPatient, float) + np.multiply.outer(i * between_columns, row)
    lps += np.multiply.outer(j * between_rows, column)
    return lps * (-1, -1, 1)


@pytest.mark.parametrize("turned_by_deg", [0, 25])
def test_every_pixel_of_the_series_lies_where_its_voxel_lies(
    turned_by_deg: int, script: ModuleType, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(0).permutation(11 * 9 * 7).reshape(11, 9, 7).astype(np.int16)
    a = np.deg2rad(turned_by_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = nib.affines.from_matvec(turn @ np.diag([-1.5, 2, 0.8]), (12, -34, 5))
    script.write_series(nib.Nifti1Image(voxels, affine), tmp_path)
    files = [pydicom.dcmread(path) for path in sorted(tmp_path.glob("*.dcm"))]
    assert len(files) == 7
    for ds in files:
        index = nib.affines.apply_affine(np.linalg.inv(affine), told_by(ds))
        np.testing.assert_allclose(index, np.rint(index), atol=1e-6)
        np.testing.assert_array_equal(ds.pixel_array, voxels[tuple(np.rint(index).astype(int).T)].T)


def test_the_pipeline_reads_the_template_back_as_it_was(
    script: ModuleType, pipeline: Callable[..., object], tmp_path: Path
) -> None:
    image = script.template(4)
    script.write_series(image, tmp_path / "studies")
    pipeline(tmp_path / "studies", "--out", tmp_path / "results", "--model", "none", "--no-spark")
    (found,) = (tmp_path / "results").rglob("*_mr.nii.gz")
    read = nib.load(found)
    np.testing.assert_allclose(read.affine, image.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(read.dataobj), image.dataobj)


def test_two_calls_write_two_studies_and_leave_no_slice_of_the_first(script: ModuleType, tmp_path: Path) -> None:
    seen: set[str] = set()
    for n_slices in (6, 4):
        script.write_series(nib.Nifti1Image(np.zeros((5, 5, n_slices), np.int16), np.eye(4)), tmp_path)
        files = [pydicom.dcmread(path) for path in tmp_path.iterdir()]
        shared = {uid for ds in files for uid in (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID)}
        own = {ds.SOPInstanceUID for ds in files}
        assert (len(shared), len(own), len(files)) == (3, n_slices, n_slices)
        assert not seen & (shared | own)
        seen |= shared | own


def brain_in(box: tuple[slice, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network that finds a brain in one box of the thumbnail."""

    def network(small: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(1, 2, *small.shape[2:])
        scores[(0, 1, *box)] = 1
        return scores

    return network


extents = st.integers(0, 120).flatmap(lambda low: st.builds(slice, st.just(low), st.integers(low + 4, 128)))


@hypothesis_settings(max_examples=10)
@given(shape=st.tuples(*3 * [st.integers(16, 60)]), inside=st.tuples(extents, extents, extents))
def test_the_box_around_the_brain_is_the_one_that_deepbet_takes(
    shape: tuple[int, ...], inside: tuple[slice, ...]
) -> None:
    deepbet = pytest.importorskip("deepbet", reason=NOT_INSTALLED)
    mask = torch.zeros(first_stage.THUMBNAIL)
    mask[inside] = 1
    shares = [mask.mean(dim=dims).max() for dims in ((1, 2), (0, 2), (0, 1))]
    box = first_stage.CropToBrain(brain_in(inside)).box(torch.rand(1, *shape))
    if min(shares) <= 0.02:
        assert box == tuple(slice(0, n) for n in shape)
    else:
        theirs = object.__new__(deepbet.BrainExtraction).get_bbox_with_margin(mask, shape, 0.1)
        assert [(s.start, s.stop) for s in box] == [(s.start, s.stop) for s in theirs]


def test_labels_of_the_box_come_back_to_the_voxels_they_came_from() -> None:
    affine = torch.tensor([[-1.5, 0.2, 0, 3], [0.2, 2, 0, -5], [0, 0, 0.8, 7], [0, 0, 0, 1]], dtype=torch.float64)
    image = MetaTensor(torch.rand(1, 40, 30, 50), affine=affine)
    network = brain_in((slice(30, 90), slice(40, 100), slice(20, 80)))
    steps = [first_stage.ClipByThumbnaild("image"), first_stage.CropToBraind("image", network)]
    there = Compose([*steps, Resized("image", (64, 64, 64), mode="nearest-exact")])
    prepared = there({"image": image})
    found = {**prepared, "pred": prepared["image"] > 0.5}
    back = Invertd("pred", there, orig_keys="image", nearest_interp=False)(found)["pred"]
    box = first_stage.CropToBrain(network).box(image)
    expected = torch.zeros_like(image.as_tensor())
    expected[(slice(None), *box)] = (steps[0]({"image": image})["image"][(slice(None), *box)] > 0.5).float()
    np.testing.assert_array_equal(back.as_tensor(), expected)
    np.testing.assert_allclose(back.affine, affine)
    assert 0 < expected.sum() < image.numel() / 3


def test_intensities_are_scaled_as_deepbet_scales_them() -> None:
    deepbet_utils = pytest.importorskip("deepbet.utils", reason=NOT_INSTALLED)
    image = torch.exp(torch.randn(1, 20, 30, 25, generator=torch.Generator().manual_seed(0)))
    small = torch.nn.functional.interpolate(image[None], (128, 128, 128), mode="nearest-exact")
    theirs = deepbet_utils.normalize(image, small.quantile(0.005), small.quantile(0.995))
    ours = first_stage.standardize(first_stage.ClipByThumbnaild("image")({"image": image})["image"])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_volume_of_one_value_stays_finite() -> None:
    flat = {"image": torch.full((1, 20, 20, 20), 7.0)}
    clipped = first_stage.ClipByThumbnaild("image")(flat)["image"]
    assert torch.isfinite(first_stage.standardize(clipped)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distribution": "no-such-package"}, "pip install no-such-package=="),
        ({"version": "0.0.1"}, "is needed"),
        ({"sha256": "0" * 64}, "has SHA-256"),
    ],
)
def test_a_network_that_is_not_the_pinned_one_is_refused(change: dict[str, str], message: str, tmp_path: Path) -> None:
    torch_is = installed.metadata.distribution("torch")
    content = Path(str(torch_is.locate_file("torch/version.py"))).read_bytes()
    pinned = {"distribution": "torch", "version": torch_is.version, "file": "torch/version.py"}
    manifest = tmp_path / "weights.json"
    manifest.write_text(json.dumps({**pinned, "sha256": hashlib.sha256(content).hexdigest(), **change}))
    with pytest.raises((ImportError, ValueError), match=re.escape(message)):
        installed.load(manifest)


@pytest.mark.slow
def test_the_command_finds_the_brain_that_deepbet_finds(tmp_path: Path) -> None:
    deepbet = pytest.importorskip("deepbet", reason=NOT_INSTALLED)
    pytest.importorskip("nilearn", reason="nilearn carries the MNI152 template")
    done = subprocess.run(
        [sys.executable, BUNDLE / "run_on_mni152.py", tmp_path, "--resolution", "2", "--no-spark",
         "--set", "output.save_image=true"],
        check=True, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("brain ")]
    volume_ml, mask_path = re.fullmatch(r"brain ([\d.]+) ml: (.*)", line).groups()  # type: ignore[union-attr]
    ours = np.asanyarray(nib.load(mask_path).dataobj) == 1
    (image_path,) = (tmp_path / "results").rglob("*_mr.nii.gz")
    theirs = np.asanyarray(deepbet.BrainExtraction(no_gpu=True).run(str(image_path))[1].dataobj) > 0
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) >= 0.999
    assert float(volume_ml) == pytest.approx(ours.sum() * 8e-3, abs=0.1)
    assert 1800 < float(volume_ml) < 2100
