"""A model folder that nnU-Net wrote gives here what nnU-Net's own predictor gives."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.segment.nnunet.model import NnunetModel
from imaging_pipeline.segment.nnunet.plans import is_nnunet, read_plans
from imaging_pipeline.segment.nnunet.recipe import Resampling
from imaging_pipeline.segment.nnunet.resample import Resampler
from imaging_pipeline.segment.nnunet.windows import gaussian, window_starts
from imaging_pipeline.settings import ROOT, ModelSettings, resolve
from imaging_pipeline.volume import Volume

pytest.importorskip("nnunetv2", reason="the reference that masks are compared with: pip install nnunetv2")

LABELS = {"background": 0, "liver": 1, "kidney": 2, "spleen": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "centre": 3}
CT = {"mean": 40.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 260.0}
SPLINES = {"is_seg": False, "order_z": 0, "force_separate_z": None}
TORCH = {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False}
BY_TORCH = {
    f"resampling_fn_{what}{end}": value
    for what in ("data", "seg", "probabilities")
    for end, value in (("", "resample_torch_fornnunet"), ("_kwargs", {**TORCH, "is_seg": what == "seg"}))
}
OLDER_NETWORK = {
    "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 6, "unet_max_num_features": 12,
    "n_conv_per_stage_encoder": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1], "num_pool_per_axis": [1, 2, 2],
    "conv_kernel_sizes": [[3, 3, 3]] * 3, "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}  # fmt: skip


def configuration(**other: Any) -> dict[str, Any]:
    """A small 3d_fullres as nnU-Net plans it."""
    arguments = {
        "n_stages": 3, "features_per_stage": [6, 8, 12], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1], "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    return {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [16, 24, 32], "spacing": [1.5, 1.2, 1.2],
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": {**SPLINES, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**SPLINES, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**SPLINES, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }, "batch_dice": False, **other,
    }  # fmt: skip


def plans_of(config: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "dataset_name": "Dataset101_Blobs", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {**CT, "min": -900.0, "max": 1500.0, "median": 45.0}},
        "configurations": {"2d": {}, "3d_fullres": config}, **other,
    }  # fmt: skip


def write_model(
    folder: Path,
    plans: dict[str, Any],
    labels: dict[str, Any] | None = None,
    order: list[int] | None = None,
    mirror_axes: tuple[int, ...] | None = (0, 1, 2),
    folds: int = 1,
) -> Path:
    """A model folder, its checkpoints written by nnU-Net's own trainer code."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = {
        "channel_names": {"0": "CT"}, "labels": labels or LABELS, "numTraining": 3, "file_ending": ".nii.gz",
        **({"regions_class_order": order} if order else {}),
    }  # fmt: skip
    model = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset))
    manager = PlansManager(copy.deepcopy(plans))
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    for fold in range(folds):
        torch.manual_seed(fold)
        network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, heads)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True)
        sum(scores.square().mean() for scores in network(torch.randn(1, 1, 16, 24, 32))).backward()
        optimizer.step()
        logger = LocalLogger()
        for key in logger.my_fantastic_logging:
            logger.log(key, [np.float32(0.5)] if "per_class" in key else np.float64(0.25), 0)
        trainer = type("nnUNetTrainer", (types.SimpleNamespace,), {})(
            local_rank=0, disable_checkpointing=False, is_ddp=False, network=network, optimizer=optimizer,
            grad_scaler=None, logger=logger, _best_ema=np.float64(0.25), current_epoch=0,
            my_init_kwargs={
                "plans": plans, "configuration": "3d_fullres", "fold": fold, "dataset_json": dataset,
                "unpack_dataset": True, "device": torch.device("cuda"),
            },
            inference_allowed_mirroring_axes=mirror_axes,
        )  # fmt: skip
        (model / f"fold_{fold}").mkdir()
        nnUNetTrainer.save_checkpoint(trainer, str(model / f"fold_{fold}" / "checkpoint_final.pth"))
    return model


def blobs(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int = 0) -> Volume:
    """CT-like: smooth blobs in noise, in air, on a grid that is turned a little."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=shape), [4 / edge for edge in spacing_mm])
    array = (smooth / smooth.std() * 120 + rng.normal(scale=15, size=shape)).round().astype(np.int16)
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing_mm, (-31, 12, 5)
    return Volume(array=array, affine=affine)


def theirs(model: Path, volume: Volume, folder: Path, mirror: bool, folds: tuple[int, ...] | None = None) -> Any:
    """What nnU-Net makes of the file that nibabel writes."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder.mkdir()
    nib.save(nib.Nifti1Image(volume.array, volume.affine), folder / "case_0000.nii.gz")
    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    predictor.predict_from_files_sequential([[str(folder / "case_0000.nii.gz")]], [str(folder / "mask")])
    return np.asanyarray(nib.load(folder / "mask.nii.gz").dataobj)


