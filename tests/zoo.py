"""Bundles built like those of MONAI's Model Zoo: their sections, expressions, transforms and scripts, tiny networks.

A network keeps its class, dimensions and number of classes; widths and windows are cut down until a CPU runs it in
a second. Weights are random: `_write_weights` says how they still make a picture with several labels.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser

Section = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a bundle is made of.

    Attributes:
        config: Its inference config.
        labels: Names of its output channels.
        modality: CT (air is -1000) or MR (air is 0).
        n_inputs: Image channels.
        pixdim: Voxels of the model grid in mm; images to try it on get coarser ones.
        shape: Voxels of an image to try it on; odd, since the middle one of an even number may come to lie half-way
            between two of the model's, where rounding decides which is the nearest.
        suffix: json or yaml.
        weights: Name of the weight file.
        checkpoint: What the weight file holds, made of the state dict.
        files: Other files of the bundle, by path: scripts and data lists.
        prepare: Writes what the network definition itself reads.
        pred: Entries of the metadata's output tensor that differ from the usual; None leaves one out.
    """

    config: Section
    labels: tuple[str, ...]
    modality: str = "CT"
    n_inputs: int = 1
    pixdim: tuple[float, float, float] = (1.5, 1.5, 2.0)
    shape: tuple[int, int, int] = (35, 31, 23)
    suffix: str = "json"
    weights: str = "model.pt"
    checkpoint: Callable[[Section], Section] = dict
    files: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], None] = lambda _: None
    pred: Section = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The section that MONAI's command runs; older bundles call it `evaluating`."""
        return "run" if "run" in self.config else "evaluating"

    @property
    def without_itk(self) -> Section:
        """Overrides that let MONAI read a NIfTI file where ITK is not installed."""
        steps = self.config["preprocessing"]["transforms"]
        by_itk = isinstance(steps, list) and "reader" in steps[0]
        return {"preprocessing#transforms#0#reader": "NibabelReader"} if by_itk else {}


def write(recipe: Recipe, path: Path, image: Path | None = None) -> Path:
    """Write a bundle.

    Args:
        recipe: What it is made of.
        path: Its folder.
        image: A NIfTI file in which its network is to find several labels; None for a bundle that never runs.
    """
    config = json.dumps(recipe.config, indent=4)
    if recipe.suffix == "yaml":
        config = yaml.safe_dump(json.loads(config), sort_keys=False)
    texts = {
        f"configs/inference.{recipe.suffix}": config,
        "configs/metadata.json": json.dumps(_metadata(path.name, recipe), indent=4),
        "docs/README.md": f"# {path.name}\n",
        **recipe.files,
    }
    for name, text in texts.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    (path / "models").mkdir(exist_ok=True)
    recipe.prepare(path)
    if image is None:
        torch.save({"weight": torch.zeros(1)}, path / "models" / recipe.weights)
    else:
        _write_weights(recipe, path, image)
    return path


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Modules as a process has them that was started in the bundle's folder for this bundle only."""
    before, places = {name: sys.modules.pop(name) for name in _scripts()}, sys.path[:]
    sys.path[:] = [str(path), *(place for place in places if not (Path(place) / "configs" / "metadata.json").is_file())]
    try:
        yield
    finally:
        sys.path[:] = places  # MONAI's command adds to it
        for name in _scripts():
            del sys.modules[name]
        sys.modules.update(before)


def _scripts() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "scripts"]


def _metadata(name: str, recipe: Recipe) -> Section:
    tensor = {"type": "image", "spatial_shape": [96, 96, 96], "dtype": "float32", "is_patch_data": True}
    pred = {
        "format": "segmentation",
        "num_channels": len(recipe.labels),
        "value_range": [0, 1],
        "channel_def": {str(index): label for index, label in enumerate(recipe.labels)},
        **recipe.pred,
    }
    image = {
        "format": "hounsfield" if recipe.modality == "CT" else "magnitude",
        "modality": recipe.modality,
        "num_channels": recipe.n_inputs,
        "value_range": [0, 1] if recipe.modality == "CT" else [],
        "channel_def": {str(channel): f"image {channel}" for channel in range(recipe.n_inputs)},
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema.json",
        "version": "0.5.9",
        "changelog": {"0.5.9": "another checkpoint", "0.0.1": "first version"},
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.24.4",
        "optional_packages_version": {"nibabel": "5.2.1", "pytorch-ignite": "0.4.11"},
        "name": name.replace("_", " "),
        "task": "Segmentation",
        "authors": "MONAI team",
        "copyright": "Copyright (c) MONAI Consortium",
        "data_type": "nibabel",
        "network_data_format": {
            "inputs": {"image": {**tensor, **image}},
            "outputs": {"pred": {key: value for key, value in {**tensor, **pred}.items() if value is not None}},
        },
    }


