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

    def owned(self, start: Shape) -> tuple[slice, slice, slice]:
        """The part of a window that lies nearer its middle than that of any other: every voxel belongs to one window.

        Args:
            start: Of the window.

        Returns:
            Indices within the window, those of the volume alone.
        """
        columns = zip(start, self.starts, self.size, self.shape, strict=True)
        i, j, k = (_owned(first, starts, size, length) for first, starts, size, length in columns)
        return i, j, k

    def padded(self, image: torch.Tensor) -> tuple[torch.Tensor, Shape]:
        """An image of shape (C, I, J, K) at least as large as a window, and how far it begins before the volume."""
        low = [max(-starts[0], 0) for starts in self.starts]
        high = [max(n - length - before, 0) for n, length, before in zip(self.size, self.shape, low, strict=True)]
        borders = [border for pair in zip(reversed(low), reversed(high), strict=True) for border in pair]
        padded = functional.pad(image[None], borders, **self.padding)[0] if any(borders) else image
        return padded, (low[0], low[1], low[2])


def _owned(first: int, starts: Sequence[int], size: int, length: int) -> slice:
    """Along one axis: from half of the overlap with the window before to half of that with the one behind."""
    at = starts.index(first)
    low = (starts[at - 1] + size + first) // 2 if at else 0
    high = (first + size + starts[at + 1]) // 2 if at + 1 < len(starts) else length
    return slice(max(low, first, 0) - first, min(high, first + size, length) - first)


def can_stream(inferer: Inferer) -> bool:
    """Whether an inferer's windows can be planned here; others go over the whole volume by themselves."""
    if type(inferer) not in _STREAMED:
        return False
    assert isinstance(inferer, SlidingWindowInferer)
    return not inferer.with_coord


def plan_windows(
    shape: Sequence[int], inferer: SlidingWindowInferer, *, even: bool = False, body: torch.Tensor | None = None
) -> WindowPlan:
    """Windows as MONAI's `sliding_window_inference` lays and weighs them.

    Args:
        shape: Voxels of the volume.
        inferer: A bundle's inferer.
        even: Spread windows evenly, rather than clamp the last one to the end: as many of them.
        body: (I, J, K) voxels that matter: windows are laid over the smallest box around them, as if the volume were
            cropped to it. None: over the whole volume.
    """
    volume, size = _shape(shape), _shape(fall_back_tuple(inferer.roi_size, tuple(shape)))
    first, length = _box(body, size) if body is not None and bool(body.any()) else ((0, 0, 0), volume)
    larger = _shape(max(pair) for pair in zip(length, size, strict=True))
    overlap = ensure_tuple_rep(inferer.overlap, 3)
    steps = _get_scan_interval(larger, size, 3, overlap)
    places = dense_patch_slices(larger, size, steps, return_slice=True)
    starts = [sorted({int(place[axis].start) for place in places}) for axis in range(3)]
    if even:
        starts = [_spread(column, n, window) for column, n, window in zip(starts, larger, size, strict=True)]
    offsets = [begin - (wide - n) // 2 for begin, wide, n in zip(first, larger, length, strict=True)]
    i, j, k = (tuple(start + offset for start in column) for column, offset in zip(starts, offsets, strict=True))
    return WindowPlan(
        shape=volume, size=size, starts=(i, j, k), weights=_weights(larger, size, inferer), padding=_padding(inferer)
    )


def _box(body: torch.Tensor, size: Shape) -> tuple[Shape, Shape]:
    """First voxel and length of the box around a body, no shorter than a window where the volume is not."""
    first, length = [], []
    for axis, window in enumerate(size):
        inside = body.flatten(axis + 1).any(-1) if axis < 2 else body
        inside = inside.flatten(0, axis - 1).any(0) if axis else inside
        indices = inside.nonzero().flatten()
        low, high = int(indices[0]), int(indices[-1]) + 1
        n = min(max(high - low, window), body.shape[axis])
        low = min(max(low - (n - (high - low)) // 2, 0), body.shape[axis] - n)
        first.append(low)
        length.append(n)
    return _shape(first), _shape(length)


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
