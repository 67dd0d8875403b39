"""The networks of all folds as one, and the mean of their scores."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch

from imaging_pipeline.segment.backends import Network
from imaging_pipeline.segment.transforms import Scores
from imaging_pipeline.segment.votes import Decide, Poll, polling


class Folds:
    """Logits of every fold, each the mean over mirror images: (N, F * C, Z, Y, X), the classes of one after another.

    nnU-Net puts the windows of each fold together in half precision before it averages folds. Sums of several folds
    take as many times the memory here, and the masks are the same to the voxel: where a mean over the folds of a
    window was kept instead, untrained networks gave other labels in 4 of 1000 voxels.

    Attributes:
        poll: What each fold says of each mirror image of the windows of the last call.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        mirror_axes: Sequence[int],
        decide: Decide | None = None,
        labels: Sequence[int] | None = None,
    ) -> None:
        """Name what runs over a window.

        Args:
            networks: One a fold.
            mirror_axes: Axes of a window (0, 1, 2) to average over, in all combinations; empty for none.
            decide: What a fold by itself makes of its logits; None: nobody asks.
            labels: Of the numbers that it gives; None: those of the channels.
        """
        self.poll = Poll(decide, labels)
        axes = [axis + 2 for axis in mirror_axes]
        self._networks = tuple(networks)
        self._mirrorings = [chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)]

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """See `Network`."""
        with polling(self.poll):
            if len(self._networks) == 1:
                return self._mirrored(self._networks[0], windows)
            return torch.cat([self._mirrored(network, windows) for network in self._networks], dim=1)

    def _mirrored(self, network: Network, windows: torch.Tensor) -> torch.Tensor:
        scores = network(windows).float()
        self.poll.add(scores)
        for chosen in self._mirrorings:
            mirrored = network(windows.flip(chosen)).flip(chosen)
            self.poll.add(mirrored)
            scores += mirrored
        return scores.div_(len(self._mirrorings) + 1)


def by_regions(logits: torch.Tensor) -> torch.Tensor:
    """What a fold makes of overlapping regions: each where it is likelier than not, later ones over earlier.

    Args:
        logits: (N, C, Z, Y, X).

    Returns:
        (N, 1, Z, Y, X) region numbers from 1 on, 0 for none.
    """
    n_windows, n_regions, *size = logits.shape
    dtype = torch.uint8 if n_regions < 2**8 else torch.int16
    numbers = torch.zeros((n_windows, 1, *size), dtype=dtype, device=logits.device)
    for number in range(1, n_regions + 1):
        numbers.masked_fill_(logits[:, number - 1 : number].float().sigmoid() > 0.5, number)
    return numbers


def mean_of_folds(scores: Scores, n_folds: int, dtype: torch.dtype) -> Scores:
    """Mean scores (C, Z, Y, X) of folds, slab by slab.

    Args:
        scores: Those of every fold, (F * C, Z, Y, X).
        n_folds: F.
        dtype: Of the mean: float16 as nnU-Net has it, or float32.
    """
    if n_folds == 1:
        return scores

    def mean(axis: int, start: int, stop: int) -> torch.Tensor:
        first, *others = scores.source(axis, start, stop).to(dtype).chunk(n_folds)
        for values in others:
            first += values
        return first.div_(n_folds).float()

    return replace(scores, source=mean, n_channels=scores.n_channels // n_folds)
