"""The peers of `bench_inference`, each in a process of its own: DICOM folders to masks with one bundle.

  written   the bundle's transforms as MONAI runs them: softmax of all classes back to the native grid, then argmax
  thrifty   argmax on the network's grid, then the nearest label on the native grid
  nnunet    nnU-Net's predictor on the array that MONAI prepared, nnU-Net's resampling of logits, argmax

    python -m benchmarks.peer_inference SYSTEM BUNDLE OUT FOLDER [FOLDER ...] [--device cpu] [--windows 1] [--amp off]

Prints one line of JSON, and keeps it as OUT/figures.json beside a mask for each folder.
"""

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
)

FIGURES = "figures.json"
STARTED = "BENCH_STARTED"
"""Environment variable: Unix seconds at which the process was started."""


@dataclass(slots=True, kw_only=True)
class Meter:
    """Seconds by stage, and what the network was given."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    amp: bool = False
    windows: int = 0
    forward_seconds: float = 0.0
    since: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what happens within to a stage."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - start

    def watch(self, network: torch.nn.Module) -> None:
        """Count windows; time forward passes on the CPU, where nothing runs behind them."""
        network.register_forward_pre_hook(self._before)
        network.register_forward_hook(self._behind)

    def _before(self, _network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.windows += inputs[0].shape[0]
        self.since = time.perf_counter()

    def _behind(self, *_: Any) -> None:
        if self.device.type == "cpu":
            self.forward_seconds += time.perf_counter() - self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A bundle opened for use; `prepare` has no reader and `restore` no writer."""

    network: torch.nn.Module
    read: Compose
    prepare: Compose
    inferer: Inferer
    restore: Compose
    write: SaveImaged


def main() -> None:
    """Segment every folder."""
    import_seconds = time.time() - float(os.environ.get(STARTED, time.time()))
    arguments = _parser().parse_args()
    meter = Meter(device=torch.device(arguments.device))
    meter.seconds["import"] = import_seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.system == "nnunet":
        with meter.stage("import"):
            import nnunetv2.inference.predict_from_raw_data
            import nnunetv2.preprocessing.resampling.default_resampling  # noqa: F401
    with meter.stage("open"):
        parts = open_bundle(arguments.bundle, arguments.out, meter.device, arguments.windows, arguments.system)
        meter.watch(parts.network)
        meter.amp = arguments.amp == "bf16"
    run: Callable[[Path, Parts, Meter, Path], None] = nnunet if arguments.system == "nnunet" else monai
    for folder in arguments.folders:
        run(folder, parts, meter, arguments.out)
    publish(meter, arguments.out)


def open_bundle(bundle: Path, out: Path, device: torch.device, windows: int, system: str) -> Parts:
    """Network with weights, and the bundle's transforms in parts."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["inferer#sw_batch_size"] = windows
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu", weights_only=True))
    before = parser.get_parsed_content("preprocessing").transforms
    readers = [step for step in before if isinstance(step, LoadImaged | EnsureChannelFirstd)]
    prepare = Compose([step for step in before if step not in readers])
    back = Invertd(
        keys="pred", transform=prepare, orig_keys="image", nearest_interp=system == "thrifty", to_tensor=True
    )
    softmax, argmax = Activationsd(keys="pred", softmax=True), AsDiscreted(keys="pred", argmax=True)
    return Parts(
        network=network.to(device).eval(),
        read=Compose(readers),
        prepare=prepare,
        inferer=parser.get_parsed_content("inferer"),
        restore=Compose([argmax, back] if system == "thrifty" else [softmax, back, argmax]),
        write=SaveImaged(keys="pred", output_dir=str(out), output_dtype=np.uint8, output_postfix="seg",
                         separate_folder=False, print_log=False),
    )  # fmt: skip


def monai(folder: Path, parts: Parts, meter: Meter, out: Path) -> None:
    """One series as a MONAI script does it."""
    with meter.stage("load"):
        data = parts.read({"image": str(folder)})
    with meter.stage("preprocess"):
        data = parts.prepare(data)
    with torch.inference_mode():
        # as MONAI's own evaluators do it: around the inferer alone
        with meter.stage("network"), torch.autocast(meter.device.type, dtype=torch.bfloat16, enabled=meter.amp):
            data["pred"] = parts.inferer(data["image"][None].to(meter.device), parts.network)[0]
        with meter.stage("restore"):
            data = parts.restore(data)
    with meter.stage("write"):
        parts.write(data)
        (out / f"{folder.name}_seg.nii.gz").rename(mask_of(out, folder))


def nnunet(folder: Path, parts: Parts, meter: Meter, out: Path) -> None:
    """One series as nnU-Net does it from the prepared array on."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    with meter.stage("load"):
        data = parts.read({"image": str(folder)})
    with meter.stage("preprocess"):
        image, native = _prepared(data["image"], parts.prepare)
    with meter.stage("network"), torch.inference_mode():
        predictor = nnUNetPredictor(
            tile_step_size=1 - float(np.max(parts.inferer.overlap)), use_gaussian=True, use_mirroring=False,
            perform_everything_on_device=False, device=meter.device, allow_tqdm=False,
        )  # fmt: skip
        predictor.network = parts.network
        predictor.configuration_manager = SimpleNamespace(patch_size=tuple(parts.inferer.roi_size))
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=_n_classes(parts.network))
        logits = predictor.predict_sliding_window_return_logits(image.as_tensor())
    with meter.stage("restore"):  # the arguments are those that nnU-Net's planner writes for probabilities
        logits = resample_data_or_seg_to_shape(
            logits, native.shape[1:], image.pixdim.numpy(), native.pixdim.numpy(),
            is_seg=False, order=1, order_z=0, force_separate_z=None,
        )  # fmt: skip
        labels = torch.from_numpy(logits).argmax(0).to(torch.uint8).numpy()
    with meter.stage("write"):
        nib.save(nib.Nifti1Image(labels, native.affine.numpy()), mask_of(out, folder))


def mask_of(out: Path, folder: Path) -> Path:
    """Where the mask of a series folder goes; folders of several studies may have one name."""
    return out / f"{folder.parent.name}_{folder.name}.nii.gz"


def publish(meter: Meter, out: Path) -> None:
    """Say what was measured."""
    cuda = meter.device.type == "cuda"
    content = {
        "stages": dict(meter.seconds),
        "windows": meter.windows,
        "forward_seconds": meter.forward_seconds,
        "high_water_mb": peak_rss_mb(),
        "peak_device_mb": torch.cuda.max_memory_allocated(meter.device) / 2**20 if cuda else 0.0,
    }
    (out / FIGURES).write_text(json.dumps(content))
    print(json.dumps(content))


def peak_rss_mb() -> float:
    """Largest resident memory of this process in MiB; ru_maxrss would count the parent's, as the kernel hands it on."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def _prepared(image: MetaTensor, prepare: Compose) -> tuple[MetaTensor, MetaTensor]:
    """The image for the network, and the one on native voxels along the same axes."""
    native = image
    for step in prepare.transforms:
        image = step({"image": image})["image"]
        if isinstance(step, Orientationd):
            native = image
    return image, native


def _n_classes(network: torch.nn.Module) -> int:
    return int(network.out_channels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=("written", "thrifty", "nnunet"))
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("folders", type=Path, metavar="FOLDER", nargs="+")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--windows", type=int, default=1, help="windows a batch")
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="precision of the network")
    return parser


if __name__ == "__main__":
    main()
