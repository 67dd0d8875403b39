"""The windows of one volume on their way through the network, and the scores of its planes as they become final."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.accumulator import Accumulator, Fill, spread_weights
from imaging_pipeline.segment.agreement import Agreement
from imaging_pipeline.segment.transforms.scores import Scores
from imaging_pipeline.segment.windows import Shape, WindowPlan

Advance = Callable[["WindowStream"], None]
"""Sends the next windows of a stream, and perhaps of others, through the network."""


class ScoreOverflowError(Exception):
    """Sums have left the range of half precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How sums of scores are kept.

    Attributes:
        device: Where.
        dtype: In what precision.
        depth: Planes at a time, each slab's windows computed anew; None: as many as the windows reach, each once.
    """

    device: torch.device
    dtype: torch.dtype
    depth: int | None = None


class WindowStream:
    """One volume, window by window in; planes of scores out, in order along one axis.

    Attributes:
        n_windows: All windows of the volume.
        n_skipped: Those that show nothing but air.
        n_channels: Classes; 0 until the network has said so.
        seconds: Time in the network for windows of this stream, and for putting their scores in their places.
        agreement: How far the members of an ensemble agree.
        error: What went wrong over its windows while another volume was asked for; raised when this one is.
    """

    def __init__(
        self,
        image: torch.Tensor,
        plan: WindowPlan,
        keeping: Keeping,
        advance: Advance,
        *,
        n_channels: int = 0,
        fill: Fill | None = None,
        foreground: torch.Tensor | None = None,
    ) -> None:
        """Lay out the windows.

        Args:
            image: (1, I, J, K) float32.
            plan: Its windows.
            keeping: How sums are kept.
            advance: Runs the network.
            n_channels: Classes; 0: the network will say.
            fill: As of `Accumulator`.
            foreground: (I, J, K) voxels that are not air: windows without any are left out; None: none is.
        """
        self.axis = plan.stream_axis
        self.plan = plan
        self.n_channels = n_channels
        self.seconds = 0.0
        self.agreement = Agreement()
        self.error: Exception | None = None
        self._image, self._offset = plan.padded(image)
        self._advance = advance
        self._keeping = keeping
        self._accumulator = Accumulator(plan.shape, self.axis, keeping.device, keeping.dtype, fill)
        self._weights = _weights(plan, keeping)
        everything = plan.in_order(self.axis)
        self._windows = [start for start in everything if foreground is None or _shows(foreground, start, plan.size)]
        self.n_windows, self.n_skipped = len(everything), len(everything) - len(self._windows)
        self._todo = deque(self._windows)
        self._has_scores = False
        self._early: deque[tuple[Shape, torch.Tensor]] = deque()
        self._counted: set[Shape] = set()
        self._wanted = 1
        self._slab = (0, plan.shape[self.axis])
        if keeping.depth is not None:
            self._slab = (0, 0)
            self._todo.clear()

    @property
    def shares_batches(self) -> bool:
        """Whether its windows may run before they are asked for."""
        return self._keeping.depth is None

    def take(self) -> Shape | None:
        """The next window to run; None where no more are known."""
        return self._todo.popleft() if self._todo else None

    def put_back(self, starts: list[Shape]) -> None:
        """Windows that were taken and have not run."""
        self._todo.extendleft(reversed(starts))

    def window(self, start: Shape) -> torch.Tensor:
        """(1, I, J, K) values of a window."""
        values = self._image
        for axis, (first, before, n) in enumerate(zip(start, self._offset, self.plan.size, strict=True)):
            values = values.narrow(axis + 1, first + before, n)
        return values

    def give(self, start: Shape, scores: torch.Tensor) -> None:
        """Scores (C, I, J, K) of a window that was taken; they may change after the call."""
        self.n_channels = self.n_channels or len(scores)
        if self._weights is not None and not self._has_scores:
            self._weights = spread_weights(self._weights, scores)
        self._has_scores = True
        if start[self.axis] < self._wanted:
            self._accumulator.add(start, scores, self._weights, self._slab)
        else:  # its planes would make the slab deeper than it needs to be
            self._early.append((start, scores.clone()))

    def count(self, start: Shape, numbers: torch.Tensor, labels: tuple[int, ...]) -> None:
        """Votes (M, L, I, J, K) on a window that was taken; a window that runs again counts once."""
        if start not in self._counted:
            self._counted.add(start)
            self.agreement.add(numbers[(..., *self.plan.owned(start))], labels)

    def scores(self) -> Scores:
        """All of the volume's scores, to be asked for plane by plane."""
        if not self._windows:  # all of it is background
            self.n_channels = max(self.n_channels, 1)
        while not self.n_channels and self.error is None:
            if self._todo:
                self._advance(self)
            else:
                self._next_slab()
        if self.error is not None:
            raise self.error
        return Scores(
            source=self._planes,
            n_channels=self.n_channels,
            shape=self.plan.shape,
            device=self._keeping.device,
            axis=self.axis,
            in_order=True,
        )

    @torch.inference_mode()
    def _planes(self, axis: int, start: int, stop: int) -> torch.Tensor:
        """Final scores of planes; see `Source`."""
        assert axis == self.axis, f"planes come along axis {self.axis}, not {axis}"
        self._accumulator.drop(start)
        self._wanted = max(self._wanted, stop)
        while self._n_final() < stop:
            if self.error is not None:
                raise self.error
            if self._early and self._early[0][0][axis] < self._wanted:
                self._accumulator.add(*self._early.popleft(), self._weights, self._slab)
            elif self._todo:
                self._advance(self)
            else:
                self._next_slab()
        values = self._accumulator.planes(self.n_channels, start, stop)
        self._check(values)
        return values

    def _n_final(self) -> int:
        """Planes that no further window will change, counted from the first."""
        waiting = self._early[0] if self._early else None
        if waiting is not None:
            return max(waiting[0][self.axis], 0)
        if self._keeping.depth is not None:
            return self._slab[0] if self._todo else self._slab[1]
        return max(self._todo[0][self.axis], 0) if self._todo else self._slab[1]

    def _next_slab(self) -> None:
        assert self._keeping.depth is not None
        first = self._slab[1]
        last = min(first + self._keeping.depth, self.plan.shape[self.axis])
        self._slab, self._wanted = (first, last), max(self._wanted, last)
        size = self.plan.size[self.axis]
        self._todo.extend(
            start for start in self._windows if start[self.axis] < last and start[self.axis] + size > first
        )

    def _check(self, values: torch.Tensor) -> None:
        """One sum tells whether a score is infinite or no number."""
        if not values.numel() or bool(values.sum().isfinite()):
            return
        if self._keeping.dtype != torch.float32:
            raise ScoreOverflowError
        n_bad = int((~values.isfinite()).sum())
        if n_bad:
            raise PipelineError(
                Code.MODEL_INVALID,
                f"{n_bad} of {values.numel()} scores in a slab are infinite or no numbers",
                "look for such values in the series or in the model's weights; with mixed precision, try amp=off",
            )


def _weights(plan: WindowPlan, keeping: Keeping) -> torch.Tensor | None:
    if plan.weights is None:
        return None
    scale = 1.0 if keeping.dtype == torch.float32 else plan.half_scale
    return (plan.weights * scale).to(keeping.device, keeping.dtype)


def _shows(foreground: torch.Tensor, start: Shape, size: Shape) -> bool:
    low = [max(first, 0) for first in start]
    i, j, k = (slice(begin, first + n) for begin, first, n in zip(low, start, size, strict=True))
    return bool(foreground[i, j, k].any())