def opened_from(model: Path) -> NnunetModel:
    plans = read_plans(model)
    return NnunetModel(plans, model, plans.checkpoints, torch.device("cpu"))


def ours(model: Path, volume: Volume, mirror: bool, window_batch: int = 1) -> Any:
    own = resolve()
    changed = own.segment.model_copy(update={"tta": mirror, "window_batch": window_batch})
    bundle = describe(str(model), ModelSettings(trusted_dirs=(model.parent,), ensemble=True))
    engine = Engine(bundle, own.model_copy(update={"segment": changed, "device": "cpu"}), cores=1)
    return engine.segment(volume).mask.array


def assert_same_labels(model: Path, volume: Volume, folder: Path, mirror: bool, folds: int = 1) -> None:
    """To the voxel."""
    expected = theirs(model, volume, folder, mirror, tuple(range(folds)))
    found = ours(model, volume, mirror)
    assert found.shape == volume.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert len([label for label in (1, 2, 3) if (expected == label).sum() > 50]) >= 2


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds; not to be changed."""
    return write_model(tmp_path_factory.mktemp("model"), plans_of(configuration()), folds=2)


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """A copy of the model to spoil."""
    return Path(shutil.copytree(model, tmp_path / "own" / model.name))


@pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])
def test_thick_slices_get_the_labels_that_nnunet_gives(mirror: bool, tmp_path: Path) -> None:
    config = configuration(spacing=[4.0, 1.0, 1.0])
    model = write_model(tmp_path, plans_of(config), mirror_axes=(1, 2))
    assert_same_labels(model, blobs((38, 25, 13), (0.8, 0.9, 5.0)), tmp_path / "case", mirror)


def test_isotropic_ct_gets_the_labels_that_nnunet_gives(tmp_path: Path) -> None:
    config = configuration(spacing=[1.5, 1.5, 1.5], normalization_schemes=["CTNormalization"])
    model = write_model(tmp_path, plans_of(config))
    assert_same_labels(model, blobs((34, 30, 18), (1.3, 1.1, 1.7)), tmp_path / "case", mirror=False)


@pytest.mark.parametrize("order", [0, 3])
def test_logits_resampled_by_other_splines_get_the_labels_that_nnunet_gives(order: int, tmp_path: Path) -> None:
    config = configuration(resampling_fn_probabilities_kwargs={**SPLINES, "order": order})
    model = write_model(tmp_path, plans_of(config))
    assert_same_labels(model, blobs((34, 26, 18), (1.3, 1.1, 1.3)), tmp_path / "case", mirror=False)


def test_turned_axes_and_mirror_images_get_the_labels_that_nnunet_gives(tmp_path: Path) -> None:
    plans = plans_of(configuration(), transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0])
    model = write_model(tmp_path, plans)
    assert_same_labels(model, blobs((22, 26, 13), (1.3, 0.9, 2.1)), tmp_path / "case", mirror=True)


def test_two_folds_get_the_labels_that_nnunet_gives(model: Path, tmp_path: Path) -> None:
    assert_same_labels(model, blobs((34, 26, 18), (1.3, 1.1, 1.3)), tmp_path / "case", mirror=False, folds=2)


def test_overlapping_regions_get_the_labels_that_nnunet_gives(tmp_path: Path) -> None:
    model = write_model(tmp_path, plans_of(configuration()), REGIONS, order=[1, 2, 3])
    assert_same_labels(model, blobs((34, 26, 18), (1.3, 1.1, 1.3)), tmp_path / "case", mirror=False)


def test_a_residual_network_resampled_by_torch_gets_the_labels_that_nnunet_gives(tmp_path: Path) -> None:
    config = configuration(**BY_TORCH)
    network = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    config["architecture"]["network_class_name"] = network
    arguments = config["architecture"]["arch_kwargs"]
    arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    model = write_model(tmp_path, plans_of(config))
    assert_same_labels(model, blobs((34, 26, 18), (1.3, 1.1, 1.3)), tmp_path / "case", mirror=False)


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_older_plans_on_less_than_a_window_in_zeros_get_the_labels_that_nnunet_gives(tmp_path: Path) -> None:
    config = {**configuration(use_mask_for_norm=[True]), **OLDER_NETWORK}
    del config["architecture"]
    labels = {**LABELS, "ignore": 4}
    model = write_model(tmp_path, plans_of(config), labels)
    assert_same_labels(model, in_zeros(blobs((28, 26, 14), (1.3, 1.1, 1.3))), tmp_path / "case", mirror=False)


def in_zeros(volume: Volume) -> Volume:
    """Zeros around and a hole of zeros inside."""
    array = volume.array.copy()
    array[:5] = array[:, -3:] = array[12:16, 10:14, 6:9] = 0
    return volume.with_array(array)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_mask_does_not_hang_on_how_many_windows_run_together(batch: int, model: Path) -> None:
    volume = blobs((34, 26, 22), (1.3, 1.1, 1.3))
    assert np.mean(ours(model, volume, mirror=False, window_batch=batch) != ours(model, volume, mirror=False)) <= 1e-3


@pytest.mark.parametrize(
    "config",
    [
        {"normalization_schemes": ["CTNormalization"]},
        {"normalization_schemes": ["CTNormalization"], "spacing": [5.0, 0.7, 0.8]},
        {"use_mask_for_norm": [True]},
        {"spacing": [1.3, 1.1, 1.7]},
        {"normalization_schemes": ["RescaleTo01Normalization"], **BY_TORCH},
        {"normalization_schemes": ["NoNormalization"], **BY_TORCH, "spacing": [5.0, 0.7, 0.8]},
    ],
    ids=["ct", "ct-thick", "within-mask", "native-spacing", "rescale-torch", "none-torch-thick"],
)
def test_a_volume_is_prepared_as_nnunet_prepares_it(config: dict[str, Any], tmp_path: Path) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    turned = {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    model = write_model(tmp_path, plans_of(configuration(**config), **turned))
    volume = in_zeros(blobs((24, 31, 17), (1.3, 1.1, 1.7)))
    manager = PlansManager(str(model / "plans.json"))
    spacing = [float(edge) for edge in np.float32(volume.spacing_mm)[::-1]]
    expected, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        volume.array.transpose(2, 1, 0)[None], None, {"spacing": spacing},
        manager, manager.get_configuration("3d_fullres"), json.loads((model / "dataset.json").read_text()),
    )  # fmt: skip
    found = opened_from(model).prepare(volume).image.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("spacings", [((1, 1, 1), (1, 1, 1)), ((1, 5, 1), (1, 2, 1))], ids=["together", "apart"])
def test_splines_go_where_those_of_nnunet_go(order: int, spacings: Any) -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    values = np.random.default_rng(order).normal(size=(9, 12, 1)).astype(np.float32)
    for shape in ((14, 5, 1), (9, 20, 3), (4, 12, 2)):
        order_z = min(order, 1)
        expected = resample_data_or_seg_to_shape(
            values[None], shape, *spacings, order=order, order_z=order_z, force_separate_z=None
        )[0]
        rule = Resampling(order=order, order_z=order_z, separate=None, anisotropy=3.0, float16=False)
        resampler = Resampler(rule, (values.shape, shape), spacings, torch.device("cpu"))
        np.testing.assert_allclose(resampler(torch.from_numpy(values)).numpy(), expected, atol=1e-5)


@given(n_voxels=st.integers(1, 700), n_window=st.integers(1, 200))
def test_windows_start_where_those_of_nnunet_start(n_voxels: int, n_window: int) -> None:
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    n_voxels = max(n_voxels, n_window)
    assert [window_starts(n_voxels, n_window)] == compute_steps_for_sliding_window((n_voxels,), (n_window,), 0.5)


@pytest.mark.parametrize("patch", [(16, 24, 32), (7, 64, 5)])
def test_windows_weigh_what_those_of_nnunet_weigh(patch: tuple[int, ...]) -> None:
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    expected = compute_gaussian(patch, value_scaling_factor=10, device=torch.device("cpu"))
    torch.testing.assert_close(gaussian(patch), expected.float(), rtol=1e-3, atol=6e-8)


def test_a_folder_tells_what_it_finds_without_torch(model: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from imaging_pipeline.segment.nnunet.plans import is_nnunet, read_plans\n"
        "assert is_nnunet(Path(sys.argv[1])); print(read_plans(Path(sys.argv[1])).labels)\n"
        "assert not {'torch', 'scipy', 'dynamic_network_architectures'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, model], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Label(index=1, name='liver', " in done.stdout
    assert not is_nnunet(ROOT / "models" / "hippocampus_mr")


def test_regions_are_named_by_what_later_ones_leave_of_them(tmp_path: Path) -> None:
    plans = read_plans(write_model(tmp_path, plans_of(configuration()), REGIONS, order=[1, 2, 3]))
    names = ("whole without core or centre", "core without centre", "centre")
    assert plans.labels == tuple(Label(index=index, name=name) for index, name in enumerate(names, start=1))
    assert plans.n_outputs == 3


def test_a_renamed_folder_still_tells_its_configuration_by_its_checkpoint(own: Path) -> None:
    content = json.loads((own / "plans.json").read_text())
    content["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres", "spacing": [9, 9, 9]}
    (own / "plans.json").write_text(json.dumps(content))
    renamed = own.rename(own.parent / "liver")
    assert read_plans(renamed).configuration == "3d_fullres"
    (renamed / "fold_0" / "checkpoint_final.pth").write_bytes(b"written in another way")
    with pytest.raises(PipelineError, match="3d_fullres, 3d_lowres"):
        read_plans(renamed)
    named = read_plans(renamed.rename(own.parent / "nnUNetTrainer__nnUNetPlans__3d_lowres"))
    assert named.spacing_mm == (9, 9, 9)


def test_folds_are_those_with_the_final_checkpoint_in_their_order(own: Path) -> None:
    final = own / "fold_1" / "checkpoint_final.pth"
    for fold in ("fold_10", "fold_2", "fold_all"):
        (own / fold).mkdir()
        shutil.copy(final, own / fold)
    folds = [path.parent.name for path in read_plans(own).checkpoints]
    assert folds == ["fold_0", "fold_1", "fold_2", "fold_10"]
    for path in own.glob("fold_*/checkpoint_final.pth"):
        path.rename(path.with_name("checkpoint_best.pth"))
    assert read_plans(own).checkpoints[0] == Path("fold_0/checkpoint_best.pth")
    assert len(opened_from(own).networks) == 4


def change(own: Path, file: str, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((own / file).read_text())
    edit(content["configurations"]["3d_fullres"] if file == "plans.json" else content)
    (own / file).write_text(json.dumps(content))


def test_a_model_of_two_aligned_images_is_refused(own: Path) -> None:
    change(own, "dataset.json", lambda it: it["channel_names"].update({"1": "PET"}))
    with pytest.raises(PipelineError, match="2 input channels \\(CT, PET\\)") as refused:
        read_plans(own)
    assert refused.value.code is Code.MODEL_MULTI_CHANNEL


PLANS_THAT_DO_NOT_RUN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "2d": (lambda it: it.update(patch_size=[64, 64], spacing=[1, 1]), "2D patches"),
    "cascade": (lambda it: it.update(previous_stage="3d_lowres"), "second stage of a cascade after 3d_lowres"),
    "normalisation": (lambda it: it.update(normalization_schemes=["Own"]), "normalisation Own does not run"),
    "resampling": (lambda it: it.update(resampling_fn_data="own"), "resampling_fn_data own does not run"),
    "preprocessor": (lambda it: it.update(preprocessor_name="Own"), "preprocessor_name Own does not run"),
    "circle": (lambda it: it.update(inherits_from="3d_fullres"), "inherit in a circle"),
    "spacing": (lambda it: it.update(spacing=[1, 0, 1]), r"spacing \[1, 0, 1\]"),
    "gap": (lambda it: it.pop("patch_size"), "KeyError: 'patch_size'"),
}


@pytest.mark.parametrize("name", PLANS_THAT_DO_NOT_RUN)
def test_plans_that_do_not_run_here_are_refused_in_one_sentence(name: str, own: Path) -> None:
    edit, sentence = PLANS_THAT_DO_NOT_RUN[name]
    change(own, "plans.json", edit)
    with pytest.raises(PipelineError, match=sentence) as refused:
        read_plans(own)
    assert refused.value.code is Code.MODEL_INVALID
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "labels", [{"background": 0, "a": 2}, {"liver": 1}, {"background": 1, "a": 0}, {"background": 0, "a": [1, 2]}]
)
def test_labels_that_do_not_say_what_channels_mean_are_refused(labels: dict[str, Any], own: Path) -> None:
    change(own, "dataset.json", lambda it: it.update(labels=labels))
    with pytest.raises(PipelineError, match="model-invalid"):
        read_plans(own)


@pytest.mark.parametrize("spoil", ["no-folds", "plans-damaged", "dataset-gone"])
def test_an_incomplete_folder_is_refused(spoil: str, own: Path) -> None:
    if spoil == "no-folds":
        for fold in own.glob("fold_*"):
            shutil.rmtree(fold)
    elif spoil == "plans-damaged":
        (own / "plans.json").write_text("{")
    else:
        (own / "dataset.json").unlink()
    with pytest.raises(PipelineError) as refused:
        read_plans(own)
    assert refused.value.code is Code.MODEL_INVALID
    assert "fold_*/checkpoint_final.pth" in refused.value.hint


def test_a_network_that_is_none_is_not_looked_up(own: Path) -> None:
    change(own, "plans.json", lambda it: it["architecture"]["arch_kwargs"].update(conv_op="os.system"))
    with pytest.raises(PipelineError, match=r"os\.system is no known network or layer") as refused:
        opened_from(own)
    assert refused.value.code is Code.MODEL_INVALID


def test_weights_of_another_network_are_refused_with_what_does_not_fit(own: Path) -> None:
    path = own / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    weights = content["network_weights"]
    weights["extra.weight"] = weights.pop("decoder.seg_layers.1.weight")
    weights["decoder.seg_layers.1.bias"] = torch.zeros(9)
    torch.save(content, path)
    with pytest.raises(PipelineError, match=r"weights of fold_1/checkpoint_final\.pth do not fit") as refused:
        opened_from(own)
    assert refused.value.code is Code.WEIGHTS_MISMATCH
    for part in (r"1 missing (decoder.seg_layers.1.weight)", "1 unexpected (extra.weight)", "1 of another shape"):
        assert part in refused.value.message


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", ["network_weights", "init_args", "logging"])
def test_a_checkpoint_that_holds_code_is_refused_and_the_code_does_not_run(
    key: str, legacy: bool, own: Path, tmp_path: Path
) -> None:
    path = own / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, key: Payload(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PipelineError, match="holds code") as refused:
        opened_from(own)
    assert refused.value.code is Code.WEIGHTS_UNSAFE
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in refused.value.message + refused.value.hint


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 no archive"])
def test_a_damaged_checkpoint_is_refused(content: bytes, own: Path) -> None:
    (own / "fold_0" / "checkpoint_final.pth").write_bytes(content)
    with pytest.raises(PipelineError) as refused:
        opened_from(own)
    assert refused.value.code is Code.WEIGHTS_UNSAFE


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1], {"network_weights": {"a": 1}}])
def test_another_programs_checkpoint_is_refused(content: Any, own: Path) -> None:
    torch.save(content, own / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(PipelineError, match="no checkpoint of nnU-Net") as refused:
        opened_from(own)
    assert refused.value.code is Code.MODEL_INVALID


def test_a_checkpoint_written_beside_numpy_1_opens(own: Path) -> None:
    path = own / "fold_0" / "checkpoint_final.pth"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (entry,) = (name for name in parts if name.endswith("/data.pkl"))
    assert b"numpy._core.multiarray" in parts[entry]
    parts[entry] = parts[entry].replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert opened_from(own).mirror_axes == (0, 1, 2)


def test_weights_that_are_no_numbers_give_no_mask(own: Path) -> None:
    for path in own.glob("fold_*/*.pth"):
        content = torch.load(path, weights_only=False)
        content["network_weights"]["decoder.seg_layers.1.bias"][1] = math.nan
        torch.save(content, path)
    with pytest.raises(PipelineError, match="infinite or no numbers") as refused:
        ours(own, blobs((20, 16, 12), (1.3, 1.1, 1.3)), mirror=False)
    assert refused.value.code is Code.MODEL_INVALID


def test_without_the_package_of_the_networks_the_remedy_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures", None)
    with pytest.raises(PipelineError) as refused:
        opened_from(model)
    assert refused.value.code is Code.EXTRA_MISSING
    assert refused.value.hint == "pip install 'imaging-pipeline[nnunet]'"


def test_a_volume_of_zeros_is_looked_at_as_a_whole(model: Path) -> None:
    volume = Volume(array=np.zeros((20, 16, 12), np.int16), affine=np.diag([1.3, 1.1, 1.3, 1]))
    assert ours(model, volume, mirror=False).shape == volume.shape
