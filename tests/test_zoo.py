"""Bundles of MONAI's Model Zoo run here as they are, and give the masks that MONAI's own command saves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import Bundle, describe
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.settings import ModelSettings, SegmentSettings, Settings
from imaging_pipeline.volume import Volume
from tests import zoo
from tests.conftest import Finished
from tests.zoo import Recipe

RUNNABLE = {
    "spleen_ct_segmentation": zoo.spleen_ct_segmentation(),
    "wholeBody_ct_segmentation": zoo.whole_body_ct_segmentation(),
    "pancreas_ct_dints_segmentation": zoo.pancreas_ct_dints_segmentation(),
    "multi_organ_segmentation": zoo.multi_organ_segmentation(),
    "prostate_mri_anatomy": zoo.prostate_mri_anatomy(),
    "prostate_mri_anatomy_v0.3.2": zoo.prostate_mri_anatomy(inverts=False),
    "swin_unetr_btcv_segmentation": zoo.swin_unetr_btcv_segmentation(),
    "renalStructures_UNEST_segmentation": zoo.renal_structures_unest_segmentation(),
    "wholeBrainSeg_Large_UNEST_segmentation": zoo.whole_brain_seg_large_unest_segmentation(),
    "pediatric_abdominal_ct_segmentation": zoo.pediatric_abdominal_ct_segmentation(),
    "vista3d": zoo.vista3d(),
    "segmentation_template": zoo.segmentation_template(),
    "ventricular_short_axis_3label": zoo.ventricular_short_axis_3label(),
}
MULTI_CHANNEL = {
    "brats_mri_segmentation": zoo.brats_mri_segmentation(),
    "renalStructures_CECT_segmentation": zoo.renal_structures_cect_segmentation(),
    "spleen_deepedit_annotation": zoo.spleen_deepedit_annotation(),
}
RENAL, BRAIN = "renalStructures_UNEST_segmentation", "wholeBrainSeg_Large_UNEST_segmentation"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle, an image for it, and the mask that MONAI saves of the image."""

    bundle: Path
    volume: Volume
    truth: NDArray[np.float32]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The networks are tiny: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Writes a bundle and lets MONAI run it."""

    def case(name: str, recipe: Recipe, weights: Path | None = None) -> Case:
        folder = tmp_path_factory.mktemp("zoo")
        volume, file = imaged(recipe, folder / "data")
        bundle = zoo.write(recipe, folder / "models" / name, file)
        if weights is not None:
            shutil.copy(weights / "models" / "model.pt", bundle / "models")
        return Case(bundle=bundle, volume=volume, truth=saved_by_monai(recipe, bundle, folder))

    return case


def saved_by_monai(recipe: Recipe, bundle: Path, folder: Path) -> NDArray[np.float32]:
    """The mask that `python -m monai.bundle run` writes in the bundle's folder."""
    config = bundle / "configs" / f"inference.{recipe.suffix}"
    places = {"bundle_root": str(bundle), "dataset_dir": f"{folder / 'data'}/", "output_dir": str(folder / "out")}
    more = {"dataloader#num_workers": 0, **recipe.without_itk}
    with zoo.alone(bundle):
        monai.bundle.run(run_id=recipe.run_id, config_file=str(config), **places, **more)
    (file,) = (folder / "out").rglob("*.nii.gz")
    return np.asanyarray(nib.load(file).dataobj, dtype=np.float32)


def opened(path: Path, settings: Settings) -> Engine:
    single = settings.model_copy(update={"segment": SegmentSettings(threads=1)})
    return Engine(described(path), single)


def described(path: Path) -> Bundle:
    return describe(str(path), ModelSettings(trusted_dirs=(path.parent,)))


def assert_same_mask(ours: Volume, case: Case) -> None:
    """On the native grid, and for every label of MONAI's mask at most 0.5 % of its voxels, or two, are others."""
    assert ours.shape == case.volume.shape == case.truth.shape
    np.testing.assert_array_equal(ours.affine, case.volume.affine)
    truth = np.rint(case.truth)  # a bundle that interpolates labels saves fractions
    assert np.unique(truth).size >= 2
    for label in np.union1d(truth, ours.array):
        theirs, here = truth == label, ours.array == label
        n_different, n_voxels = int((theirs != here).sum()), int(theirs.sum() + here.sum())
        assert n_different <= max(2, 0.005 * n_voxels), f"label {label:g}"


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_bundle_of_the_zoo_gives_the_mask_that_monai_saves(
    name: str, make: Callable[..., Case], settings: Settings
) -> None:
    case = make(name, RUNNABLE[name])
    assert_same_mask(opened(case.bundle, settings).segment(case.volume).mask, case)


@pytest.mark.parametrize("name", RUNNABLE)
def test_labels_are_the_channels_that_metadata_names(name: str, tmp_path: Path) -> None:
    bundle = described(zoo.write(RUNNABLE[name], tmp_path / name))
    assert [(label.index, label.name) for label in bundle.labels] == list(enumerate(RUNNABLE[name].labels))[1:]
    assert (bundle.name, bundle.version) == (name, "0.5.9")