def _write_weights(recipe: Recipe, path: Path, image: Path) -> None:
    """Random weights that label in blobs, as a trained network does.

    White random kernels label like noise: the least rounding of a resampling flips voxels, and no two programs agree.
    So every kernel is a random mixture of channels times a blur, and the last bias is moved until all classes have
    the same mean score on the image: then each of several classes wins in some region.
    """
    parser = ConfigParser(copy.deepcopy(recipe.config))
    parser.update({**recipe.without_itk, "bundle_root": str(path)})
    with alone(path), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def").eval()
        layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.modules.conv._ConvNd)]
        for layer in layers:
            _blur(layer)
        prepared = parser.get_parsed_content("preprocessing")({"image": str(image)})["image"]
        scores = parser.get_parsed_content("inferer")(prepared.as_tensor()[None], network)
        (*_, last) = (layer for layer in layers if layer.out_channels == len(recipe.labels))
        last.bias -= scores.mean(dim=(0, 2, 3, 4))
    torch.save(recipe.checkpoint(network.state_dict()), path / "models" / recipe.weights)


def _blur(layer: torch.nn.modules.conv._ConvNd) -> None:
    blur = torch.ones(())
    for size in layer.kernel_size:
        blur = blur[..., None] * torch.tensor(np.bartlett(size + 2)[1:-1], dtype=torch.float32)
    axes = tuple(range(-blur.ndim, 0))
    layer.weight.copy_(layer.weight.sum(axes, keepdim=True) * blur / blur.sum())


def _step(target: str, **arguments: Any) -> Section:
    return {"_target_": target, **arguments}


def _compose(*steps: Section) -> Section:
    return _step("Compose", transforms=list(steps))


DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
BENCHMARK = "$setattr(torch.backends.cudnn, 'benchmark', True)"
LOAD_MODEL = _step("CheckpointLoader", load_path="$@bundle_root + '/models/model.pt'", load_dict={"model": "@network"})
STATS = _step("StatsHandler", iteration_log=False)
OUTPUT = {
    "output_ext": ".nii.gz",
    "output_dtype": "$numpy.float32",
    "output_postfix": "trans",
    "separate_folder": True,
}
TO_OUTPUT = {"keys": "pred", "output_dir": "@output_dir"}
SAVE = _step("SaveImaged", **TO_OUTPUT, **{key: f"@{key}" for key in OUTPUT})
SAVE_PLAINLY = _step("SaveImaged", **TO_OUTPUT, meta_keys="pred_meta_dict")
SMALLER = (29, 27, 19)
POSTFIX = {"meta_key_postfix": "meta_dict"}
SOFTMAX = _step("Activationsd", keys="pred", softmax=True)
ARGMAX = _step("AsDiscreted", keys="pred", argmax=True)
BY_HANDLER = {"handlers": [LOAD_MODEL, STATS], "initialize": [BENCHMARK], "run": ["$@evaluator.run()"]}
BY_HANDLER_OLD = {"handlers": [LOAD_MODEL, STATS], "evaluating": [BENCHMARK, "$@evaluator.run()"]}
BY_SECTION = {
    "load_pretrain": True,
    "handlers": [STATS],
    "checkpointloader": LOAD_MODEL,
    "initialize": [
        "$monai.utils.set_determinism(seed=123)",
        "$@checkpointloader(@evaluator) if @load_pretrain else None",
    ],
    "run": ["$@evaluator.run()"],
}


def _frame(*imports: str, **sections: Any) -> Section:
    """The sections that all bundles of the zoo share, and those of one."""
    return {
        "imports": [f"$import {name}" for name in ("glob", "os", *imports)],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": DEVICE,
        "network": "$@network_def.to(@device)",
        "dataset": _step("Dataset", data="$[{'image': i} for i in @datalist]", transform="@preprocessing"),
        "dataloader": _step("DataLoader", dataset="@dataset", batch_size=1, shuffle=False, num_workers=4),
        "inferer": _windows(),
        "evaluator": _step(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@dataloader",
            network="@network",
            inferer="@inferer",
            postprocessing="@postprocessing",
            val_handlers="@handlers",
            amp=True,
        ),
        **sections,
    }


def _windows(overlap: float = 0.5, **arguments: Any) -> Section:
    return _step("SlidingWindowInferer", **{"roi_size": [32, 32, 32], "sw_batch_size": 4, **arguments}, overlap=overlap)


def _read_ct(low: int, high: int, pixdim: list[float], key: str = "@image_key", **reading: Any) -> Section:
    return _compose(
        _step("LoadImaged", keys=key, **reading),
        _step("EnsureChannelFirstd", keys=key),
        _step("Orientationd", keys=key, axcodes="RAS"),
        _step("Spacingd", keys=key, pixdim=pixdim, mode="bilinear"),
        _step("ScaleIntensityRanged", keys=key, a_min=low, a_max=high, b_min=0, b_max=1, clip=True),
        _step("EnsureTyped", keys=key),
    )


