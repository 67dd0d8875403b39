"""A network made faster for windows of one shape: compiled by torch or TensorRT, or replayed as a CUDA graph."""

import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Literal

import torch
from torch._dynamo.exc import TorchDynamoException

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends.network import Network
from imaging_pipeline.segment.backends.state_dict import TorchNetwork

How = Literal["off", "compile", "tensorrt", "graph"]

_WARM_UPS = 3
_CAPTURING = threading.Lock()
"""CUDA captures one graph at a time in a process."""

_Key = tuple[torch.Size, torch.dtype, torch.dtype | None]


def accelerated(network: Network, device: torch.device, how: How = "off") -> Network:
    """Make a network faster; the first windows take longer, by a minute or more where it is compiled.

    Args:
        network: Loaded on the device.
        device: Where it runs.
        how: `off` gives the network itself; `compile` is torch.compile, `tensorrt` the same by NVIDIA's compiler;
            `graph` records the kernels of one window batch and replays them, with the same scores.

    Raises:
        PipelineError: `extra-missing` without the compiler; `device-not-found` for `tensorrt` and `graph` on another
            device than CUDA; `model-invalid` for a form of weights that cannot be compiled.
    """
    if how == "off":
        return network
    if how in ("tensorrt", "graph") and device.type != "cuda":
        raise PipelineError(
            Code.DEVICE_NOT_FOUND, f"acceleration {how} runs on CUDA devices, not on {device}", "switch it off here"
        )
    return GraphNetwork(network, device) if how == "graph" else _compiled(network, device, how)


class GraphNetwork:
    """A network whose kernels are recorded as a CUDA graph once a batch of the same kind has come twice.

    Batches of another shape or precision run as ever, and so do all where the recording fails.

    Attributes:
        why_not: Why nothing is replayed, in one line; empty while nothing speaks against it.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        """Record nothing yet."""
        self.why_not = ""
        self._network = network
        self._device = device
        self._seen: _Key | None = None
        self._recorded: _Recorded | None = None

    @torch.inference_mode()
    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """See `Network`."""
        key = _key(windows)
        if self._recorded is None and not self.why_not and key == self._seen:
            self._record(windows)
        self._seen = key
        if self._recorded is None or self._recorded.key != key:
            return self._network(windows)
        return self._recorded.replay(windows)

    def _record(self, windows: torch.Tensor) -> None:
        try:
            with _CAPTURING, torch.cuda.device(self._device):
                self._recorded = _Recorded(self._network, windows)
        except (RuntimeError, ValueError) as error:  # also where a second copy of the activations does not fit
            text = " ".join(str(error).split())[:300]
            self.why_not = f"no CUDA graph of {tuple(windows.shape)}: {type(error).__name__}: {text}"


class _Recorded:
    """One recorded forward pass; it reads and writes memory of its own."""

    def __init__(self, network: Network, windows: torch.Tensor) -> None:
        self.key = _key(windows)
        self._input = windows.clone()
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(windows.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(windows.device))
        # the outer context also leaves the stream where the recording breaks off
        with torch.cuda.stream(stream), _without_cache():
            for _ in range(_WARM_UPS):  # cuDNN chooses its algorithms, libraries take their workspace
                network(self._input)
            stream.synchronize()
            # other threads may go on to copy volumes meanwhile
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._output = network(self._input)
        torch.cuda.current_stream(windows.device).wait_stream(stream)

    def replay(self, windows: torch.Tensor) -> torch.Tensor:
        """Scores of windows of the recorded kind."""
        self._input.copy_(windows)
        self._graph.replay()
        return self._output.clone()  # the next replay writes over it


def _without_cache() -> AbstractContextManager[object]:
    """Mixed precision as it is, but weights are cast within the graph: cached casts are freed with the context."""
    return torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )


def _key(windows: torch.Tensor) -> _Key:
    kind = windows.device.type
    return windows.shape, windows.dtype, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _compiled(network: Network, device: torch.device, how: How) -> Network:
    if not isinstance(network, TorchNetwork) or isinstance(network.module, torch.jit.ScriptModule):
        raise PipelineError(
            Code.MODEL_INVALID,
            f"acceleration {how} needs a torch module, {type(network).__name__} is another form of network",
            "use the state dict, or switch the acceleration off",
        )
    _check_compiler(device, how)
    module = network.module
    if how == "tensorrt":
        return _Compiled(torch.compile(module, backend="torch_tensorrt", dynamic=False), how)
    mode = "max-autotune-no-cudagraphs" if device.type == "cuda" else None
    return _Compiled(torch.compile(module, mode=mode, dynamic=False), how)


class _Compiled(TorchNetwork):
    """A module that is compiled by its first windows."""

    def __init__(self, module: Callable[..., object], how: How) -> None:
        assert isinstance(module, torch.nn.Module)
        super().__init__(module)
        self._how = how

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        try:
            return super().__call__(windows)
        except TorchDynamoException as error:
            text = " ".join(str(error).split())[:300]
            raise PipelineError(
                Code.MODEL_INVALID,
                f"acceleration {self._how} cannot compile the network: {type(error).__name__}: {text}",
                "switch the acceleration off",
            ) from None


def _check_compiler(device: torch.device, how: How) -> None:
    if how == "tensorrt" and find_spec("torch_tensorrt") is None:
        raise _missing("tensorrt needs torch_tensorrt, which is not", "pip install torch-tensorrt of torch's version")
    if how == "compile" and device.type == "cuda" and find_spec("triton") is None:
        raise _missing("compile on CUDA needs triton, which is not", "pip install triton of torch's version")
    if how == "compile" and device.type == "cpu" and shutil.which("g++") is None:
        raise _missing("compile on the CPU needs g++, which is not", "install a C++ compiler on every worker")


def _missing(what: str, remedy: str) -> PipelineError:
    return PipelineError(Code.EXTRA_MISSING, f"acceleration {what} installed", f"{remedy}, or switch it off")
