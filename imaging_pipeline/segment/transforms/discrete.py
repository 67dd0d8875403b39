"""Scores to probabilities to labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks import one_hot

from imaging_pipeline.segment.transforms.geometry import Move
from imaging_pipeline.segment.transforms.largest import Sink, largest, reduced
from imaging_pipeline.segment.transforms.scores import Scores, in_memory

_MANY_CHANNELS = 64
"""From so many on, softmax is faster over channels that lie together in memory."""


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
        if self.name != "softmax":
            values = values.sigmoid()
        elif scores.stride(0) == 1 and len(scores) >= _MANY_CHANNELS:  # to turn them round would take longer
            values = values.movedim(0, -1).softmax(-1).movedim(-1, 0)
        else:
            values = values.contiguous().softmax(0)
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
        return self.streamed(in_memory(values), moves)

    def streamed(self, scores: Scores, moves: Sequence[Move] = (), sink: Sink | None = None) -> torch.Tensor:
        """Whole numbers of scores, behind moves.

        Args:
            scores: What they are made of, slab by slab.
            moves: What leads to the final grid.
            sink: Takes the activated values on the final grid.
        """
        if self.argmax:
            values = self._rounded(self._by_class(largest(scores, moves, self.activation, sink)))
        elif self.classes is not None:
            values = reduced(scores, moves, self.activation, lambda slab: slab, None, sink)
            values = self._rounded(self._by_class(values))
        else:
            values = reduced(scores, moves, self.activation, self._rounded, None, sink)
        return values if self.dtype is None else values.to(self.dtype)

    def _by_class(self, values: torch.Tensor) -> torch.Tensor:
        if self.classes is None:
            return values
        return one_hot(values, self.classes, dtype=self.dtype or torch.uint8, dim=0)

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        if self.threshold is not None:
            values = (values >= self.threshold).to(torch.uint8)
        return values.round() if self.rounding else values