def test_bundles_that_all_bring_a_package_scripts_keep_their_own(make: Callable[..., Case], settings: Settings) -> None:
    renal = make(RENAL, RUNNABLE[RENAL])
    turned = RUNNABLE[RENAL].files["scripts/networks/unest.py"].replace("return self", "return -self")
    files = {**RUNNABLE[RENAL].files, "scripts/networks/unest.py": turned}
    twin = make("twin", replace(RUNNABLE[RENAL], files=files), weights=renal.bundle)
    assert (renal.truth != twin.truth).mean() > 0.1
    cases = (renal, twin, make(BRAIN, RUNNABLE[BRAIN]), make("prostate", zoo.prostate_mri_anatomy(inverts=False)))
    engines = [opened(case.bundle, settings) for case in cases]
    for engine, case in zip(engines, cases, strict=True):
        assert_same_mask(engine.segment(case.volume).mask, case)


def test_a_package_scripts_where_the_run_was_started_does_not_hide_the_bundles(
    make: Callable[..., Case], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make("brain", RUNNABLE[BRAIN])
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("mine = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert_same_mask(opened(case.bundle, settings).segment(case.volume).mask, case)


@pytest.mark.parametrize("name", MULTI_CHANNEL)
def test_a_bundle_that_needs_several_series_is_refused_before_it_is_opened(name: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=str(MULTI_CHANNEL[name].n_inputs)) as refused:
        described(zoo.write(MULTI_CHANNEL[name], tmp_path / name))
    assert refused.value.code is Code.MODEL_MULTI_CHANNEL
    assert refused.value.hint


def test_the_command_refuses_such_a_bundle_before_any_series(
    pipeline: Callable[..., Finished], sample: Path, tmp_path: Path
) -> None:
    bundle = zoo.write(MULTI_CHANNEL["brats_mri_segmentation"], tmp_path / "brats_mri_segmentation")
    trusted = f"models.trusted_dirs=[{tmp_path}]"
    done = pipeline(sample, "--out", tmp_path / "out", "--model", bundle, "--no-spark", "--set", trusted)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("imaging_pipeline: model-multi-channel: ")
    assert not list(tmp_path.rglob("*.nii.gz"))


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        pytest.param(zoo.swin_unetr_btcv_segmentation(img_size=96), "img_size", id="an argument that MONAI dropped"),
        pytest.param(
            zoo.multi_organ_segmentation(device="$torch.device('cuda')", trusting=""),
            "(?i)weights.only|cuda",
            id="an architecture that torch refuses to load",
        ),
    ],
)
def test_what_monai_cannot_open_is_refused_in_one_sentence(
    recipe: Recipe, says: str, settings: Settings, tmp_path: Path
) -> None:
    bundle = zoo.write(recipe, tmp_path / "models" / "broken")
    imaged(recipe, tmp_path / "data")
    with pytest.raises(RuntimeError):
        saved_by_monai(recipe, bundle, tmp_path)
    with pytest.raises(PipelineError, match=says) as refused:
        opened(bundle, settings)
    assert refused.value.code is Code.MODEL_INVALID
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "recipe", [zoo.lung_nodule_ct_detection(), zoo.pediatric_abdominal_ct_segmentation(has_table=False)]
)
def test_a_bundle_that_names_no_labels_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"labels\.tsv") as refused:
        described(zoo.write(recipe, tmp_path / "unnamed"))
    assert refused.value.code is Code.MODEL_INVALID


def imaged(recipe: Recipe, folder: Path) -> tuple[Volume, Path]:
    """A body of smooth intensities in air, oblique, its voxels unequal and coarser than the model's; and its file."""
    rng = np.random.default_rng(3)
    field = gaussian_filter(rng.normal(size=recipe.shape), 3)
    places = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in recipe.shape), indexing="ij")
    body = sum(place**2 for place in places) < 1
    if recipe.modality == "CT":
        values = np.where(body, 40 + 150 * field / field.std(), -1000)
    else:
        values = np.where(body, 400 + 120 * field / field.std(), 0).clip(0)
    spacing_mm = np.array(recipe.pixdim) * (1.27, 1.17, 1.43)
    affine = np.eye(4)
    affine[:3] = np.column_stack([turn(0, 0.12) @ turn(2, -0.2) @ np.diag(spacing_mm), (-31, 12.5, 7)])
    (folder / "imagesTs").mkdir(parents=True)
    file = folder / "case.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), file)
    shutil.copy(file, folder / "imagesTs")
    (folder / "test.csv").write_text("ID,t2\n1,case.nii.gz\n")
    image = nib.load(file)
    return Volume(array=np.asanyarray(image.dataobj), affine=image.affine), file


def turn(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation about an axis."""
    matrix = np.eye(3)
    one, other = (number for number in range(3) if number != axis)
    matrix[one, one] = matrix[other, other] = np.cos(angle)
    matrix[one, other], matrix[other, one] = -np.sin(angle), np.sin(angle)
    return matrix
