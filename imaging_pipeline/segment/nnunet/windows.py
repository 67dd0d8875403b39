"""The network over an image, window by window, as nnU-Net lays and weighs them."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

_STEP = 0.5
"""Windows step on by at most half of their size."""

_SIGMA = 1 / 8
"""Of the Gaussian that weighs a window's voxels, in sizes of the window."""

_PEAK = 10.0
"""Its largest value."""

_Item = tuple[tuple[slice, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How the network goes over an image.

    Attributes:
        patch_size: Voxels of a window.
        mirror_axes: Axes to average over, in all combinations; empty for none.
        batch: Windows, or mirror images of one, that run together. It changes the speed only.
    """

    patch_size: tuple[int, ...]
    mirror_axes: tuple[int, ...]
    batch: int


def predict_windows(
    image: torch.Tensor,
    networks: Sequence[torch.nn.Module],
    n_outputs: int,
    windows: Windows,
    autocast: AbstractContextManager[object],
) -> torch.Tensor:
    """Mean logits of the networks, windows and mirror images.

    Args:
        image: (1, Z, Y, X) float32.
        networks: One a fold, in evaluation mode on the image's device.
        n_outputs: Channels that they give.
        windows: How to go.
        autocast: Around the networks.

    Returns:
        (C, Z, Y, X) float32, on the image's device where it has the memory, else on the CPU.
    """
    padded, inner = _pad(image, windows.patch_size)
    with torch.inference_mode():
        try:
            logits = _accumulate(padded, networks, n_outputs, windows, autocast, padded.device)
        except torch.OutOfMemoryError:
            if padded.device.type == "cpu":
                raise
            logits = _accumulate(padded, networks, n_outputs, windows, autocast, torch.device("cpu"))
    return logits[(slice(None), *inner)]


def _accumulate(
    padded: torch.Tensor,
    networks: Sequence[torch.nn.Module],
    n_outputs: int,
    windows: Windows,
    autocast: AbstractContextManager[object],
    device: torch.device,
) -> torch.Tensor:
    weights = gaussian(windows.patch_size).to(device)
    total = torch.zeros((n_outputs, *padded.shape[1:]), device=device)
    weight = torch.zeros(padded.shape[1:], device=device)
    for chunk in _chunks(_items(padded.shape[1:], windows), windows.batch):
        batch = torch.stack([padded[(slice(None), *place)].flip(axes) for place, axes in chunk])
        with autocast:
            scores = [network(batch).to(device, torch.float32) for network in networks]
        for at, (place, axes) in enumerate(chunk):
            for score in scores:
                total[(slice(None), *place)] += score[at].flip(axes) * weights
            weight[place] += weights
    return total.div_(weight.mul_(len(networks)))


def _items(shape: Sequence[int], windows: Windows) -> list[_Item]:
    """Every window with every mirroring: axes of the (1, Z, Y, X) image."""
    starts = itertools.product(*map(window_starts, shape, windows.patch_size))
    places = [tuple(slice(a, a + n) for a, n in zip(start, windows.patch_size, strict=True)) for start in starts]
    axes = [axis + 1 for axis in windows.mirror_axes]
    mirrored = [chosen for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)]
    return list(itertools.product(places, mirrored))


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


def _chunks(items: list[_Item], size: int) -> Iterator[list[_Item]]:
    """Batches of a size; a last one alone joins the one before, as batches of 1 are slow on CPU."""
    ends = list(range(size, len(items), size))
    if ends and len(items) - ends[-1] == 1 and size > 1:
        ends.pop()
    yield from (items[a:b] for a, b in itertools.pairwise([0, *ends, len(items)]))


def _pad(image: torch.Tensor, patch_size: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Zeros around an image smaller than a window, the odd one behind; and where the image lies in it."""
    shape = image.shape[1:]
    lacks = [max(0, patch - n) for patch, n in zip(patch_size, shape, strict=True)]
    sides = [side for lack in reversed(lacks) for side in (lack // 2, lack - lack // 2)]
    inner = tuple(slice(lack // 2, lack // 2 + n) for lack, n in zip(lacks, shape, strict=True))
    return torch.nn.functional.pad(image, sides), inner
