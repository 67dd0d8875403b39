"""From the scanner's voxels to tensors and back."""

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.volume.types import Volume

_INTEGERS = (np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.uint8))

AFFINE_TOLERANCE_MM = 1e-3
"""A mask's affine may differ from the image's by this, the rounding of float32 affines."""


def as_image(volume: Volume, device: torch.device) -> MetaTensor:
    """A volume as MONAI's readers would give it, but for integers: they stay as they are.

    It goes to the device once, in two bytes a voxel for most series.

    Args:
        volume: Values of shape (I, J, K).
        device: Where it is to lie.

    Returns:
        (1, I, J, K) int16, int32 or float32 with its affine.
    """
    array = volume.array
    if array.dtype not in _INTEGERS:
        array = array.astype(np.float32, copy=False)
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = np.array(array)
    values = torch.from_numpy(array)
    if device.type == "cuda":
        values = _uploaded(values, device)
    affine = torch.from_numpy(volume.affine)
    meta = {"original_affine": affine, "space": "RAS", "spatial_shape": np.array(volume.shape)}
    return MetaTensor(values[None], affine=affine, meta=meta)


def _uploaded(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values on a CUDA device. Pages that cannot move cross the bus at full speed, and beside the network's work."""
    side: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    main = torch.cuda.current_stream(device)
    with torch.cuda.stream(side):
        there = values.pin_memory().to(device, non_blocking=True)
    main.wait_stream(side)
    there.record_stream(main)  # its memory belongs to the side stream: it must outlive what the main one still does
    return there


def as_labels(finished: torch.Tensor, volume: Volume, bundle: Bundle, *, resample: bool) -> NDArray[Any]:
    """What a bundle's postprocessing ends in, as label numbers checked to lie on the native voxels.

    Args:
        finished: (1, I, J, K) label numbers, or (C, I, J, K) one channel a class, of which no two overlap.
        volume: The native volume.
        bundle: Names the labels.
        resample: Labels on another grid are brought back by nearest neighbour, as the bundle's writer would.

    Raises:
        PipelineError: `grid-mismatch` where shape or affine of the labels is another than the volume's, or where
            labels overlap.
    """
    if resample and isinstance(finished, MetaTensor) and not _lies_on(finished, volume):
        back = SpatialResample(mode="nearest", padding_mode="border", align_corners=False, dtype=np.float64)
        finished = back(finished, dst_affine=torch.from_numpy(volume.affine), spatial_size=volume.shape)
    if tuple(finished.shape[1:]) != volume.shape:
        raise _mismatch(f"labels of shape {tuple(finished.shape)}", f"(1, {', '.join(map(str, volume.shape))})")
    if not _lies_on(finished, volume):
        off_mm = _off_mm(finished, volume)
        raise _mismatch(f"labels lie {off_mm:.3g} mm off the image", f"at most {AFFINE_TOLERANCE_MM} mm")
    largest = max((label.index for label in bundle.labels), default=1)
    plain = finished.as_tensor() if isinstance(finished, MetaTensor) else finished
    merged = _merged(plain, bundle)
    return merged.cpu().numpy().astype(np.uint8 if largest < 256 else np.uint16)


def _lies_on(finished: torch.Tensor, volume: Volume) -> bool:
    return tuple(finished.shape[1:]) == volume.shape and _off_mm(finished, volume) <= AFFINE_TOLERANCE_MM


def _off_mm(finished: torch.Tensor, volume: Volume) -> float:
    affine = finished.affine.cpu().numpy() if isinstance(finished, MetaTensor) else volume.affine
    return float(np.abs(affine - volume.affine).max())


def _merged(finished: torch.Tensor, bundle: Bundle) -> torch.Tensor:
    """One channel of label numbers; channels that hold one structure each are merged."""
    if finished.shape[0] == 1:  # labels that were interpolated are fractions
        return finished[0].round() if finished.is_floating_point() else finished[0]
    chosen = finished > 0
    overlapping = int((chosen.sum(dim=0) > 1).sum())
    if overlapping:
        raise _mismatch(f"labels that overlap in {overlapping} voxels", "one label a voxel")
    merged = torch.zeros(finished.shape[1:], dtype=torch.int32, device=finished.device)
    for label in bundle.labels:
        merged[chosen[label.index]] = label.index
    return merged


def _mismatch(found: str, expected: str) -> PipelineError:
    return PipelineError(
        Code.GRID_MISMATCH,
        f"{found}, expected {expected}",
        "the bundle's postprocessing must invert its preprocessing (Invertd) and end in one label channel",
    )
