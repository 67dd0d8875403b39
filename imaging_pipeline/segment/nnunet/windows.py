"""The network over an image, window by window, as nnU-Net lays and weighs them."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from imaging_pipeline.errors import Code, PipelineError

_STEP = 0.5
"""Windows step on by at most half of their size."""

_SIGMA = 1 / 8
"""Of the Gaussian that weighs a window's voxels, in sizes of the window."""

_PEAK = 10.0
"""Its largest value."""

_Place = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How the network goes over an image.

    Attributes:
        patch_size: Voxels of a window.
        mirror_axes: Axes to average over, in all combinations; empty for none.
        batch: Windows that run together. It changes the speed only.
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

    Raises:
        PipelineError: `model-invalid` where logits are no finite numbers.
    """
    padded, inner = _pad(image, windows.patch_size)
    with torch.inference_mode():
        try:
            logits = _mean(padded, networks, n_outputs, windows, autocast, padded.device)
        except torch.OutOfMemoryError:
            if padded.device.type == "cpu":
                raise
            logits = _mean(padded, networks, n_outputs, windows, autocast, torch.device("cpu"))
    _check_finite(logits)
    return logits[(slice(None), *inner)].float()


def _mean(
    padded: torch.Tensor,
    networks: Sequence[torch.nn.Module],
    n_outputs: int,
    windows: Windows,
    autocast: AbstractContextManager[object],
    device: torch.device,
) -> torch.Tensor:
    first, *others = networks
    total = _stitch(padded, first, n_outputs, windows, autocast, device)
    for network in others:
        total += _stitch(padded, network, n_outputs, windows, autocast, device)
    return total.div_(len(networks))


def _stitch(
    padded: torch.Tensor,
    network: torch.nn.Module,
    n_outputs: int,
    windows: Windows,
    autocast: AbstractContextManager[object],
    device: torch.device,
) -> torch.Tensor:
    """Weighted mean of the windows, in float16 as nnU-Net keeps it: half the memory, the same mask to the voxel."""
    weights = gaussian(windows.patch_size).to(device)
    total = torch.zeros((n_outputs, *padded.shape[1:]), dtype=torch.float16, device=device)
    weight = torch.zeros(padded.shape[1:], dtype=torch.float16, device=device)
    all_places = _places(padded.shape[1:], windows.patch_size)
    for at in range(0, len(all_places), windows.batch):
        places = all_places[at : at + windows.batch]
        batch = torch.stack([padded[(slice(None), *place)] for place in places])
        with autocast:
            scores = _mirrored(network, batch, windows.mirror_axes).to(device)
        for place, score in zip(places, scores, strict=True):
            inside = (slice(None), *place)
            total[inside] = score.mul_(weights).add_(total[inside].float())
            weight[place] += weights
    return total.div_(weight)


def _mirrored(network: torch.nn.Module, batch: torch.Tensor, mirror_axes: Sequence[int]) -> torch.Tensor:
    """Float32 logits of a batch (N, 1, Z, Y, X), the mean over its mirror images."""
    scores: torch.Tensor = network(batch).float()
    axes = [axis + 2 for axis in mirror_axes]
    mirrorings = [chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)]
    for chosen in mirrorings:
        scores += network(batch.flip(chosen)).flip(chosen)
    return scores.div_(len(mirrorings) + 1)


def _places(shape: Sequence[int], patch_size: Sequence[int]) -> list[_Place]:
    starts = itertools.product(*map(window_starts, shape, patch_size))
    return [tuple(slice(a, a + n) for a, n in zip(start, patch_size, strict=True)) for start in starts]


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


def _pad(image: torch.Tensor, patch_size: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Zeros around an image smaller than a window, the odd one behind; and where the image lies in it."""
    shape = image.shape[1:]
    lacks = [max(0, patch - n) for patch, n in zip(patch_size, shape, strict=True)]
    sides = [side for lack in reversed(lacks) for side in (lack // 2, lack - lack // 2)]
    inner = tuple(slice(lack // 2, lack // 2 + n) for lack, n in zip(lacks, shape, strict=True))
    return torch.nn.functional.pad(image, sides), inner


def _check_finite(logits: torch.Tensor) -> None:
    n_bad = sum(int((~channel.isfinite()).sum()) for channel in logits)
    if n_bad:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"{n_bad} of {logits.numel()} logits are infinite or no numbers",
            "weights or image hold values that are no numbers, or logits beyond what nnU-Net keeps them in (float16)",
        )
