"""ONNX files, or torch modules, by onnxruntime."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends.network import Network, unreadable

EXTRA = "onnx"


def is_available() -> bool:
    """Whether onnxruntime is installed."""
    return find_spec("onnxruntime") is not None


def load(path: Path, device: torch.device) -> Network:
    """Open the file with the provider for the device, on as many threads as torch has.

    Raises:
        PipelineError: `weights-unsafe` for a file that is no ONNX model, `device-not-found` where this onnxruntime has
            no CUDA.
    """
    import onnxruntime

    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise PipelineError(
            Code.DEVICE_NOT_FOUND, f"onnxruntime {onnxruntime.__version__} has no CUDA", "pip install onnxruntime-gpu"
        )
    faults: tuple[type[Exception], ...] = (RuntimeError, ValueError, OSError, *_own_faults())
    try:
        return _OnnxNetwork(_session(str(path), _on(provider, device)))
    except faults as error:
        raise unreadable(path, error) from None


def convert(module: torch.nn.Module, window: torch.Tensor, _dtype: torch.dtype) -> Network:
    """Run a torch module on the CPU, for windows of one shape, without a file, in float32 whatever is asked for.

    Args:
        module: Gives one tensor.
        window: (1, C, I, J, K) example; only windows of this shape can be run, any number of them.
    """
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    program = torch.onnx.export(module, (window,), dynamo=True, verbose=False)
    assert program is not None
    return _SingleWindows(_OnnxNetwork(_session(program.model_proto.SerializeToString(), "CPUExecutionProvider")))


class _OnnxNetwork:
    """A session of onnxruntime; windows and scores stay on the device."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        (scores,) = self._session.run([self._output], {self._input: windows.float().contiguous().cpu().numpy()})
        return torch.from_numpy(scores).to(windows.device)


class _SingleWindows:
    """A network that takes one window at a time."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        scores = [self._network(window[None]) for window in windows]
        return scores[0] if len(scores) == 1 else torch.cat(scores)


def _session(model: str | bytes, provider: Any) -> Any:
    """A session over a file's name, or the content of one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=[provider])


def _on(provider: str, device: torch.device) -> Any:
    return (provider, {"device_id": device.index or 0}) if device.type == "cuda" else provider


def _own_faults() -> tuple[type[Exception], ...]:
    """Onnxruntime's own exceptions share no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception))
