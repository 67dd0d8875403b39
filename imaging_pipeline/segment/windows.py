"""Where the windows of a volume lie and how much each of their voxels counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices, get_valid_patch_size
from monai.inferers import Inferer, SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.inferers.utils import _get_scan_interval
from monai.utils import BlendMode, ensure_tuple_rep, fall_back_tuple
from torch.nn import functional

Shape = tuple[int, int, int]
Starts = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

_STREAMED = (SlidingWindowInferer, SlidingWindowInfererAdapt)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """Windows over a volume. Indices are those of the volume: windows over a padded one begin before 0.

    Attributes:
        shape: Voxels of the volume.
        size: Voxels of a window.
        starts: First index of the windows along each axis, ascending; every combination is a window.
        weights: (I, J, K) float32 weight of a window's voxels; None: all the same.
        padding: How a volume smaller than a window is padded: keywords of `torch.nn.functional.pad`.
        axis: Windows follow each other along it; None: the longest.
        half_scale: Weights are multiplied by this where sums are kept in half precision: MONAI's smallest, 0.001,
            would lose digits there. nnU-Net's are scaled already.
    """

    shape: Shape
    size: Shape
    starts: Starts
    weights: torch.Tensor | None
    padding: dict[str, Any] = field(default_factory=dict)
    axis: int | None = None
    half_scale: float = 10.0

    @property
    def stream_axis(self) -> int:
        """The axis that windows follow each other along, and that slabs are cut along."""
        return self.shape.index(max(self.shape)) if self.axis is None else self.axis

    def in_order(self, axis: int) -> list[Shape]:
        """Starts of all windows, ascending along an axis first, then along the others."""
        i, j, k = self.starts
        return sorted(product(i, j, k), key=lambda start: (start[axis], start))

    def padded(self, image: torch.Tensor) -> tuple[torch.Tensor, Shape]:
        """An image of shape (C, I, J, K) at least as large as a window, and how far it begins before the volume."""
        low = [max(-starts[0], 0) for starts in self.starts]
        high = [max(n - length - before, 0) for n, length, before in zip(self.size, self.shape, low, strict=True)]
        borders = [border for pair in zip(reversed(low), reversed(high), strict=True) for border in pair]
        padded = functional.pad(image[None], borders, **self.padding)[0] if any(borders) else image
        return padded, (low[0], low[1], low[2])


def can_stream(inferer: Inferer) -> bool:
    """Whether an inferer's windows can be planned here; others go over the whole volume by themselves."""
    if type(inferer) not in _STREAMED:
        return False
    assert isinstance(inferer, SlidingWindowInferer)
    return not inferer.with_coord


def plan_windows(shape: Sequence[int], inferer: SlidingWindowInferer, *, even: bool = False) -> WindowPlan:
    """Windows as MONAI's `sliding_window_inference` lays and weighs them.

    Args:
        shape: Voxels of the volume.
        inferer: A bundle's inferer.
        even: Spread windows evenly, rather than clamp the last one to the end: as many of them.
    """
    volume, size = _shape(shape), _shape(fall_back_tuple(inferer.roi_size, tuple(shape)))
    larger = _shape(max(pair) for pair in zip(volume, size, strict=True))
    overlap = ensure_tuple_rep(inferer.overlap, 3)
    steps = _get_scan_interval(larger, size, 3, overlap)
    places = dense_patch_slices(larger, size, steps, return_slice=True)
    starts = [sorted({int(place[axis].start) for place in places}) for axis in range(3)]
    if even:
        starts = [_spread(column, length, n) for column, length, n in zip(starts, larger, size, strict=True)]
    low = [(wide - length) // 2 for wide, length in zip(larger, volume, strict=True)]
    i, j, k = (tuple(start - before for start in column) for column, before in zip(starts, low, strict=True))
    return WindowPlan(
        shape=volume, size=size, starts=(i, j, k), weights=_weights(larger, size, inferer), padding=_padding(inferer)
    )


def _weights(larger: Shape, size: Shape, inferer: SlidingWindowInferer) -> torch.Tensor | None:
    mode = BlendMode(inferer.mode)
    if inferer.roi_weight_map is None and mode == BlendMode.CONSTANT:
        return None
    valid = get_valid_patch_size(larger, size)
    if inferer.roi_weight_map is not None and valid == size:
        return torch.as_tensor(inferer.roi_weight_map, dtype=torch.float32).reshape(size)
    weights: torch.Tensor = compute_importance_map(
        valid, mode=mode, sigma_scale=inferer.sigma_scale, device="cpu", dtype=torch.float32
    )
    return weights.reshape(size)


def _padding(inferer: SlidingWindowInferer) -> dict[str, Any]:
    mode = str(getattr(inferer.padding_mode, "value", inferer.padding_mode))
    return {"mode": mode, "value": inferer.cval} if mode == "constant" else {"mode": mode}


def _spread(starts: list[int], length: int, size: int) -> list[int]:
    return [round(place) for place in np.linspace(0, length - size, len(starts)).tolist()]


def _shape(values: Any) -> Shape:
    i, j, k = (int(value) for value in values)
    return i, j, k
