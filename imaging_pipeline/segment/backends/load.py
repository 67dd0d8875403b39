"""One function for every form of weights."""

from pathlib import Path
from types import ModuleType
from typing import cast

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends import export, onnxruntime, openvino, state_dict, torchscript
from imaging_pipeline.segment.backends.network import Backend, Build, Network
from imaging_pipeline.segment.weights import SUFFIXES

_BACKENDS: dict[str, ModuleType] = {
    "torchscript": torchscript,
    "export": export,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def load_network(path: Path, device: torch.device, build: Build | None = None, backend: str = "auto") -> Network:
    """Open a weight file as a network on a device.

    Args:
        path: `.pt` state dict, `.ts` TorchScript, `.pt2` torch.export, `.onnx`, or OpenVINO's `.xml`.
        device: Where it is to run.
        build: Makes the network that a state dict belongs to; the other forms bring their own.
        backend: torch, torchscript, export, onnxruntime, openvino; auto goes by the ending.

    Returns:
        The network, for inference only.

    Raises:
        PipelineError: `extra-missing` names what to install; `weights-unsafe` for a file that holds code or no
            network, `weights-mismatch` for a state dict of another network, `device-not-found` for a backend that
            does not run on the device.
    """
    if backend == "auto":
        backend = next((name for name, suffixes in SUFFIXES.items() if path.suffix in suffixes), "")
    if backend == "torch":
        return state_dict.load(path, device, build)
    if backend not in _BACKENDS:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"{path.name} has an ending that no backend opens",
            f"known: {', '.join(dict.fromkeys(suffix for suffixes in SUFFIXES.values() for suffix in suffixes))}",
        )
    chosen = _backend(backend)
    if not chosen.is_available():
        raise PipelineError(
            Code.EXTRA_MISSING,
            f"{path.name} needs {backend}, which is not installed",
            f"pip install 'imaging-pipeline[{chosen.EXTRA}]'",
        )
    return chosen.load(path, device)


def available_backends() -> tuple[str, ...]:
    """Names of the backends whose packages are installed."""
    return ("torch", *(name for name in _BACKENDS if _backend(name).is_available()))


def _backend(name: str) -> Backend:
    return cast(Backend, _BACKENDS[name])