def _invert(key: str = "@image_key", nearest: bool = False, **arguments: Any) -> Section:
    back = {"transform": "@preprocessing", "orig_keys": key, **arguments}
    return _step("Invertd", keys="pred", **back, nearest_interp=nearest, to_tensor=True)


def spleen_ct_segmentation() -> Recipe:
    """UNet; the newest way to write a bundle: `@image_key`, `checkpointloader`, `load_pretrain`."""
    unet = {"channels": [4, 4, 8, 8, 8], "strides": [2, 2, 2, 2], "num_res_units": 2, "norm": "batch"}
    config = _frame(
        "numpy",
        image_key="image",
        network_def=_step("UNet", spatial_dims=3, in_channels=1, out_channels=2, **unet),
        preprocessing=_read_ct(-57, 164, [1.5, 1.5, 2.0]),
        postprocessing=_compose(SOFTMAX, _invert(), ARGMAX, SAVE),
        **OUTPUT,
        **BY_SECTION,
    )
    return Recipe(config=config, labels=("background", "spleen"))


def whole_body_ct_segmentation() -> Recipe:
    """SegResNet with 105 classes; settings within settings, labels inverted by nearest neighbour."""
    key = {"keys": "@image_key"}
    network = {"spatial_dims": 3, "in_channels": 1, "out_channels": 105, "init_filters": 8, "dropout_prob": 0.2}
    load = {**LOAD_MODEL, "load_path": "$@bundle_root + '/models/' + @modelname"}
    config = _frame(
        "numpy",
        displayable_configs={"highres": True, "sw_overlap": 0.25, "sw_batch_size": 1},
        image_key="image",
        pixdim="$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
        modelname="$'model.pt' if @displayable_configs#highres else 'model_lowres.pt'",
        network_def=_step("SegResNet", **network, blocks_down=[1, 2, 2, 4], blocks_up=[1, 1, 1]),
        preprocessing=_compose(
            _step("LoadImaged", **key),
            _step("EnsureTyped", **key),
            _step("EnsureChannelFirstd", **key),
            _step("Orientationd", **key, axcodes="RAS"),
            _step("Spacingd", **key, pixdim="@pixdim", mode="bilinear"),
            _step("NormalizeIntensityd", **key, nonzero=True),
            _step("ScaleIntensityd", **key, minv=-1.0, maxv=1.0),
        ),
        inferer=_windows(
            "@displayable_configs#sw_overlap",
            sw_batch_size="@displayable_configs#sw_batch_size",
            padding_mode="replicate",
            mode="gaussian",
            device=DEVICE,
        ),
        postprocessing=_compose(SOFTMAX, ARGMAX, _invert(nearest=True), SAVE),
        **OUTPUT,
        **{**BY_SECTION, "checkpointloader": load},
    )
    labels = ("background", *(f"structure_{index}" for index in range(1, 105)))
    wrapped = {"checkpoint": lambda state: {"model": state}, "prepare": _write_lowres}
    return Recipe(config=config, labels=labels, pixdim=(1.5, 1.5, 1.5), shape=SMALLER, **wrapped)


def _write_lowres(path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(1)}}, path / "models" / "model_lowres.pt")


def pancreas_ct_dints_segmentation() -> Recipe:
    """DiNTS in YAML, whose architecture comes out of a second file by `torch.load`."""
    config = _frame(
        "numpy",
        image_key="image",
        preprocessing=_read_ct(-87, 199, [1, 1, 1]),
        postprocessing=_compose(SOFTMAX, _invert(**POSTFIX), ARGMAX, {**SAVE, "meta_keys": "pred_meta_dict"}),
        **_dints(n_classes=3, device="@device", trusting=", weights_only=False"),
        **OUTPUT,
        **{**BY_SECTION, "initialize": [BENCHMARK, BY_SECTION["initialize"][1]]},
    )
    return Recipe(config=config, labels=("background", "pancreas", "pancreatic tumor"), **IN_YAML, **SEARCHED)


def multi_organ_segmentation(device: str = "@device", trusting: str = ", weights_only=False") -> Recipe:
    """DiNTS again, in the older way: a checkpoint handler, nothing said of the output files.

    Args:
        device: The zoo's own says `$torch.device('cuda')`.
        trusting: What `torch.load` is told; the zoo's own says nothing, and torch since 2.6 refuses its arrays.
    """
    organs = ("artery", "portal vein", "liver", "spleen", "stomach", "gallbladder", "pancreas")
    config = _frame(
        preprocessing=_read_ct(-500, 500, [1, 1, 1], key="image"),
        postprocessing=_compose(SOFTMAX, _invert("image", **POSTFIX), ARGMAX, SAVE_PLAINLY),
        **_dints(n_classes=8, device=device, trusting=trusting),
        **BY_HANDLER,
    )
    return Recipe(config=config, labels=("background", *organs), shape=SMALLER, **IN_YAML, **SEARCHED)


