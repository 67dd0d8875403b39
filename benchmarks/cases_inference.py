"""What `bench_inference` works on: synthetic CT as DICOM, bundles of random weights, and the default model's crops."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import UNet
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import ROOT
from sample_data.anatomy import slices
from sample_data.ct_spec import CtSpec
from sample_data.phantom import write_ct

WINDOW = (96, 96, 96)
OVERLAP = 0.25
HU_RANGE = (-175.0, 250.0)
NETWORK: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "channels": [16, 32, 64, 128, 256],
    "strides": [2, 2, 2, 2],
    "num_res_units": 2,
    "norm": "batch",
}
CROPS = ROOT.parent / "shared" / "data" / "hippocrop_dicom" / "dicom"
CROPS_NAME = "hippocampus"
NOISE_HU = 20.0
SEED = 0
SHORTCUT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSpec:
    """A synthetic CT of 1 mm voxels and what a network makes of it.

    Attributes:
        shape: Rows, columns, slices.
        grid_mm: Voxel size that the network sees.
        n_classes: Channels that the network gives, background included.
    """

    shape: tuple[int, int, int]
    grid_mm: float
    n_classes: int

    @property
    def name(self) -> str:
        """What the command line and the table call it."""
        return f"ct{self.shape[2]}-{self.grid_mm:g}mm-{self.n_classes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case on disk.

    Attributes:
        bundle: Folder of the model.
        study: What `imaging_pipeline` is pointed at.
        series: Series Instance UID (0020,000E) of each volume to its folder, which a plain script must be handed.
        n_slices: Of all series.
        n_classes: Channels that the network gives.
        native_voxels: Of the largest series.
        grid_voxels: Of the largest series on the network's grid, at least one window.
    """

    name: str
    bundle: Path
    study: Path
    series: Mapping[str, Path]
    n_slices: int
    grid_mm: float
    n_classes: int
    native_voxels: int
    grid_voxels: int


QUICK = CaseSpec(shape=(256, 256, 60), grid_mm=3.0, n_classes=14)
CASES = tuple(
    CaseSpec(shape=(512, 512, n), grid_mm=grid_mm, n_classes=n_classes)
    for n, grid_mm, n_classes in itertools.product((120, 400), (3.0, 1.5), (2, 14, 104))
)


def make_case(spec: CaseSpec, scratch: Path) -> Case:
    """Write CT and bundle of a case; a CT that is there already is used again."""
    study = scratch / ("ct_" + "x".join(map(str, spec.shape)))
    if not study.is_dir():
        write_ct(_ct(spec.shape, 1.0), study / "series")
    edges = [max(round(n / spec.grid_mm), window) for n, window in zip(spec.shape, WINDOW, strict=True)]
    return Case(
        name=spec.name,
        bundle=write_bundle(scratch / "models" / spec.name, spec.n_classes, spec.grid_mm),
        study=study,
        series=_series(study),
        n_slices=spec.shape[2],
        grid_mm=spec.grid_mm,
        n_classes=spec.n_classes,
        native_voxels=int(np.prod(spec.shape)),
        grid_voxels=int(np.prod(edges)),
    )


def hippocampus_case() -> Case:
    """The default model on six real crops.

    Raises:
        FileNotFoundError: The data collection is not beside the checkout.
    """
    if not CROPS.is_dir():
        raise FileNotFoundError(f"no crops at {CROPS}")
    series = _series(CROPS)
    files = [len(list(folder.iterdir())) for folder in series.values()]
    return Case(
        name=CROPS_NAME,
        bundle=ROOT / "models" / "hippocampus_mr",
        study=CROPS,
        series=series,
        n_slices=sum(files),
        grid_mm=1.0,
        n_classes=3,
        native_voxels=64**3,  # more than any crop has
        grid_voxels=64**3,
    )


