"""Whether a network takes one channel and gives as many classes as its bundle says, before any series is touched."""

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from monai.inferers import Inferer, SlidingWindowInferer

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends.network import Network, full_resolution
from imaging_pipeline.segment.backends.state_dict import TorchNetwork
from imaging_pipeline.segment.bundle import Bundle

_LIVE_LAYERS = 4
"""Layers whose outputs are alive at a time, skip connections included."""

_SMALL_WINDOW = 1 << 17
"""Voxels of a window that is sooner computed: shapes without values take torch's compiler, which loads for 2 s."""

_UNKNOWN_LAYERS = 64
"""Values a voxel of the window that a network which cannot be looked into is taken to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What one window tells of a network.

    Attributes:
        n_channels: Classes.
        keeps_size: Scores have as many voxels as the window.
        window_bytes: About what the network takes for a window: input, scores, and its largest layers.
    """

    n_channels: int
    keeps_size: bool
    window_bytes: int


def probe(network: Network, inferer: Inferer, bundle: Bundle, device: torch.device) -> Probe | None:
    """Send one window of zeros through a network: for shapes only where torch can, else for real.

    Networks that take whole volumes are not tried; they may be large.

    Raises:
        PipelineError: `weights-mismatch` where it takes no single channel, or gives other classes.
    """
    size = window_size(inferer)
    if size is None:
        return None
    try:
        shape, n_inner = _shape(network, (1, 1, *size), device)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise _mismatch(bundle, f"does not take a window of one channel and {_times(size)} voxels: {text}") from None
    if bundle.n_outputs and shape[1] != bundle.n_outputs:
        raise _mismatch(bundle, f"gives {shape[1]} channels, its metadata says {bundle.n_outputs}")
    n_values = math.prod(size) + math.prod(shape) + n_inner
    return Probe(n_channels=shape[1], keeps_size=tuple(shape[2:]) == size, window_bytes=4 * n_values)


def window_size(inferer: Inferer) -> tuple[int, ...] | None:
    """Voxels of the windows that an inferer cuts; None where it cuts none, or follows the volume's size."""
    if not isinstance(inferer, SlidingWindowInferer):
        return None
    size = inferer.roi_size if isinstance(inferer.roi_size, Sequence) else (inferer.roi_size,) * 3
    if len(size) != 3 or any(length is None or int(length) < 1 for length in size):
        return None
    return tuple(int(length) for length in size)


def _shape(network: Network, window: tuple[int, ...], device: torch.device) -> tuple[torch.Size, int]:
    """Shape of the scores, and values in the largest layers."""
    if not isinstance(network, TorchNetwork) or isinstance(network.module, torch.jit.ScriptModule):
        with torch.inference_mode():
            shape = network(torch.zeros(window, device=device)).shape
        return shape, _UNKNOWN_LAYERS * math.prod(window)
    if math.prod(window) > _SMALL_WINDOW:
        # an operator without shape rules, or a real misfit: the real forward pass tells
        with suppress(RuntimeError, NotImplementedError, TypeError, ValueError):
            hollow = copy.deepcopy(network.module).to("meta")  # the network and what it shares stay as they are
            return _noted(hollow, torch.empty(window, device="meta"))
    return _noted(network.module, torch.zeros(window, device=device))


def _noted(module: torch.nn.Module, window: torch.Tensor) -> tuple[torch.Size, int]:
    """A forward pass, with an eye on every layer."""
    outputs: list[int] = []

    def note(_: torch.nn.Module, __: object, output: object) -> None:
        outputs.append(output.numel() if isinstance(output, torch.Tensor) else 0)

    layers = (part for part in module.modules() if not list(part.children()))
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.inference_mode():
            output = module(window)
    finally:
        for hook in hooks:
            hook.remove()
    return full_resolution(output).shape, sum(sorted(outputs)[-_LIVE_LAYERS:])


def _mismatch(bundle: Bundle, message: str) -> PipelineError:
    return PipelineError(
        Code.WEIGHTS_MISMATCH, f"the network of {bundle.name} {message}", "weights and metadata must belong together"
    )


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
