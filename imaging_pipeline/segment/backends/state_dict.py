"""A state dict of plain tensors in the network that the bundle's config defines."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends.network import Build, Network, full_resolution

_SHOWN = 3

_WRAPPERS = ("state_dict", "model", "network", "model_state_dict")
"""Keys under which training programs file the state dict in a checkpoint."""


def is_available() -> bool:
    """Torch is always there."""
    return True


def load(path: Path, device: torch.device, build: Build | None) -> Network:
    """Build the network and give it its weights.

    Raises:
        PipelineError: `weights-unsafe` for anything but plain tensors, `weights-mismatch` where keys or shapes are
            another network's, `model-invalid` without a network to put them into.
    """
    if build is None:
        raise PipelineError(
            Code.MODEL_INVALID, f"{path.name} is a state dict and no network_def is given", "define the network"
        )
    state = read_state(path)
    network = build()
    check_fit(network, state, path.name, "network_def")
    network.load_state_dict(state)
    network = network.eval().requires_grad_(False).to(device)
    if _gains_by_channels_last(network):
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return TorchNetwork(network)


class TorchNetwork:
    """A torch module as a network.

    Attributes:
        module: The module, in evaluation mode.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Take a module that is ready."""
        self.module = module

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """See `Network`."""
        return full_resolution(self.module(windows))


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` file by name; floating-point ones in float32.

    Raises:
        PipelineError: `weights-unsafe` for a file that holds code, or no tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # torch's own message advises to trust the file: it is not passed on
        kind = "holds code, not only tensors" if "Unsupported" in str(error) else "is damaged or no torch file"
        raise _unsafe(path, kind) from None
    for key in _WRAPPERS:
        content = content.get(key, content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not content or not all(_is_tensor(item) for item in content.values()):
        raise _unsafe(path, "holds no state dict")
    return {_plain(name): item.float() if item.is_floating_point() else item for name, item in content.items()}


def _gains_by_channels_last(network: torch.nn.Module) -> bool:
    """Not where a 2D layer has no such layout, or where torch's group norm loses three digits in it on the CPU."""
    is_grouped = any(isinstance(module, torch.nn.GroupNorm) for module in network.modules())
    return not is_grouped and all(parameter.ndim != 4 for parameter in network.parameters())


def _is_tensor(item: Any) -> bool:
    return isinstance(item, torch.Tensor)


def _plain(name: str) -> str:
    """Without the prefix of distributed training."""
    return name.removeprefix("module.")


def check_fit(network: torch.nn.Module, state: Mapping[str, torch.Tensor], weights: str, defined_by: str) -> None:
    """Refuse weights that do not fit a network exactly.

    Args:
        network: Where they are to go.
        state: The weights.
        weights: What the message calls them.
        defined_by: What the network was built from.

    Raises:
        PipelineError: `weights-mismatch` with numbers and first names of what does not fit.
    """
    wanted = network.state_dict()
    misfits = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [key for key in wanted if key in state and wanted[key].shape != state[key].shape],
    }
    parts = [f"{len(keys)} {kind} ({', '.join(keys[:_SHOWN])})" for kind, keys in misfits.items() if keys]
    if parts:
        raise PipelineError(
            Code.WEIGHTS_MISMATCH,
            f"weights of {weights} do not fit the network of {defined_by}: {'; '.join(parts)}; {len(wanted)} wanted",
            f"weights and {defined_by} must be of one training; trainers that change the network do not run",
        )


def _unsafe(path: Path, what: str) -> PipelineError:
    return PipelineError(
        Code.WEIGHTS_UNSAFE, f"{path.name} {what}", "save a plain state dict: torch.save(network.state_dict(), path)"
    )
