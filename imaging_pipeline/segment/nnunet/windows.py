"""Windows over an image as nnU-Net lays and weighs them."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from imaging_pipeline.segment.windows import WindowPlan

_STEP = 0.5
"""Windows step on by at most half of their size."""

_SIGMA = 1 / 8
"""Of the Gaussian that weighs a window's voxels, in sizes of the window."""

_PEAK = 10.0
"""Its largest value."""


def plan_windows(shape: Sequence[int], patch_size: Sequence[int]) -> WindowPlan:
    """Windows along the first axis first, the order in which nnU-Net sums them: half precision rounds alike.

    An image smaller than a window has zeros around it, the odd one behind.

    Args:
        shape: Voxels of the image.
        patch_size: Voxels of a window.
    """
    columns = []
    for n_voxels, n_window in zip(shape, patch_size, strict=True):
        lack = max(0, n_window - n_voxels)
        columns.append(tuple(start - lack // 2 for start in window_starts(n_voxels + lack, n_window)))
    (i, j, k), (a, b, c), (low, mid, high) = shape, patch_size, columns
    return WindowPlan(
        shape=(i, j, k),
        size=(a, b, c),
        starts=(low, mid, high),
        weights=gaussian(patch_size),
        axis=0,
        half_scale=1.0,
    )


def window_starts(n_voxels: int, n_window: int) -> list[int]:
    """Where windows begin along an axis: evenly spread, at most half a window apart."""
    last = n_voxels - n_window
    n_steps = int(np.ceil(last / (n_window * _STEP)))
    return [int(np.round(last / n_steps * step)) for step in range(n_steps + 1)] if n_steps else [0]


def gaussian(patch_size: Sequence[int]) -> torch.Tensor:
    """(Z, Y, X) float32 weights of a window's voxels, none of them 0; rounded to float16 as nnU-Net keeps them."""
    weights = np.ones(())
    for n_voxels in patch_size:
        centre = np.zeros(n_voxels)
        centre[n_voxels // 2] = 1
        weights = np.multiply.outer(weights, gaussian_filter1d(centre, n_voxels * _SIGMA, mode="constant"))
    rounded = torch.from_numpy(weights * (_PEAK / weights.max())).half().float()
    return rounded.clamp_min(rounded[rounded > 0].min())
