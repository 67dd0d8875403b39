"""From logits on the network's grid to labels on the native voxels, slab by slab."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imaging_pipeline.segment.nnunet.plans import Plans
from imaging_pipeline.segment.nnunet.preprocess import Prepared
from imaging_pipeline.segment.nnunet.probabilities import Probabilities
from imaging_pipeline.segment.nnunet.recipe import Resampling
from imaging_pipeline.segment.nnunet.slabs import SlabResampler
from imaging_pipeline.segment.transforms import Scores, Sink, gathered, in_memory

_UNCHANGED = Resampling(order=0, order_z=0, separate=False, anisotropy=1.0, float16=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slab:
    """Planes of the native grid.

    Attributes:
        start: The first, within the box that was looked at.
        stop: The one behind the last.
        channels: (n, Y, X) float32 logits, one after another: all of them at native size may be large.
    """

    start: int
    stop: int
    channels: Iterator[torch.Tensor]


def to_labels(scores: Scores, prepared: Prepared, plans: Plans, sink: Sink | None = None) -> NDArray[Any]:
    """Resample, decide, undo crop and transposition.

    No grid ever holds all channels, but for logits that splines of order 2 or more resample: these, and the limits
    that they are held to, hang on all planes of the network's grid.

    Args:
        scores: Logits on the network's grid, asked for along its first axis.
        prepared: What they were made from.
        plans: The model's.
        sink: Takes probabilities.

    Returns:
        (I, J, K) labels, uint8 or uint16.
    """
    largest = max((label.index for label in plans.labels), default=0)
    dtype = torch.uint8 if largest < 2**8 else torch.int32  # torch cannot compute with uint16
    labels = np.zeros(prepared.shape, dtype=np.uint8 if largest < 2**8 else np.uint16)
    inside = labels[prepared.box]
    probabilities = None if sink is None else Probabilities(sink, prepared, plans)
    with torch.inference_mode():
        for slab in _native(scores, prepared, plans, n_at_hand=1 if sink is None else scores.n_channels):
            channels: Iterable[torch.Tensor] = slab.channels
            if probabilities is not None:
                channels = torch.stack(list(channels))
                probabilities.add(slab.start, channels)
            found = _regions(channels, plans.regions, dtype) if plans.regions else _best(channels, dtype)
            inside[slab.start : slab.stop] = found.cpu().numpy()
    if probabilities is not None:
        probabilities.close()
    return np.ascontiguousarray(labels.transpose(plans.transpose_backward).transpose(2, 1, 0))


def _native(scores: Scores, prepared: Prepared, plans: Plans, n_at_hand: int) -> Iterator[_Slab]:
    rule = plans.resample_logits or _UNCHANGED
    native = [side.stop - side.start for side in prepared.box]
    old = native if plans.resample_logits is None else scores.shape
    resampler = SlabResampler(rule, (old, native), (plans.spacing_mm, prepared.spacing_mm), scores.device)
    held = scores if resampler.is_local else in_memory(gathered(scores))
    for start, stop in resampler.slabs(n_at_hand):
        planes = held.source(0, *resampler.needed(start, stop))
        channels = (resampler.slab(channel, start, stop) for channel in planes)
        if rule.float16 and not prepared.beyond_half:
            channels = (channel.half().float() for channel in channels)
        yield _Slab(start=start, stop=stop, channels=channels)


def _best(channels: Iterable[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """The channel that is largest, the first of equals."""
    rest = iter(channels)
    best = next(rest)
    labels = torch.zeros(best.shape, dtype=dtype, device=best.device)
    for index, channel in enumerate(rest, start=1):
        labels.masked_fill_(channel > best, index)
        best = torch.maximum(best, channel)
    return labels


def _regions(channels: Iterable[torch.Tensor], written: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Each region where its probability is above 0.5; later ones over earlier."""
    labels = torch.zeros(())
    for at, (channel, index) in enumerate(zip(channels, written, strict=True)):
        if at == 0:
            labels = torch.zeros(channel.shape, dtype=dtype, device=channel.device)
        labels.masked_fill_(channel.sigmoid() > 0.5, index)
    return labels
