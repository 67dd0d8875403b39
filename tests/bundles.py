"""Small bundles for tests: a tiny network behind the transforms that most bundles have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet

WINDOW = (16, 16, 16)

NETWORK: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
    "norm": "instance",
}


def needs_bfloat16() -> None:
    """Skip where OpenVINO is missing, or computes in float32 whatever is asked for."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")


def write_bundle(path: Path, *, activation: str = "softmax", seed: int = 0, **metadata: object) -> Path:
    """A bundle of three classes with random weights; further entries of its metadata by name."""
    channels = {"0": "background", "1": "core", "2": "rim"}
    tensors = {
        "inputs": {"image": {"type": "image", "num_channels": 1, "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"type": "image", "num_channels": 3, "channel_def": channels}},
    }
    for folder in ("configs", "models"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    content = {"version": "0.1.0", "network_data_format": tensors, **metadata}
    (path / "configs" / "metadata.json").write_text(json.dumps(content))
    (path / "configs" / "inference.json").write_text(json.dumps(_inference(activation)))
    torch.save(random_network(seed).state_dict(), path / "models" / "model.pt")
    return path


def random_network(seed: int, **changes: Any) -> torch.nn.Module:
    """The network of the config, weights drawn from a seed and widened so that every class occurs."""
    torch.manual_seed(seed)
    arguments = {key: value for key, value in {**NETWORK, **changes}.items() if key != "_target_"}
    network = UNet(**arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; a key a__b names b within a."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(content))


def _inference(activation: str) -> dict[str, Any]:
    finish = {"argmax": True} if activation == "softmax" else {"threshold": 0.5}
    return {
        "network_def": NETWORK,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "NormalizeIntensityd", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(WINDOW), "overlap": 0.25},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", activation: True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
                 "nearest_interp": False},
                {"_target_": "AsDiscreted", "keys": "pred", **finish},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "eval"},
            ],
        },
    }  # fmt: skip
