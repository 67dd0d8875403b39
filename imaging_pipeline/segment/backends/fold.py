"""Batch norms folded into the convolutions before them, where nothing else sees what lies between."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
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
