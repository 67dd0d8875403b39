"""Probabilities on the native voxels, from logits of the part that was looked at."""

import torch

from imaging_pipeline.segment.nnunet.plans import Plans
from imaging_pipeline.segment.nnunet.preprocess import Prepared
from imaging_pipeline.segment.transforms import Sink


class Probabilities:
    """Hands slabs of probabilities to a sink, in order; what was not looked at is background."""

    def __init__(self, sink: Sink, prepared: Prepared, plans: Plans) -> None:
        """Describe the way to the native voxels.

        Args:
            sink: Takes slabs of (C, I, J, K).
            prepared: Where the part that was looked at lies.
            plans: The model's.
        """
        self._sink = sink
        self._shape = tuple(prepared.shape)
        self._box = prepared.box
        self._axes = tuple(plans.transpose_backward[2 - axis] for axis in range(3))
        self._exclusive = not plans.regions
        self._n_channels = plans.n_outputs
        self._n_given = 0

    def add(self, start: int, logits: torch.Tensor) -> None:
        """The next planes.

        Args:
            start: First plane within the part that was looked at.
            logits: (C, n, Y, X) of that part.
        """
        first = start + self._box[0].start
        self._give_background(first)
        values = self._background(logits.shape[1]).to(logits.device)
        values[:, :, self._box[1], self._box[2]] = logits.softmax(0) if self._exclusive else logits.sigmoid()
        self._give(values)

    def close(self) -> None:
        """Hand out what lies behind."""
        self._give_background(self._shape[0])

    def _give_background(self, stop: int) -> None:
        while self._n_given < stop:
            self._give(self._background(1))

    def _background(self, n_planes: int) -> torch.Tensor:
        values = torch.zeros((self._n_channels, n_planes, *self._shape[1:]))
        if self._exclusive:
            values[0] = 1
        return values

    def _give(self, values: torch.Tensor) -> None:
        start, self._n_given = self._n_given, self._n_given + values.shape[1]
        turned = values.permute(0, *(axis + 1 for axis in self._axes))
        self._sink(self._axes.index(0), start, self._n_given, turned)