def _dints(n_classes: int, device: str, trusting: str) -> Section:
    """Sections of a searched network."""
    space = {"channel_mul": 0.25, "num_blocks": 6, "num_depths": 4, "use_downsample": True, "device": device}
    codes = ["$@arch_ckpt['arch_code_a']", "$@arch_ckpt['arch_code_c']"]
    place = device.replace("$", "")
    return {
        "input_channels": 1,
        "output_classes": n_classes,
        "arch_ckpt_path": "$@bundle_root + '/models/search_code_18590.pt'",
        "arch_ckpt": f"$torch.load(@arch_ckpt_path, map_location={place}{trusting})",
        "data_list_file_path": "$@bundle_root + '/configs/dataset_0.json'",
        "datalist": "$monai.data.load_decathlon_datalist(@data_list_file_path, data_list_key='testing', "
        "base_dir=@dataset_dir)",
        "dataset": _step("Dataset", data="@datalist", transform="@preprocessing"),
        "dints_space": _step("monai.networks.nets.TopologyInstance", **space, arch_code=codes),
        "network_def": _step(
            "monai.networks.nets.DiNTS",
            dints_space="@dints_space",
            in_channels="@input_channels",
            num_classes="@output_classes",
            use_downsample=True,
            node_a="$torch.from_numpy(@arch_ckpt['node_a'])",
        ),
        "inferer": _windows(0.625),
    }


def _write_architecture(path: Path) -> None:
    """A found architecture: 6 blocks, 4 depths, 10 edges between neighbouring depths."""
    rng = np.random.default_rng(0)
    codes = {"arch_code_a": np.ones((6, 10)), "arch_code_c": rng.integers(1, 5, (6, 10)), "node_a": np.ones((7, 4))}
    torch.save(codes, path / "models" / "search_code_18590.pt")


IN_YAML = {"suffix": "yaml", "files": {"configs/dataset_0.json": '{"testing": [{"image": "./case.nii.gz"}]}'}}
SEARCHED = {"prepare": _write_architecture, "pixdim": (1.0, 1.0, 1.0)}


def prostate_mri_anatomy(inverts: bool = True) -> Recipe:
    """UNet; its labels are inverted, not its scores; crops the middle, in the zoo by a program, here by a transform.

    Args:
        inverts: Version 0.3.3 added Invertd; before, the writer itself brought labels back to the native grid.
    """
    key = {"keys": "image"}
    unet = {"channels": [4, 4, 8, 8, 8, 8], "strides": [2] * 5, "num_res_units": 4, "norm": "batch", "act": "prelu"}
    largest = _step("KeepLargestConnectedComponentd", keys="pred", applied_labels=[1, 2])
    back = [_invert("image", **POSTFIX)] if inverts else []
    config = _frame(
        "pandas as pd",
        datalist="$list(@dataset_dir + pd.read_csv(@dataset_dir + 'test.csv').t2)",
        network_def=_step("UNet", spatial_dims=3, in_channels=1, out_channels=3, **unet, dropout=0.15),
        preprocessing=_compose(
            _step("LoadImaged", **key),
            _step("EnsureChannelFirstd", **key),
            _step("Orientationd", **key, axcodes="RAS"),
            _step("scripts.center_crop.MarginCropd", **key, margin=[0.2, 0.2, 0.0]),
            _step("Spacingd", **key, pixdim=[0.5, 0.5, 0.5], mode="bilinear"),
            _step("ScaleIntensityd", **key, minv=0, maxv=1),
            _step("NormalizeIntensityd", **key),
            _step("EnsureTyped", **key),
        ),
        postprocessing=_compose(ARGMAX, largest, *back, {**SAVE_PLAINLY, "resample": not inverts}),
        **BY_HANDLER,
    )
    labels = ("background", "central gland", "peripheral zone")
    files = {"scripts/__init__.py": "", "scripts/center_crop.py": CENTER_CROP}
    mr = {"modality": "MR", "pixdim": (0.5, 0.5, 0.5), "pred": {"format": "labels", "value_range": []}}
    return Recipe(config=config, labels=labels, files=files, **mr)


CENTER_CROP = """
from monai.transforms import Crop, InvertibleTransform, MapTransform


class MarginCropd(MapTransform, InvertibleTransform):
    def __init__(self, keys, margin):
        super().__init__(keys)
        self.margin = margin
        self.crop = Crop()

    def __call__(self, data):
        d = dict(data)
        for key in self.key_iterator(d):
            starts = [int(n * margin) for n, margin in zip(d[key].shape[1:], self.margin)]
            ends = [n - start for n, start in zip(d[key].shape[1:], starts)]
            d[key] = self.crop(d[key], Crop.compute_slices(roi_start=starts, roi_end=ends))
        return d

    def inverse(self, data):
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.crop.inverse(d[key])
        return d
"""


