"""ONNX or OpenVINO IR files, or torch modules, by OpenVINO on the CPU."""

import sys
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
    openvino = _openvino()
    if device.type != "cpu":
        raise PipelineError(Code.DEVICE_NOT_FOUND, f"openvino runs on the CPU, not on {device}", "use --device cpu")
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", _settings(torch.float32))
    except (RuntimeError, ValueError, OSError) as error:
        raise unreadable(path, error) from None
    return _OpenvinoNetwork(compiled)


def convert(module: torch.nn.Module, window: torch.Tensor, dtype: torch.dtype) -> Network:
    """Compile a torch module for windows of one shape, without a file.

    Args:
        module: Gives one tensor.
        window: (1, C, I, J, K) example; only windows of this shape can be run, any number of them.
        dtype: What layers compute in where the processor can: float32 or bfloat16. Scores are float32.
    """
    openvino = _openvino()
    # OpenVINO's own tracing would run the module four times
    turned = _ClassesLast(module).eval()
    traced = torch.jit.trace(turned, window, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    model = openvino.convert_model(traced, example_input=window, input=[list(window.shape)])
    return _StaticNetwork(openvino.Core().compile_model(model, "CPU", _settings(dtype)))


class _OpenvinoNetwork:
    """A compiled model with one request that is used again."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        outputs = self._request.infer([windows.float().contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0].copy())


class _ClassesLast(torch.nn.Module):
    """A module that gives (N, I, J, K, C): as OpenVINO computes, which saves it a turn and a copy of all scores."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.module(windows)
        return scores.permute(0, 2, 3, 4, 1)


class _StaticNetwork:
    """A model compiled for windows of one shape, one at a time.

    OpenVINO writes where the scores are handed out from, classes last: another copy of 104 classes takes as long as
    small networks do. They hold until the next call.
    """

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._shape = tuple(compiled.output(0).shape)[1:]
        self._scores = torch.empty(0, *self._shape)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        openvino = _openvino()
        if len(self._scores) != len(windows):
            self._scores = torch.empty(len(windows), *self._shape)
        for number, window in enumerate(windows.float().contiguous()):
            into = openvino.Tensor(self._scores[number][None].numpy(), shared_memory=True)
            self._request.set_output_tensor(into)
            self._request.infer([window[None].numpy()], share_inputs=True, share_outputs=True)
        return self._scores.permute(0, 4, 1, 2, 3)


def _settings(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "ENABLE_CPU_PINNING": False,  # every process would pin to the first cores: two tasks then share one core
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if dtype is torch.bfloat16 else "f32",  # its own choice has other labels
        "PERFORMANCE_HINT": "LATENCY",
    }


def _openvino() -> Any:
    """The package without its telemetry, which reports every import and conversion to its maker unless opted out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
