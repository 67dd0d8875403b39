"""Logits on the native grid, slab by slab along the network's first axis, as `Resampler` gives them for all of it."""

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from imaging_pipeline.segment.nnunet.recipe import Resampling
from imaging_pipeline.segment.nnunet.resample import Resampler

_SLAB_VALUES = 4 << 20
"""Values of one channel in a slab, at most; but never less than a plane."""

_SPAN = 4
"""Old planes that a slab may span, about: the stream of scores holds as many."""


class SlabResampler(Resampler):
    """A `Resampler` whose result is asked for plane by plane of axis 0."""

    def __init__(
        self,
        rule: Resampling,
        shapes: tuple[Sequence[int], Sequence[int]],
        spacings_mm: tuple[Sequence[float], Sequence[float]],
        device: torch.device,
    ) -> None:
        """See `Resampler`."""
        super().__init__(rule, shapes, spacings_mm, device)
        self._rows = self._matrices.get(0)
        if self._rows is not None and self._apart != 0 and self._order == 1:
            self._rows = _linear_rows(self._old[0], self._new[0], device)
        used = None if self._rows is None else (self._rows != 0).int().cpu()
        n_planes = self._new[0]
        self._first = list(range(n_planes)) if used is None else used.argmax(1).tolist()
        self._last = list(range(n_planes)) if used is None else (used.shape[1] - 1 - used.flip(1).argmax(1)).tolist()

    @property
    def is_local(self) -> bool:
        """Whether a plane hangs on its neighbours only: splines of higher order, and their clamp, take all planes."""
        return self._old == self._new or self._order_of_planes <= 1

    def slabs(self, n_channels: int) -> Iterator[tuple[int, int]]:
        """First plane and the one behind the last of slabs of the new grid; all of it where rules are not local.

        Args:
            n_channels: Of those that are at hand at a time.
        """
        n, plane = self._new[0], self._new[1] * self._new[2]
        most = -(-_SPAN * n // self._old[0])
        step = max(min(_SLAB_VALUES // (plane * n_channels), most), 1) if self.is_local else n
        for start in range(0, n, step):
            yield start, min(start + step, n)

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """Old planes that new ones are made of: the first and the one behind the last."""
        return (self._first[start], self._last[stop - 1] + 1) if self.is_local else (0, self._old[0])

    def slab(self, planes: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """New planes (n, Y, X) of the old ones that `needed` names."""
        if not self.is_local:
            return self(planes)
        values = self._spline(planes, [axis for axis in (1, 2) if axis != self._apart])
        if self._rows is not None:
            first, behind = self.needed(start, stop)
            values = self._along_planes(values, self._rows[start:stop, first:behind])
        return values if self._apart == 0 else self._separately(values)

    @property
    def _order_of_planes(self) -> int:
        return self._order_z if self._apart == 0 else self._order

    def _along_planes(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if self._order_of_planes == 0:
            return values.index_select(0, rows.argmax(1))
        first = (rows != 0).int().argmax(1)
        second = (first + 1).clamp_max(rows.shape[1] - 1)
        low = rows.gather(1, first[:, None])[..., None]
        high = rows.gather(1, second[:, None])[..., None] * (second > first)[:, None, None]
        if self._apart == 0:
            return torch.addcmul(values[first] * low, values[second], high)
        # in this order interpolate multiplies and adds: the same values to the last bit on CPU
        return torch.addcmul(values[second] * high, values[first], low)


def _linear_rows(n_old: int, n_new: int, device: torch.device) -> torch.Tensor:
    """(n_new, n_old) weights as `interpolate` rounds them."""
    return functional.interpolate(torch.eye(n_old, device=device)[None], n_new, mode="linear")[0].T.contiguous()
