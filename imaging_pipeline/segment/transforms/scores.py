"""Class scores on the model grid that need not all be in memory: asked for slab by slab, in order along one axis."""

from dataclasses import dataclass

import torch

from imaging_pipeline.segment.transforms.geometry import Shape, Source, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Class scores of a volume.

    Attributes:
        source: Gives slabs of (C, I', J', K') float32 scores. Where `in_order`, it is asked along `axis` only, and
            neither end of a range may lie before that of the range asked for last: what lies behind is gone.
        n_channels: C.
        shape: I', J', K'.
        device: Where slabs lie.
        axis: The spatial axis that slabs are cut along.
        in_order: The rule above holds; otherwise any slab may be asked for at any time.
    """

    source: Source
    n_channels: int
    shape: Shape
    device: torch.device
    axis: int = 0
    in_order: bool = False


def in_memory(values: torch.Tensor) -> Scores:
    """Scores of shape (C, I', J', K') that are all there."""
    i, j, k = values.shape[1:]
    return Scores(source=whole(values), n_channels=len(values), shape=(i, j, k), device=values.device)


def gathered(scores: Scores) -> torch.Tensor:
    """All scores in memory, (C, I', J', K') float32: for steps that take nothing less."""
    values = torch.empty((scores.n_channels, *scores.shape), device=scores.device)
    for start in range(scores.shape[scores.axis]):
        values.narrow(scores.axis + 1, start, 1).copy_(scores.source(scores.axis, start, start + 1))
    return values
