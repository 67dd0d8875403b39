"""Class scores to labels on another grid, slab by slab: neither grid ever holds all channels."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from imaging_pipeline.segment.transforms import geometry
from imaging_pipeline.segment.transforms.between import fill_between
from imaging_pipeline.segment.transforms.geometry import Move, Shape, Source, carry, through
from imaging_pipeline.segment.transforms.resample import Separable
from imaging_pipeline.segment.transforms.scores import Scores

if TYPE_CHECKING:
    from imaging_pipeline.segment.transforms.discrete import Activation

Sink = Callable[[int, int, int, torch.Tensor], None]
"""Takes (axis, start, stop, values (C, I, J, K)): a slab of the final grid, cut along that axis from start to stop."""

_PLANES = 4
"""Planes of the old grid that a slab may span: a stream holds as many."""

_GROWTH = 2.0
"""New voxels for each old one from which on blocks are faster than all values of the new grid."""


def largest(
    scores: Scores, moves: Sequence[Move] = (), activation: "Activation | None" = None, sink: Sink | None = None
) -> torch.Tensor:
    """The channel with the largest value in each voxel, the first of several.

    Moves that do not blend voxels work on labels, the others on slabs of all channels: the new grid never holds more
    than labels and a slab.

    Args:
        scores: What labels are made of.
        moves: What comes between scores and labels.
        activation: What comes before the moves.
        sink: Takes the values behind all moves; then all moves work on slabs of all channels.

    Returns:
        (1, I, J, K) in the smallest dtype that holds all channels.
    """
    dtype = _label_dtype(scores.n_channels)
    n_blending = max((n for n, move in enumerate(moves, 1) if move.blends), default=0)
    if sink is not None:
        activated = _Channels(scores, activation, blended=False, needed=activation is not None)
        return _reduced(scores, activated, moves, _argmax, dtype, sink)
    before, last = moves[:n_blending], moves[n_blending - 1] if n_blending else None
    if isinstance(last, Separable) and _grows(last) and scores.n_channels and scores.device.type == "cpu":
        every = _Channels(scores, activation, blended=True, chooses=False)
        labels = _by_blocks(scores, every, before[:-1], last, dtype)
    else:
        channels = _Channels(scores, activation, blended=n_blending > 0)
        labels = _reduced(scores, channels, before, lambda values: channels.numbers(_argmax(values)), dtype)
    return carry(labels, *moves[n_blending:])


def reduced(
    scores: Scores,
    moves: Sequence[Move],
    activation: "Activation | None",
    reduce: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype | None,
    sink: Sink | None = None,
) -> torch.Tensor:
    """What is made of the values behind moves, slab by slab.

    Args:
        scores: What values are made of.
        moves: What leads to the final grid.
        activation: What comes before the moves.
        reduce: (C, I, J, K) of a slab → (C', I, J, K).
        dtype: Of the result; None: as `reduce` leaves it.
        sink: Takes the values behind all moves.

    Returns:
        (C', I, J, K) on the final grid.
    """
    channels = _Channels(scores, activation, blended=False, needed=activation is not None)
    return _reduced(scores, channels, moves, reduce, dtype, sink)


def _reduced(
    scores: Scores,
    source: Source,
    moves: Sequence[Move],
    reduce: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype | None,
    sink: Sink | None = None,
) -> torch.Tensor:
    shape = moves[-1].grid.shape if moves else scores.shape
    axis, backwards = _followed(scores, moves)
    behind, out = through(moves, source), None
    for start, stop in _slabs(scores, shape, axis, backwards=backwards):
        values = behind(axis, start, stop)
        if sink is not None:
            sink(axis, start, stop, values)
        part = reduce(values)
        if out is None:
            out = torch.empty((len(part), *shape), dtype=dtype or part.dtype, device=part.device)
        out.narrow(axis + 1, start, stop - start).copy_(part)
    if out is None:  # no voxels
        empty = reduce(torch.empty((scores.n_channels, *shape), device=scores.device))
        out = empty if dtype is None else empty.to(dtype)
    return out


def _by_blocks(
    scores: Scores, channels: "_Channels", before: Sequence[Move], move: Separable, dtype: torch.dtype
) -> torch.Tensor:
    """Labels behind a linear resampling; see `fill_between`."""
    axis, backwards = _followed(scores, before)
    out = torch.empty((1, *move.grid.shape), dtype=dtype, device=scores.device)
    source = through(before, channels)
    fill_between(out[0].numpy(), move.taps, source, axis, backwards=backwards != move.follow(axis)[1])
    return out


def _grows(move: Separable) -> bool:
    n_old, n_new = math.prod(move.old_shape), math.prod(move.grid.shape)
    return move.blends and 0 < n_old * _GROWTH < n_new


def _followed(scores: Scores, moves: Sequence[Move]) -> tuple[int, bool]:
    """Where the axis of the scores lies behind moves, and whether it runs the other way round there."""
    axis, backwards = scores.axis, False
    for move in moves:
        axis, turned = move.follow(axis)
        backwards = backwards != turned
    return axis, backwards


def _slabs(scores: Scores, shape: Shape, axis: int, *, backwards: bool) -> Iterator[tuple[int, int]]:
    if 0 in shape:
        return
    plane = shape[0] * shape[1] * shape[2] // shape[axis]
    most = -(-_PLANES * shape[axis] // max(scores.shape[scores.axis], 1)) if scores.in_order else shape[axis]
    step = min(max(_bearable(scores.device) // max(scores.n_channels * plane, 1), 1), max(most, 1))
    starts = range(0, shape[axis], step)
    for start in reversed(starts) if backwards else starts:
        yield start, min(start + step, shape[axis])


def _bearable(device: torch.device) -> int:
    if device.type == "cuda":
        return geometry._SLAB_VALUES_CUDA
    return geometry._SLAB_VALUES * torch.get_num_threads()


class _Channels:
    """Slabs of activated scores, of those channels that can be the largest somewhere in them.

    Probabilities of softmax add up to 1: the largest is never below 1 / C, and blending keeps to that. A channel that
    stays well below it throughout a slab is nowhere the largest. The first channel always stays: it wins where all
    are 0.
    """

    def __init__(
        self,
        scores: Scores,
        activation: "Activation | None",
        *,
        blended: bool,
        needed: bool | None = None,
        chooses: bool = True,
    ) -> None:
        self._activation, self._needed, self._blended = activation, needed, blended
        self._chooses = chooses and blended and activation is not None and activation.name == "softmax"
        self._scores = scores.source
        self._kept: torch.Tensor | None = None

    def __call__(self, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab; see `Source`."""
        values = self._activated(self._scores(axis, start, stop))
        self._kept = self._likely(values) if self._chooses and values.numel() else None
        return values if self._kept is None else values[self._kept]

    def numbers(self, found: torch.Tensor) -> torch.Tensor:
        """Channels by their places in the last slab."""
        return found if self._kept is None else self._kept[found]

    def _activated(self, scores: torch.Tensor) -> torch.Tensor:
        if self._activation is None:
            return scores
        needed = self._needed
        if needed is None:
            needed = self._blended or not self._activation.keeps_largest(scores.dtype)
        return self._activation(scores) if needed else scores

    def _likely(self, probabilities: torch.Tensor) -> torch.Tensor | None:
        unlikely = probabilities.flatten(1).amax(1) < 0.5 / len(probabilities)
        unlikely[0] = False
        return (~unlikely).nonzero()[:, 0] if unlikely.any() else None


def _argmax(values: torch.Tensor) -> torch.Tensor:
    return values.max(0, keepdim=True).indices  # on CPU, argmax is four times as slow


def _label_dtype(n_channels: int) -> torch.dtype:
    return torch.uint8 if n_channels <= 256 else torch.int16 if n_channels <= 32768 else torch.int32
