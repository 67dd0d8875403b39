"""The layers of one network spread over several devices, for a network that does not fit one of them.

The layers are placed explicitly. `torch.distributed.pipelining` is made for training: each stage is a process of a
process group, the model must be cut into stages that hand on one fixed set of tensors, and its gain comes from many
micro-batches under way. A U-Net's skip connections cross every such cut, and a task of this pipeline is one process.
Placed layers need neither: one device computes at a time, and memory adds up, which is what is wanted.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from imaging_pipeline.segment.backends.network import Network, full_resolution

_MOVES = {"to", "type_as", "copy_", "set_", "__get__", "__set__"}
"""Functions that take tensors of two devices on purpose, or look at one."""


def shard(module: torch.nn.Module, devices: Sequence[torch.device], window: Sequence[int] | None = None) -> Network:
    """Spread the layers of a network over devices, in the order in which they are used.

    The devices get consecutive layers, so that the largest share is as small as it can be.

    Args:
        module: In evaluation mode, on the CPU; its layers are moved.
        devices: Where they go, in this order.
        window: (C, I, J, K) of the windows to come: counts the layers' outputs too, and finds the order of use;
            without it only weights count, in the order in which the module lists them.

    Returns:
        The network; it takes windows of any device and gives scores on theirs.
    """
    layers = {name: layer for name, layer in module.named_modules() if _is_layer(layer)}
    costs = _costs(module, layers, window)
    places = dict(zip(costs, _deal(list(costs.values()), devices), strict=True))
    for name, device in places.items():
        _place(layers[name], device)
    return Sharded(module, devices, places)


class Sharded:
    """A network whose layers lie on several devices.

    Attributes:
        places: Device of each layer with weights, by its name in the module, in the order of use.
    """

    def __init__(
        self, module: torch.nn.Module, devices: Sequence[torch.device], places: dict[str, torch.device]
    ) -> None:
        """Take a module whose layers are placed."""
        self.places = places
        self._module = module
        self._devices = tuple(devices)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """See `Network`."""
        with _Together(self._devices):
            scores = full_resolution(self._module(windows))
        return scores.to(windows.device)


class _Together(TorchFunctionMode):
    """Brings the tensors of a call together that lie on several devices, as a skip and what it is joined with do.

    They meet on the device that comes last in the order of use, where the next layer is likely to be; what is changed
    in place stays where it is.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        super().__init__()
        self._order = {device: number for number, device in enumerate(devices)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor) and item.ndim]
        places = dict.fromkeys(tensor.device for tensor in tensors)
        if len(places) < 2 or name in _MOVES:
            return func(*args, **kwargs)
        goal = tensors[0].device if _is_in_place(name) else max(places, key=lambda place: self._order.get(place, -1))
        args, kwargs = _moved((args, kwargs), goal)
        return func(*args, **kwargs)


def _is_layer(module: torch.nn.Module) -> bool:
    return bool(_own_tensors(module))


def _own_tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _costs(module: torch.nn.Module, layers: dict[str, torch.nn.Module], window: Sequence[int] | None) -> dict[str, int]:
    """Bytes of each layer, in the order of use where that can be found out."""
    weights = {name: sum(tensor.nbytes for _, tensor in _own_tensors(layer)) for name, layer in layers.items()}
    outputs = {} if window is None else _output_bytes(module, layers, window)
    return {name: weights[name] + outputs.get(name, 0) for name in dict.fromkeys([*outputs, *layers])}


def _output_bytes(module: torch.nn.Module, names: Iterable[str], window: Sequence[int]) -> dict[str, int]:
    """Bytes that each layer gives out, in the order of use, of a copy without memory; empty where torch cannot tell."""
    used: dict[str, int] = {}

    def note(name: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def hook(_: torch.nn.Module, __: Any, output: Any) -> None:
            given = sum(item.nbytes for item in tree_leaves(output) if isinstance(item, torch.Tensor))
            used[name] = used.get(name, 0) + given

        return hook

    shapes = copy.deepcopy(module).to("meta")
    for name in names:
        shapes.get_submodule(name).register_forward_hook(note(name))
    try:
        with torch.no_grad():
            shapes(torch.empty((1, *window), device="meta"))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return {}  # an operator without shape rules
    return used


def _deal(costs: Sequence[int], devices: Sequence[torch.device]) -> list[torch.device]:
    """A device for each cost, consecutive, under the smallest limit that needs no more devices than there are."""
    low, high = max(costs, default=0), sum(costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _numbers(costs, middle)[-1] < len(devices) else (middle + 1, high)
    return [devices[number] for number in _numbers(costs, low)]


def _numbers(costs: Sequence[int], limit: int) -> list[int]:
    """Shares filled one after the other up to a limit: the number of each cost's share."""

    def step(state: tuple[int, int], cost: int) -> tuple[int, int]:
        number, held = state
        return (number, held + cost) if held + cost <= limit else (number + 1, cost)

    return [number for number, _ in accumulate(costs, step, initial=(0, 0))][1:] or [0]


def _place(layer: torch.nn.Module, device: torch.device) -> None:
    """Move a layer's own tensors, and from now on what it is called with."""
    for name, tensor in _own_tensors(layer):
        moved = tensor.detach().to(device)
        is_weight = isinstance(tensor, torch.nn.Parameter)
        placed: torch.Tensor = torch.nn.Parameter(moved, requires_grad=False) if is_weight else moved
        setattr(layer, name, placed)
    layer.register_forward_pre_hook(lambda _, args, kwargs: _moved((args, kwargs), device), with_kwargs=True)


def _moved(values: Any, device: torch.device) -> Any:
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), values)


def _is_in_place(name: str) -> bool:
    is_operator = name.startswith("__")
    return name.startswith(("__i", "__setitem__")) if is_operator else name.endswith("_")