def swin_unetr_btcv_segmentation(**network: Any) -> Recipe:
    """SwinUNETR; read with ITK, weights beside an optimizer's state.

    Args:
        network: More arguments of the network; the zoo's had `img_size`, which MONAI dropped in 1.5.
    """
    organs = "spleen,Right Kidney,Left Kidney,Gallbladder,Esophagus,Liver,Stomach,Aorta,IVC,Veins,Pancreas,Right,Left"
    size = {"spatial_dims": 3, "in_channels": 1, "out_channels": 14, "feature_size": 12, "use_checkpoint": False}
    config = _frame(
        "numpy",
        image_key="image",
        checkpoint="$@bundle_root + '/models/model.pt'",
        network_def=_step("SwinUNETR", **size, **network),
        preprocessing=_read_ct(-175, 250, [1.5, 1.5, 2.0], reader="ITKReader"),
        inferer=_windows(0.5, roi_size=[64, 32, 32]),  # instance norm needs two voxels at the bottom
        postprocessing=_compose(SOFTMAX, _invert(), ARGMAX, SAVE),
        **OUTPUT,
        **{**BY_SECTION, "checkpointloader": {**LOAD_MODEL, "load_path": "$@checkpoint"}},
    )
    return Recipe(
        config=config,
        labels=("background", *organs.split(",")),
        shape=SMALLER,
        checkpoint=lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 12},
    )


def renal_structures_unest_segmentation() -> Recipe:
    """A network out of the bundle's own package `scripts`, which imports its parts from there."""
    config = _frame(
        network_def=_step("scripts.networks.unest.UNesT", in_channels=1, out_channels=4),
        preprocessing=_read_ct(-175, 250, [1.0, 1.0, 1.0], key="image"),
        postprocessing=_compose(SOFTMAX, _invert("image"), ARGMAX, _step("SaveImaged", **TO_OUTPUT)),
        **{**BY_HANDLER_OLD, "handlers": [{**LOAD_MODEL, "strict": "True"}, STATS]},
    )
    packages = {"scripts/__init__.py": "", "scripts/networks/__init__.py": ""}
    files = {**packages, "scripts/networks/unest.py": UNEST, "scripts/networks/nest_transformer_3D.py": NEST}
    labels = ("background", "kidney cortex", "medulla", "pelvicalyceal system")
    return Recipe(config=config, labels=labels, pixdim=(1.0, 1.0, 1.0), files=files)


UNEST = """
from torch import nn

from scripts.networks.nest_transformer_3D import NestTransformer3D


class UNesT(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.nest = NestTransformer3D(in_channels, 8)
        self.out = nn.Conv3d(8, out_channels, 1)

    def forward(self, x):
        return self.out(self.nest(x))
"""

NEST = """
from torch import nn


class NestTransformer3D(nn.Sequential):
    def __init__(self, in_channels, width):
        super().__init__(nn.Conv3d(in_channels, width, 3, padding=1), nn.GELU(), nn.Conv3d(width, width, 3, padding=1))
"""


def whole_brain_seg_large_unest_segmentation() -> Recipe:
    """Modules of the same names as the renal bundle's hold other code; no __init__.py; arguments as words."""
    key = {"keys": "image"}
    network = {"in_channels": 1, "out_channels": 133, "patch_size": 4, "depths": [2, 2], "embed_dim": [8, 16]}
    config = _frame(
        network_def=_step("scripts.networks.unest_base_patch_4.UNesT", **network),
        preprocessing=_compose(
            _step("LoadImaged", **key),
            _step("EnsureChannelFirstd", **key),
            _step("NormalizeIntensityd", **key, nonzero="True", channel_wise="True"),
            _step("EnsureTyped", **key),
        ),
        inferer=_windows(0.7),
        postprocessing=_compose(SOFTMAX, _invert("image", **POSTFIX), ARGMAX, SAVE_PLAINLY),
        **{**BY_HANDLER_OLD, "handlers": [{**LOAD_MODEL, "strict": "True"}, STATS]},
    )
    labels = ("background", *(f"region {index}" for index in range(1, 133)))
    networks = {"unest_base_patch_4.py": UNEST_BASE, "nest_transformer_3D.py": NEST_BASE}
    files = {f"scripts/networks/{name}": code for name, code in networks.items()}
    return Recipe(config=config, labels=labels, modality="MR", pixdim=(1.0, 1.0, 1.0), files=files)


UNEST_BASE = """
from torch import nn

from scripts.networks.nest_transformer_3D import NestTransformer3D


class UNesT(nn.Module):
    def __init__(self, in_channels, out_channels, patch_size, depths, embed_dim):
        super().__init__()
        self.nestViT = NestTransformer3D(in_channels, patch_size, embed_dim, depths)
        self.decoder = nn.Upsample(scale_factor=patch_size, mode="trilinear")
        self.out = nn.Conv3d(embed_dim[-1], out_channels, 3, padding=1)

    def forward(self, x):
        return self.out(self.decoder(self.nestViT(x)))
"""

