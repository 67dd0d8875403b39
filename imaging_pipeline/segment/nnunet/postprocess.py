"""From logits on the network's grid to labels on the native voxels."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imaging_pipeline.segment.nnunet.plans import Plans
from imaging_pipeline.segment.nnunet.preprocess import Prepared
from imaging_pipeline.segment.nnunet.resample import Resampler


def to_labels(logits: torch.Tensor, prepared: Prepared, plans: Plans) -> NDArray[Any]:
    """Resample, decide, undo crop and transposition.

    Args:
        logits: (C, Z', Y', X') on the network's grid.
        prepared: What they were made from.
        plans: The model's.

    Returns:
        (I, J, K) labels, uint8 or uint16.
    """
    largest = max((label.index for label in plans.labels), default=0)
    dtype = torch.uint8 if largest < 2**8 else torch.int32  # torch cannot compute with uint16
    with torch.inference_mode():
        channels = _native(logits, prepared, plans)
        found = _regions(channels, plans.regions, dtype) if plans.regions else _best(channels, dtype)
    labels = np.zeros(prepared.shape, dtype=np.uint8 if largest < 2**8 else np.uint16)
    labels[prepared.box] = found.cpu().numpy()
    return np.ascontiguousarray(labels.transpose(plans.transpose_backward).transpose(2, 1, 0))


def _native(logits: torch.Tensor, prepared: Prepared, plans: Plans) -> Iterator[torch.Tensor]:
    """Channels on the native grid, one after another: all of them at native size may be tens of GB."""
    rule = plans.resample_logits
    if rule is None:
        yield from logits
        return
    native = [side.stop - side.start for side in prepared.box]
    resampler = Resampler(rule, (logits.shape[1:], native), (plans.spacing_mm, prepared.spacing_mm), logits.device)
    for channel in logits:
        values = resampler(channel.float())
        yield values.half().float() if rule.float16 else values


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
