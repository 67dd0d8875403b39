"""Batch norms and shortcuts folded into convolutions, where nothing else sees what lies between."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from monai.networks.blocks import ResidualUnit
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imaging_pipeline.segment.backends.network import full_resolution

LARGEST_DIFFERENCE = 1e-4
"""Scores of the folded network may differ from the original's by this share of their range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A layer, and where it is registered."""

    parent: torch.nn.Module
    name: str
    layer: torch.nn.Module

    def put(self, layer: torch.nn.Module) -> None:
        self.parent._modules[self.name] = layer


def fold_norms(module: torch.nn.Module, windows: torch.Tensor) -> int:
    """Fold every batch norm that follows a convolution directly, in place; none where the scores would change.

    Args:
        module: A network in evaluation mode.
        windows: (N, C, I, J, K) windows that it is compared on.

    Returns:
        Batch norms that are gone.
    """
    pairs = [] if isinstance(module, torch.jit.ScriptModule) else _foldable(module)
    if not pairs:
        return 0
    with torch.no_grad():
        expected = full_resolution(module(windows))
        for convolution, norm in pairs:
            is_transposed = isinstance(convolution.layer, torch.nn.ConvTranspose3d)
            folded = fuse_conv_bn_eval(convolution.layer, norm.layer, is_transposed)  # type: ignore[type-var, arg-type]
            convolution.put(folded)
            norm.put(torch.nn.Identity())
        largest = float((full_resolution(module(windows)) - expected).abs().max())
    if largest <= LARGEST_DIFFERENCE * float(expected.max() - expected.min()):
        return len(pairs)
    for place in (place for pair in pairs for place in pair):
        place.put(place.layer)
    return 0


def fold_shortcuts(module: torch.nn.Module) -> int:
    """Turn every residual unit that is one convolution beside its own input into that convolution, in place.

    MONAI's UNet ends in such a unit: x + W * x is (W + 1 at the centre) * x, without a further pass over all scores.

    Args:
        module: A network in evaluation mode.

    Returns:
        Units that are gone.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return 0
    uses = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    places = [
        _Place(parent=parent, name=name, layer=child)
        for parent in module.modules()
        for name, child in parent._modules.items()
        if isinstance(child, ResidualUnit) and uses[id(child)] == 1 and not _has_hooks(child)
    ]
    n_folded = 0
    for place in places:
        convolution = _only_convolution(place.layer)
        if convolution is not None and uses[id(convolution)] == 1:
            with torch.no_grad():
                i, j, k = (n // 2 for n in convolution.kernel_size)
                convolution.weight[:, :, i, j, k] += torch.eye(convolution.out_channels)
            place.put(convolution)
            n_folded += 1
    return n_folded


def _only_convolution(unit: torch.nn.Module) -> torch.nn.Conv3d | None:
    """What a residual unit adds to its input, if that is one convolution whose centre is the voxel itself."""
    assert isinstance(unit, ResidualUnit)
    layers = [place.layer for place in _layers(unit.conv)] if _is_plain_sequence(unit.conv) else []
    if type(unit) is not ResidualUnit or type(unit.residual) is not torch.nn.Identity or len(layers) != 1:
        return None
    (layer,) = layers
    if type(layer) is not torch.nn.Conv3d or _has_hooks(layer) or layer.groups != 1 or layer.padding_mode != "zeros":
        return None
    is_centred = all(
        isinstance(padding, int) and 2 * padding == (n - 1) * dilation
        for padding, n, dilation in zip(layer.padding, layer.kernel_size, layer.dilation, strict=True)
    )
    odd = all(n % 2 for n in layer.kernel_size)
    return layer if is_centred and odd and set(layer.stride) == {1} else None


def _foldable(module: torch.nn.Module) -> list[tuple[_Place, _Place]]:
    """Convolutions and the norms that take their outputs, neither used anywhere else."""
    uses = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    inner = {id(child) for part in module.modules() if _is_plain_sequence(part) for child in part.children()}
    outermost = [part for part in module.modules() if _is_plain_sequence(part) and id(part) not in inner]
    return [
        (one, other)
        for part in outermost
        for one, other in pairwise(_layers(part))
        if uses[id(one.layer)] == uses[id(other.layer)] == 1 and _fits(one.layer, other.layer)
    ]


def _layers(sequence: torch.nn.Module) -> Iterator[_Place]:
    """The layers of a sequence in the order of their calls, sequences within it opened up."""
    for name, child in sequence._modules.items():  # named_children leaves repetitions out
        if child is not None and _is_plain_sequence(child):
            yield from _layers(child)
        elif child is not None:
            yield _Place(parent=sequence, name=name, layer=child)


def _is_plain_sequence(module: torch.nn.Module) -> bool:
    """Calls its children one after the other and does nothing else; MONAI's Convolution and ADN are such."""
    return (
        isinstance(module, torch.nn.Sequential)
        and type(module).forward is torch.nn.Sequential.forward
        and type(module).__call__ is torch.nn.Module.__call__
        and not _has_hooks(module)
    )


def _fits(convolution: torch.nn.Module, norm: torch.nn.Module) -> bool:
    # exact types: a subclass may do more, parametrised layers among them
    if type(convolution) not in (torch.nn.Conv3d, torch.nn.ConvTranspose3d) or type(norm) is not torch.nn.BatchNorm3d:
        return False
    assert isinstance(convolution, torch.nn.Conv3d | torch.nn.ConvTranspose3d)
    assert isinstance(norm, torch.nn.BatchNorm3d)
    return (
        norm.running_mean is not None
        and not (convolution.training or norm.training or _has_hooks(convolution) or _has_hooks(norm))
        and norm.num_features == convolution.out_channels
        and (convolution.groups == 1 or isinstance(convolution, torch.nn.Conv3d))
    )


def _has_hooks(module: torch.nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