NEST_BASE = """
from torch import nn


class NestTransformer3D(nn.Module):
    def __init__(self, in_channels, patch_size, embed_dim, depths):
        super().__init__()
        self.patch_embed = nn.Conv3d(in_channels, embed_dim[0], patch_size, stride=patch_size)
        widths = zip((embed_dim[0], *embed_dim), embed_dim)
        self.levels = nn.Sequential(*(nn.Conv3d(one, other, 3, padding=1) for one, other in widths))

    def forward(self, x):
        return self.levels(self.patch_embed(x).tanh()).tanh()
"""


def pediatric_abdominal_ct_segmentation(has_table: bool = True) -> Recipe:
    """DynUNet on the body cropped out of the air; weights of another name, a helper imported for its own sake.

    Args:
        has_table: With labels.tsv; the zoo's has none, and `label_def`, which is not of the format, in its metadata.
    """
    key = {"keys": "@image_key"}
    last, weights = [2, 2, 1], "dynunet_FT.pt"
    read = _read_ct(-250, 400, [1.5, 1.5, 3.0], reader="ITKReader")["transforms"][:-1]
    crop = _step("CropForegroundd", keys=["@image_key"], source_key="@image_key", mode=["minimum"])
    config = _frame(
        "scripts.monai_utils",
        workflow_type="inference",
        input_channels=1,
        output_channels=4,
        spatial_size=[96, 96, 96],
        spatial_dims="$len(@spatial_size)",
        labels={"background": 0, "liver": 1, "spleen": 2, "pancreas": 3},
        image_key="image",
        network_def=_step(
            "monai.networks.nets.DynUNet",
            spatial_dims="@spatial_dims",
            in_channels="@input_channels",
            out_channels="@output_channels",
            kernel_size=[3] * 6,
            strides=[1, 2, 2, 2, 2, last],
            upsample_kernel_size=[2, 2, 2, 2, last],
            filters=[4, 4, 8, 8, 8, 8],
            norm_name="instance",
            deep_supervision=False,
            res_block=True,
        ),
        preprocessing=_compose(
            *read, crop, _step("EnsureTyped", **key), _step("CastToTyped", **key, dtype="$torch.float32")
        ),
        inferer=_windows(0.75),
        postprocessing=_compose(
            SOFTMAX,
            _invert("image", **POSTFIX),
            ARGMAX,
            {**SAVE_PLAINLY, "separate_folder": False, "output_dtype": "$torch.int16"},
        ),
        **{**BY_HANDLER, "handlers": [{**LOAD_MODEL, "load_path": f"$@bundle_root + '/models/{weights}'"}, STATS]},
        data_list_file_path="$@bundle_root + '/configs/dataset_0.json'",
    )
    labels = ("background", "liver", "spleen", "pancreas")
    named = {"channel_def": None, "label_def": {str(index): name for index, name in enumerate(labels)}}
    table = "".join(f"{index}\t{name}\n" for index, name in enumerate(labels))
    files = {"scripts/__init__.py": "", "scripts/monai_utils.py": "import logging\n"}
    files |= {"labels.tsv": f"index\tname\n{table}"} if has_table else {}
    return Recipe(
        config=config, labels=labels, suffix="yaml", pixdim=(1.5, 1.5, 3.0), weights=weights, pred=named, files=files
    )


def vista3d() -> Recipe:
    """A network made by an expression, a list of steps by a name, an inferer of the bundle's own; without prompts."""
    key = {"keys": "@image_key"}
    config = _frame(
        *("scripts", "numpy", "numpy as np", "copy", "json", "pathlib"),
        image_key="image",
        metadata_path="$@bundle_root + '/configs/metadata.json'",
        metadata="$json.loads(pathlib.Path(@metadata_path).read_text())",
        labels_dict="$@metadata['network_data_format']['outputs']['pred']['channel_def']",
        input_channels=1,
        resample_spacing=[1.5, 1.5, 1.5],
        patch_size=[32, 32, 32],
        network_def="$monai.networks.nets.SegResNet(spatial_dims=3, in_channels=@input_channels, init_filters=8, "
        "out_channels=len(@labels_dict))",
        preprocessing_transforms=[
            _step("LoadImaged", **key, image_only=True),
            _step("EnsureChannelFirstd", **key),
            _step("EnsureTyped", **key, device="@device", track_meta=True),
            _step("Spacingd", **key, pixdim="@resample_spacing", mode="bilinear"),
            _step("CropForegroundd", **key, allow_smaller=True, margin=10, source_key="@image_key"),
            _step("ScaleIntensityRanged", **key, a_min=-963.8, a_max=1053.7, b_min=0, b_max=1, clip=True),
            _step("Orientationd", **key, axcodes="RAS"),
            _step("CastToTyped", **key, dtype="$torch.float32"),
        ],
        preprocessing=_step("Compose", transforms="$@preprocessing_transforms "),
        inferer=_step("scripts.inferer.Vista3dInferer", roi_size="@patch_size", overlap=0.3, sw_batch_size=1),
        postprocessing=_compose(
            _step("ToDeviced", keys="pred", device="cpu", _disabled_=True),
            ARGMAX,
            _invert(nearest=True),
            _step("Lambdad", keys="pred", func="$lambda x: torch.nan_to_num(x, nan=255)"),
            {**SAVE, "resample": False},
        ),
        **OUTPUT,
        **{**BY_SECTION, "checkpointloader": {**LOAD_MODEL, "map_location": "@device"}},
    )
    labels = ("background", *(f"organ {index}" for index in range(1, 10)))
    files = {"scripts/__init__.py": "from .inferer import Vista3dInferer\n", "scripts/inferer.py": VISTA_INFERER}
    return Recipe(config=config, labels=labels, pixdim=(1.5, 1.5, 1.5), shape=SMALLER, files=files)


