"""ONNX or OpenVINO IR files by OpenVINO, on the CPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends.network import Network, unreadable

EXTRA = "cpu"


def is_available() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def load(path: Path, device: torch.device) -> Network:
    """Compile the file for the CPU in float32, on as many threads as torch has.

    Raises:
        PipelineError: `weights-unsafe` for a file that OpenVINO does not read, `device-not-found` on another device.
    """
    import openvino

    if device.type != "cpu":
        raise PipelineError(Code.DEVICE_NOT_FOUND, f"openvino runs on the CPU, not on {device}", "use --device cpu")
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # the same labels as the state dict's; bf16 is slower without AMX
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except (RuntimeError, ValueError, OSError) as error:
        raise unreadable(path, error) from None
    return _OpenvinoNetwork(compiled)


class _OpenvinoNetwork:
    """A compiled model with one request that is used again."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        outputs = self._request.infer([windows.float().contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0].copy())
