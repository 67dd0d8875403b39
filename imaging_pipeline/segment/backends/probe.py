"""Whether a network takes one channel and gives as many classes as its bundle says, before any series is touched."""

import copy
from collections.abc import Sequence

import torch
from monai.inferers import Inferer, SlidingWindowInferer

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends.network import Network, full_resolution
from imaging_pipeline.segment.backends.state_dict import TorchNetwork
from imaging_pipeline.segment.bundle import Bundle


def check_channels(network: Network, inferer: Inferer, bundle: Bundle, device: torch.device) -> None:
    """Send one window of zeros through a network: for shapes only where torch can, else for real.

    Networks that take whole volumes are not tried; they may be large.

    Raises:
        PipelineError: `weights-mismatch` where it takes no single channel, or gives other classes.
    """
    size = window_size(inferer)
    if size is None:
        return
    try:
        shape = _shape(network, (1, 1, *size), device)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise _mismatch(bundle, f"does not take a window of one channel and {_times(size)} voxels: {text}") from None
    if bundle.n_outputs and shape[1] != bundle.n_outputs:
        raise _mismatch(bundle, f"gives {shape[1]} channels, its metadata says {bundle.n_outputs}")


def window_size(inferer: Inferer) -> tuple[int, ...] | None:
    """Voxels of the windows that an inferer cuts; None where it cuts none, or follows the volume's size."""
    if not isinstance(inferer, SlidingWindowInferer):
        return None
    size = inferer.roi_size if isinstance(inferer.roi_size, Sequence) else (inferer.roi_size,) * 3
    if len(size) != 3 or any(length is None or int(length) < 1 for length in size):
        return None
    return tuple(int(length) for length in size)


def _shape(network: Network, window: tuple[int, ...], device: torch.device) -> torch.Size:
    if isinstance(network, TorchNetwork) and not isinstance(network.module, torch.jit.ScriptModule):
        try:
            return _shape_without_computing(network.module, window)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            pass  # an operator without shape rules, or a real misfit: the real forward pass tells
    with torch.inference_mode():
        return network(torch.zeros(window, device=device)).shape


def _shape_without_computing(module: torch.nn.Module, window: tuple[int, ...]) -> torch.Size:
    """Of a copy without memory: the network itself must stay as it is, submodules that it shares included."""
    with torch.no_grad():
        output = copy.deepcopy(module).to("meta")(torch.empty(window, device="meta"))
    return full_resolution(output).shape


def _mismatch(bundle: Bundle, message: str) -> PipelineError:
    return PipelineError(
        Code.WEIGHTS_MISMATCH, f"the network of {bundle.name} {message}", "weights and metadata must belong together"
    )


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