VISTA_INFERER = """
from monai.inferers import Inferer, sliding_window_inference


class Vista3dInferer(Inferer):
    def __init__(self, roi_size, overlap, sw_batch_size):
        super().__init__()
        self.how = {"roi_size": roi_size, "overlap": overlap, "sw_batch_size": sw_batch_size}

    def __call__(self, inputs, network, *args, **kwargs):
        return sliding_window_inference(inputs, predictor=network, **self.how, **kwargs)
"""


def segmentation_template() -> Recipe:
    """The zoo's own template: no resampling, so nothing to invert; keys by expressions; the whole volume at once."""
    key = {"keys": "@image"}
    steps = (_step("LoadImaged", **key, image_only=True), _step("EnsureChannelFirstd", **key))
    settings = {"dtype": "$None", "output_dtype": "$None", "output_postfix": "", "resample": False}
    unet = {"channels": [4, 4, 8, 8], "strides": [2, 2, 2], "num_res_units": 2}
    config = _frame(
        image="$monai.utils.CommonKeys.IMAGE",
        pred="$monai.utils.CommonKeys.PRED",
        num_classes=4,
        ckpt_path="$@bundle_root + '/models/model.pt'",
        datalist="$list(sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*'))))",
        data_dicts="$[{@image:i} for i in @datalist]",
        dataset=_step("Dataset", data="@data_dicts", transform="@preprocessing"),
        dataloader=_step("ThreadDataLoader", dataset="@dataset", batch_size=1, num_workers=0),
        network_def=_step("UNet", spatial_dims=3, in_channels=1, out_channels="@num_classes", **unet),
        transforms=[*steps, _step("ScaleIntensityd", **key)],
        preprocessing=_step("Compose", transforms="$@transforms"),
        inferer=_step("SimpleInferer"),
        postprocessing=_compose(
            {**SOFTMAX, "keys": "@pred"}, {**ARGMAX, "keys": "@pred"}, {**SAVE_PLAINLY, "keys": "@pred", **settings}
        ),
        handlers=[
            {**LOAD_MODEL, "load_path": "@ckpt_path", "_disabled_": "$not os.path.exists(@ckpt_path)"},
            _step("StatsHandler", name=None, output_transform="$lambda x: None"),
        ],
        run=["$@evaluator.run()"],
    )
    labels = ("background", "category 1", "category 2", "category 3")
    return Recipe(config=config, labels=labels, modality="MR", shape=(32, 40, 24), suffix="yaml")


def ventricular_short_axis_3label() -> Recipe:
    """A 2D UNet, slice after slice."""
    key = {"keys": "image"}
    unet = {"channels": [4, 4, 8, 8, 8], "strides": [2, 2, 2, 2], "num_res_units": 2}
    config = _frame(
        network_def=_step("UNet", spatial_dims=2, in_channels=1, out_channels=4, **unet),
        preprocessing=_compose(
            _step("LoadImaged", **key, image_only=False),
            _step("EnsureChannelFirstd", **key),
            _step("ScaleIntensityd", **key),
            _step("EnsureTyped", **key, device="@device"),
        ),
        inferer=_step("SliceInferer", roi_size=[64, 64], spatial_dim=2),
        postprocessing=_compose(SOFTMAX, _invert("image", **POSTFIX), ARGMAX, SAVE_PLAINLY),
        **BY_HANDLER_OLD,
    )
    labels = ("background", "lv_pool", "myocardium", "rv_pool")
    return Recipe(config=config, labels=labels, modality="MR", pred={"spatial_shape": [256, 256]})


