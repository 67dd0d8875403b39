"""A torch network turned into another backend's in memory, for windows of one shape on the CPU."""

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends import onnxruntime, openvino
from imaging_pipeline.segment.backends.network import Network, full_resolution
from imaging_pipeline.segment.backends.state_dict import TorchNetwork

_CONVERT: Mapping[str, Callable[[torch.nn.Module, torch.Tensor, torch.dtype], Network]] = {
    "openvino": openvino.convert,
    "onnxruntime": onnxruntime.convert,
}


def live_backends() -> tuple[str, ...]:
    """Names of the backends that a torch network can be turned into here, the likely fastest first."""
    found = {"openvino": openvino.is_available(), "onnxruntime": onnxruntime.is_available() and _writes_onnx()}
    return tuple(name for name, is_there in found.items() if is_there)


def live_network(
    network: TorchNetwork, backend: str, size: tuple[int, int, int, int], dtype: torch.dtype = torch.float32
) -> Network:
    """Turn a torch network into another backend's; the torch network stays as it is.

    Args:
        network: On the CPU.
        backend: openvino or onnxruntime.
        size: (C, I, J, K) of a window; the new network takes any number of windows, all of this size.
        dtype: What layers compute in where the backend and the processor can; scores are float32.

    Raises:
        PipelineError: `extra-missing` without the packages, `model-invalid` where the backend lacks an operator.
    """
    if backend not in live_backends():
        extra = {"openvino": openvino.EXTRA, "onnxruntime": onnxruntime.EXTRA}.get(backend, backend)
        raise PipelineError(
            Code.EXTRA_MISSING,
            f"a state dict cannot be run by {backend} without its packages",
            f"pip install 'imaging-pipeline[{extra}]'",
        )
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of every branch on a shape, and the shape is fixed
            return _CONVERT[backend](_OneOutput(network.module).eval(), torch.zeros(1, *size), dtype)
    except Exception as error:  # converters raise whatever their parsers do, classes of their own among it
        text = " ".join(str(error).split())[:200]
        raise PipelineError(
            Code.MODEL_INVALID,
            f"the network cannot be run by {backend}: {type(error).__name__}: {text}",
            "leave models.backend at auto, or set it to torch",
        ) from None


class _OneOutput(torch.nn.Module):
    """A module without its outputs of lower resolution."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return full_resolution(self.module(windows))


def _writes_onnx() -> bool:
    return all(find_spec(name) is not None for name in ("onnx", "onnxscript"))
