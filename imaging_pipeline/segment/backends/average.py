"""Several networks, or several views of a window, averaged in probability."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import torch

from imaging_pipeline.segment.backends.network import Network
from imaging_pipeline.segment.votes import Decide, Poll, polling

_SMALLEST = 1e-12
_OPEN_INTERVAL = 1e-7
"""float32 tells 1 from 1 - 1e-7."""


class Average:
    """Members of an ensemble over a window and its mirror images, as one network.

    Scores are turned into probabilities, averaged, and turned back, so that the bundle's own activation behind it
    gives the averaged probabilities.

    Attributes:
        poll: What each member says by itself of the windows of the last call.
    """

    def __init__(
        self, members: Sequence[Network], mirror_axes: Sequence[int], activation: str, decide: Decide | None = None
    ) -> None:
        """Name what is averaged.

        Args:
            members: Networks of the same classes.
            mirror_axes: Spatial axes (0, 1, 2); every combination of them is mirrored.
            activation: softmax or sigmoid where the bundle applies one to the scores; empty where the networks give
                probabilities themselves.
            decide: What a member by itself makes of its probabilities; None: nobody asks.
        """
        self.poll = Poll(decide)
        self._members = tuple(members)
        self._flips = tuple(_subsets(tuple(axis + 2 for axis in mirror_axes)))
        self._activation = activation

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """See `Network`."""
        total: torch.Tensor | None = None
        with polling(self.poll) as poll:
            for member, flip in product(self._members, self._flips):
                scores = member(windows.flip(flip) if flip else windows).float()
                probabilities = self._probabilities(scores.flip(flip) if flip else scores)
                poll.add(probabilities)
                total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        return self._scores(total.div_(len(self._members) * len(self._flips)))

    def _probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        if self._activation == "softmax":
            return scores.softmax(dim=1)
        return scores.sigmoid() if self._activation == "sigmoid" else scores.clone()

    def _scores(self, probabilities: torch.Tensor) -> torch.Tensor:
        if self._activation == "softmax":
            return probabilities.clamp_(min=_SMALLEST).log_()
        return probabilities.logit(_OPEN_INTERVAL) if self._activation == "sigmoid" else probabilities


def _subsets(dims: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for size in range(len(dims) + 1):
        yield from combinations(dims, size)