def brats_mri_segmentation() -> Recipe:
    """Four aligned series as channels, three overlapping labels."""
    network = {"in_channels": 4, "out_channels": 3, "init_filters": 8, "dropout_prob": 0.2}
    to_labels = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    config = _frame(
        amp=True,
        network_def=_step("SegResNet", **network, blocks_down=[1, 2, 2, 4], blocks_up=[1, 1, 1]),
        preprocessing=_compose(
            _step("LoadImaged", keys="image", image_only=False),
            _step("NormalizeIntensityd", keys="image", nonzero=True, channel_wise=True),
        ),
        postprocessing=_compose(
            _step("Activationsd", keys="pred", sigmoid=True),
            _invert("image", meta_keys="pred_meta_dict"),
            _step("AsDiscreted", keys="pred", threshold=0.5),
            _step("Lambdad", keys="pred", func=to_labels),
            {**SAVE_PLAINLY, "output_dtype": "uint8", "resample": False, "squeeze_end_dims": True},
        ),
        **BY_HANDLER,
    )
    return Recipe(config=config, labels=("Tumor core", "Whole tumor", "Enhancing tumor"), modality="MR", n_inputs=4)


def renal_structures_cect_segmentation() -> Recipe:
    """Three phases of one scan, put together by a transform of the bundle's own."""
    phases = {"keys": ["artery", "vein", "excret"]}
    network = {"in_channels": 3, "out_channels": 6, "init_filters": 8, "upsample_mode": "deconv"}
    config = _frame(
        network_def=_step("SegResNet", **network, blocks_down=[1, 2, 2, 4], blocks_up=[1, 1, 1]),
        preprocessing=_compose(
            _step("LoadImaged", **phases),
            _step("EnsureChannelFirstd", **phases),
            _step("Orientationd", **phases, axcodes="LPS"),
            _step("Spacingd", **phases, pixdim=[0.8, 0.8, 0.8], mode="bilinear"),
            _step("scripts.my_transforms.ConcatImages", keys_merge=phases["keys"], keys_out="image"),
            _step("ScaleIntensityRanged", keys="image", a_min=-1000, a_max=1000, b_min=0.0, b_max=1.0, clip=True),
        ),
        postprocessing=_compose(SOFTMAX, _invert("artery"), ARGMAX, SAVE_PLAINLY),
        **BY_HANDLER_OLD,
    )
    return Recipe(config=config, labels=("background", "artery", "vein", "ureter", "neoplasm", "cyst"), n_inputs=3)


def spleen_deepedit_annotation() -> Recipe:
    """Guided by clicks, which are channels beside the image; their number is an expression."""
    key = {"keys": "@image_key"}
    clicks = {"guidance": "guidance", "ref_image": "@image_key"}
    config = _frame(
        "ignite",
        image_key="image",
        label_names={"spleen": 1, "background": 0},
        number_intensity_ch=1,
        network_def=_step(
            "DynUNet",
            spatial_dims=3,
            in_channels="$len(@label_names) + @number_intensity_ch",
            out_channels="$len(@label_names)",
            kernel_size=[3] * 6,
            strides=[1, 2, 2, 2, 2, [2, 2, 1]],
            upsample_kernel_size=[2, 2, 2, 2, [2, 2, 1]],
        ),
        preprocessing_transforms=[_step("LoadImaged", **key), _step("EnsureChannelFirstd", **key)],
        deepedit_transforms=[
            _step("AddGuidanceFromPointsDeepEditd", **clicks, label_names="@label_names"),
            _step("AddGuidanceSignalDeepEditd", **key, guidance="guidance", number_intensity_ch="@number_intensity_ch"),
        ],
        preprocessing=_step("Compose", transforms="$@preprocessing_transforms + @deepedit_transforms"),
        inferer=_step("SimpleInferer"),
        postprocessing=_compose(SOFTMAX, _invert(**POSTFIX), ARGMAX, SAVE_PLAINLY),
        **BY_HANDLER,
    )
    return Recipe(config=config, labels=("background", "spleen"), n_inputs=3)


def lung_nodule_ct_detection() -> Recipe:
    """Boxes, no labels."""
    config = _frame(
        whether_raw_luna16=False,
        network_def=_step("RetinaNet", spatial_dims=3, num_classes=1, num_anchors=3, feature_extractor="@extractor"),
        preprocessing=_compose(
            _step("LoadImaged", keys="image", _disabled_="@whether_raw_luna16"),
            _step("EnsureChannelFirstd", keys="image"),
        ),
        inferer=_step("scripts.detection_inferer.RetinaNetInferer", detector="@detector"),
        postprocessing=_compose(_step("ClipBoxToImaged", box_keys="box", label_keys="label")),
        **BY_HANDLER_OLD,
    )
    boxes = {"type": "object", "format": "dict", "num_channels": 1, "channel_def": None}
    return Recipe(config=config, labels=(), pred=boxes)
