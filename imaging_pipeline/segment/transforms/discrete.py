"""Scores to probabilities to labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks import one_hot

from imaging_pipeline.segment.transforms.geometry import Move, carry, slabs, through, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """Softmax over channels, or sigmoid.

    Attributes:
        name: softmax or sigmoid.
        exact: Even where all that matters is which channel is the largest: some values may be zeros that MONAI's
            rounding makes tiny, and only softmax makes them equal.
    """

    name: str
    exact: bool = False

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities of scores, of their dtype."""
        values = scores.float()
        values = values.softmax(0) if self.name == "softmax" else values.sigmoid()
        return values.to(scores.dtype)

    def keeps_largest(self, dtype: torch.dtype) -> bool:
        """Whether the largest score is the largest probability, too: sigmoid and low precision round to ties."""
        return self.name == "softmax" and dtype == torch.float32 and not self.exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrete:
    """Values to whole numbers, by each of these that is given, in this order.

    Attributes:
        argmax: The channel with the largest value, the first of several.
        classes: One channel for each class.
        threshold: Whether values reach it.
        rounding: To the next whole number.
        dtype: Of the result; None: the smallest integers that hold it, where it is labels or yes and no.
        activation: What comes before the argmax.
    """

    argmax: bool
    classes: int | None
    threshold: float | None
    rounding: bool
    dtype: torch.dtype | None
    activation: Activation | None = None

    def __call__(self, values: torch.Tensor, moves: Sequence[Move] = ()) -> torch.Tensor:
        """Whole numbers of values of shape (C, I, J, K), behind moves."""
        if self.argmax:
            values = largest(values, moves, self.activation)
        else:
            values = carry(values if self.activation is None else self.activation(values), *moves)
        if self.classes is not None:
            values = one_hot(values, self.classes, dtype=self.dtype or torch.uint8, dim=0)
        if self.threshold is not None:
            values = (values >= self.threshold).to(torch.uint8)
        if self.rounding:
            values = values.round()
        return values if self.dtype is None else values.to(self.dtype)


def largest(values: torch.Tensor, moves: Sequence[Move] = (), activation: Activation | None = None) -> torch.Tensor:
    """The channel with the largest value in each voxel, the first of several.

    Moves that do not blend voxels work on labels, the others on slabs of all channels: the new grid never holds more
    than labels and a slab.

    Args:
        values: (C, I, J, K).
        moves: What comes between values and labels.
        activation: What comes before the moves.

    Returns:
        (1, I', J', K') in the smallest dtype that holds all channels.
    """
    n_blending = max((n for n, move in enumerate(moves, 1) if move.blends), default=0)
    channels = _Channels(values, activation, blended=n_blending > 0)
    shape = moves[n_blending - 1].grid.shape if n_blending else tuple(values.shape[1:])
    labels = torch.empty((1, *shape), dtype=_label_dtype(len(values)), device=values.device)
    source = through(moves[:n_blending], channels)
    for start, stop in slabs(len(values), (shape[0], shape[1], shape[2]), values.device):
        found = source(0, start, stop).max(0).indices  # on CPU, argmax is four times as slow
        labels[0, start:stop] = channels.numbers(found)
    return carry(labels, *moves[n_blending:])


class _Channels:
    """Slabs of activated scores, of those channels that can be the largest somewhere in them.

    Probabilities of softmax add up to 1: the largest is never below 1 / C, and blending keeps to that. A channel that
    stays well below it throughout a slab is nowhere the largest. The first channel always stays: it wins where all
    are 0.
    """

    def __init__(self, scores: torch.Tensor, activation: Activation | None, *, blended: bool) -> None:
        needed = activation is not None and (blended or not activation.keeps_largest(scores.dtype))
        self._activation = activation if needed else None
        self._chooses = blended and activation is not None and activation.name == "softmax"
        self._scores = whole(scores)
        self._kept: torch.Tensor | None = None

    def __call__(self, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab; see `Source`."""
        values = self._scores(axis, start, stop)
        values = values if self._activation is None else self._activation(values)
        self._kept = self._likely(values) if self._chooses and values.numel() else None
        return values if self._kept is None else values[self._kept]

    def numbers(self, found: torch.Tensor) -> torch.Tensor:
        """Channels by their places in the last slab."""
        return found if self._kept is None else self._kept[found]

    def _likely(self, probabilities: torch.Tensor) -> torch.Tensor | None:
        unlikely = probabilities.flatten(1).amax(1) < 0.5 / len(probabilities)
        unlikely[0] = False
        return (~unlikely).nonzero()[:, 0] if unlikely.any() else None


def _label_dtype(n_channels: int) -> torch.dtype:
    return torch.uint8 if n_channels <= 256 else torch.int16 if n_channels <= 32768 else torch.int32