def write_bundle(path: Path, n_classes: int, grid_mm: float) -> Path:
    """A MONAI bundle of a UNet with random weights, and the transforms that CT bundles have."""
    for folder in ("configs", "models"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    names = {index: "background" if index == 0 else f"structure {index}" for index in range(n_classes)}
    image = {"type": "image", "num_channels": 1, "channel_def": {"0": "image"}}
    pred = {"type": "image", "num_channels": n_classes, "channel_def": names}
    metadata = {"version": "0.1.0", "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}
    (path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (path / "configs" / "inference.json").write_text(json.dumps(_inference(n_classes, grid_mm), indent=2))
    lines = ["index\tname", *(f"{index}\t{name}" for index, name in names.items() if index)]
    (path / "labels.tsv").write_text("\n".join(lines) + "\n")
    torch.save(random_network(n_classes).state_dict(), path / "models" / "model.pt")
    return path


def random_network(n_classes: int) -> torch.nn.Module:
    """The network with weights drawn from a seed, of which labels form regions, as those of a trained one do.

    Plain random weights give noise: another class at every voxel. So the transposed convolutions interpolate, the
    shortcuts weigh a tenth, batch norm takes its statistics from a CT window, and the last bias brings all classes to
    the same mean there. The arithmetic is that of any weights.
    """
    torch.manual_seed(SEED)
    network = UNet(out_channels=n_classes, **{key: value for key, value in NETWORK.items() if key != "_target_"})
    window = _window()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.ConvTranspose3d):
                _interpolate(module.weight)
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        network.train()(window)
        means = network.eval()(window).mean((0, 2, 3, 4))
        last = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)][-1]
        assert last.bias is not None
        last.bias -= means
    return network


def _interpolate(weight: torch.Tensor) -> None:
    """Fill the weight of a transposed convolution (in, out, 3, 3, 3) of stride 2: linear between voxels."""
    n_in, n_out = weight.shape[:2]
    edge = torch.tensor([0.5, 1.0, 0.5])
    weight.copy_(torch.randn(n_in, n_out, 1, 1, 1) / n_in**0.5 * torch.einsum("i,j,k->ijk", edge, edge, edge))
    weight[: n_in // 2] *= SHORTCUT


def flops_of(bundle: Path) -> int:
    """Floating-point operations of a bundle's network on one window, two for a multiplication with its addition."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def").to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.empty((1, 1, *parser["inferer#roi_size"]), device="meta"))
    return int(counter.get_total_flops())


def _ct(shape: tuple[int, int, int], spacing_mm: float) -> CtSpec:
    first = [-(n - 1) * spacing_mm / 2 for n in shape]
    return CtSpec(
        shape=shape,
        spacing_mm=(spacing_mm, spacing_mm, spacing_mm),
        origin_mm=(first[1], first[0], first[2]),
        signed=True,
        intercept=0.0,
        noise_sd=NOISE_HU,
        seed=SEED,
    )


def _window() -> torch.Tensor:
    """The middle of a body on a grid of 3 mm, scaled as the bundles do."""
    planes = np.stack([plane[37:133, 37:133] for plane in slices(_ct((170, 170, WINDOW[2]), 3.0))])
    low, high = HU_RANGE
    scaled = (torch.from_numpy(planes).float() - low) / (high - low)
    return scaled.clamp(0, 1)[None, None]


def _series(study: Path) -> dict[str, Path]:
    """Series of a tree that has a folder for each."""
    firsts = {path.parent: path for path in sorted(study.rglob("*"), reverse=True) if path.is_file()}
    return {
        str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID): folder
        for folder, path in sorted(firsts.items())
    }


def _inference(n_classes: int, grid_mm: float) -> dict[str, Any]:
    low, high = HU_RANGE
    before = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [grid_mm] * 3, "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, "b_min": 0, "b_max": 1,
         "clip": True},
    ]  # fmt: skip
    behind = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
         "nearest_interp": False, "to_tensor": True},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "eval"},
    ]  # fmt: skip
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": list(WINDOW), "sw_batch_size": 4, "overlap": OVERLAP,
               "mode": "gaussian"}  # fmt: skip
    return {
        "network_def": {**NETWORK, "out_channels": n_classes},
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": behind},
    }
