"""A bundle gives here what it gives under MONAI's own command."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import Bundle, describe
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.segment.labels import read_labels
from imaging_pipeline.segment.manifest import MANIFEST
from imaging_pipeline.settings import ROOT, ModelSettings, Settings
from imaging_pipeline.volume import Volume

MODEL = ROOT / "models" / "hippocampus_mr"


@pytest.fixture(scope="module")
def bundle(settings: Settings) -> Bundle:
    return describe("hippocampus_mr", settings.models)


@pytest.fixture
def own_copy(tmp_path: Path) -> Path:
    """A copy of the bundle to spoil, with no manifest that would tell."""
    path = Path(shutil.copytree(MODEL, tmp_path / "models" / "own", ignore=shutil.ignore_patterns("fold_*")))
    (path / MANIFEST).unlink(missing_ok=True)
    return path


def opened(path: Path, settings: Settings) -> Engine:
    return Engine(describe(str(path), ModelSettings(trusted_dirs=(path.parent,))), settings)


@pytest.mark.slow
def test_monais_own_command_makes_the_same_masks(
    shared: Path, bundle: Bundle, settings: Settings, tmp_path: Path
) -> None:
    references = sorted((shared / "data" / "hippocrop_dicom" / "reference").glob("*.nii.gz"))[:5]
    (tmp_path / "in").mkdir()
    volumes = {}
    for path in references:
        image = nib.as_closest_canonical(nib.load(path))
        nib.save(image, tmp_path / "in" / path.name)
        volumes[path.name.removesuffix(".nii.gz")] = Volume(array=np.asanyarray(image.dataobj), affine=image.affine)
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(MODEL / "configs" / "inference.json"),
         "--bundle_root", str(MODEL), "--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")],
        check=True, capture_output=True,
    )  # fmt: skip
    engine = Engine(bundle, settings)
    for name, volume in volumes.items():
        (theirs,) = (tmp_path / "out").rglob(f"{name}*.nii.gz")
        truth = np.asanyarray(nib.load(theirs).dataobj)
        ours = engine.segment(volume).mask.array
        for label in (1, 2):
            dice = 2 * ((ours == label) & (truth == label)).sum() / ((ours == label).sum() + (truth == label).sum())
            assert dice >= 0.999, name


def test_one_thread_or_two_the_mask_is_the_same(bundle: Bundle, settings: Settings) -> None:
    rng = np.random.default_rng(0)
    volume = Volume(array=rng.normal(100, 20, (37, 52, 33)).astype(np.float32), affine=np.eye(4))
    masks = [Engine(bundle, settings, cores).segment(volume).mask.array for cores in (1, 2)]
    np.testing.assert_array_equal(*masks)
    assert masks[0].dtype == np.uint8


def test_a_mask_lies_on_the_voxels_of_an_anisotropic_oblique_volume(bundle: Bundle, settings: Settings) -> None:
    affine = np.array([[1.2, 0.2, 0, -20], [-0.2, 1.2, 0.3, 5], [0, -0.3, 1.9, 30], [0, 0, 0, 1]])
    volume = Volume(array=np.random.default_rng(1).integers(0, 900, (30, 44, 20)).astype(np.int16), affine=affine)
    mask = Engine(bundle, settings).segment(volume).mask
    assert mask.shape == volume.shape
    np.testing.assert_array_equal(mask.affine, affine)


def test_the_digest_changes_with_every_byte_that_can_change_a_mask(own_copy: Path) -> None:
    trusted = ModelSettings(trusted_dirs=(own_copy.parent,))
    before = describe("own", trusted).digest
    (own_copy / "docs" / "README.md").write_text("another card")
    assert describe("own", trusted).digest == before
    weights = own_copy / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert describe("own", trusted).digest != before


def test_a_model_that_is_unknown_or_untrusted_is_refused(own_copy: Path, settings: Settings) -> None:
    with pytest.raises(PipelineError, match="known here: hippocampus_mr") as unknown:
        describe("spleen", settings.models)
    assert unknown.value.code is Code.MODEL_NOT_FOUND
    with pytest.raises(PipelineError) as untrusted:
        describe(str(own_copy), settings.models)
    assert untrusted.value.code is Code.MODEL_UNTRUSTED
    assert str(own_copy.parent) in untrusted.value.hint


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        ("weights-gone", Code.MODEL_INVALID),
        ("weights-other", Code.WEIGHTS_UNSAFE),
        ("metadata", Code.MODEL_INVALID),
        ("network", Code.WEIGHTS_MISMATCH),
        ("unknown-network", Code.MODEL_INVALID),
        ("inference-gone", Code.MODEL_INVALID),
    ],
)
def test_a_broken_bundle_is_refused_in_one_sentence(spoil: str, code: Code, own_copy: Path, settings: Settings) -> None:
    config = own_copy / "configs" / "inference.json"
    if spoil == "weights-gone":
        (own_copy / "models" / "model.pt").unlink()
    elif spoil == "weights-other":
        (own_copy / "models" / "model.pt").write_bytes(b"no weights")
    elif spoil == "metadata":
        (own_copy / "configs" / "metadata.json").write_text("{")
    elif spoil == "network":
        content = json.loads(config.read_text())
        content["network_def"]["channels"] = [8, 16, 32, 64, 128]
        config.write_text(json.dumps(content))
    elif spoil == "unknown-network":
        config.write_text(config.read_text().replace('"UNet"', '"NoSuchNet"'))
    else:
        config.unlink()
    with pytest.raises(PipelineError) as refused:
        opened(own_copy, settings)
    assert refused.value.code is code
    assert "\n" not in refused.value.message


def test_a_bundle_that_does_not_come_back_to_the_native_grid_is_caught(own_copy: Path, settings: Settings) -> None:
    config = own_copy / "configs" / "inference.json"
    content = json.loads(config.read_text())
    steps = content["postprocessing"]["transforms"]
    content["postprocessing"]["transforms"] = [step for step in steps if step["_target_"] != "Invertd"]
    steps[-1]["resample"] = False
    config.write_text(json.dumps(content))
    volume = Volume(array=np.zeros((20, 20, 20), np.int16), affine=np.diag([2.0, 2, 2, 1]))
    with pytest.raises(PipelineError) as refused:
        opened(own_copy, settings).segment(volume)
    assert refused.value.code is Code.GRID_MISMATCH


def test_a_cuda_device_that_is_not_there_is_named(bundle: Bundle, settings: Settings) -> None:
    with pytest.raises(PipelineError, match="cuda:7 asked for") as refused:
        Engine(bundle, settings.model_copy(update={"device": "cuda:7"}))
    assert refused.value.code is Code.DEVICE_NOT_FOUND


def test_labels_without_a_table_come_from_the_metadata(own_copy: Path) -> None:
    trusted = ModelSettings(trusted_dirs=(own_copy.parent,))
    named = describe("own", trusted).labels
    (own_copy / "labels.tsv").unlink()
    assert [label.index for label in describe("own", trusted).labels] == [label.index for label in named] == [1, 2]


@pytest.mark.parametrize("table", ["index\tname\n1\ta\n1\tb\n", "number\tname\n1\ta\n", "index\tname\n70000\ta\n"])
def test_a_bad_label_table_is_refused(table: str, tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(table)
    with pytest.raises(PipelineError, match="model-invalid"):
        read_labels(tmp_path / "labels.tsv")


def test_bundles_are_values(bundle: Bundle) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.name = "other"  # type: ignore[misc]
