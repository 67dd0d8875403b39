"""From a volume to what the network sees: crop, normalise, resample."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.nnunet.plans import Plans
from imaging_pipeline.segment.nnunet.recipe import Normalisation
from imaging_pipeline.segment.nnunet.resample import Resampler
from imaging_pipeline.volume.types import Volume

_EPSILON = 1e-8


@dataclass(slots=True, kw_only=True, eq=False)
class Prepared:
    """A volume on the network's grid, and the way back.

    Attributes:
        image: (1, Z', Y', X') float32 on the model's device.
        shape: (Z, Y, X) of the whole native volume, axes in the network's order.
        box: The part of it that was looked at.
        spacing_mm: Of the native volume, axes in the network's order.
        beyond_half: Its logits have been found to leave the range of half precision.
    """

    image: torch.Tensor
    shape: tuple[int, ...]
    box: tuple[slice, ...]
    spacing_mm: tuple[float, ...]
    beyond_half: bool = False


def preprocess(volume: Volume, plans: Plans, device: torch.device) -> Prepared:
    """Crop to what is not zero, normalise and resample, in this order.

    nnU-Net looks at a NIfTI file's voxels as they are stored, as (K, J, I), and moves axes by the plans from there.

    Args:
        volume: Values of shape (I, J, K).
        plans: What the model was trained with.
        device: Where the image shall be.

    Raises:
        PipelineError: `model-invalid` where the values are not what the model's normalisation is for.
    """
    axes = [2 - axis for axis in plans.transpose_forward]
    turned = volume.array.transpose(axes)
    # files hold spacings as float32, and whether half a voxel counts may hang on it
    spacing_mm = tuple(float(np.float32(volume.spacing_mm[axis])) for axis in axes)
    box = _box(turned != 0)
    image = np.array(turned[box], dtype=np.float32, order="C")
    normalised = torch.from_numpy(_normalise(image, plans.normalisation)).to(device)
    if plans.resample_image is not None:
        shapes = (image.shape, _new_shape(image.shape, spacing_mm, plans.spacing_mm))
        normalised = Resampler(plans.resample_image, shapes, (spacing_mm, plans.spacing_mm), device)(normalised)
    return Prepared(image=normalised[None], shape=turned.shape, box=box, spacing_mm=spacing_mm)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box around a mask; the whole of an empty one."""
    sides = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, mask.shape[axis]))
    return tuple(sides)


def _new_shape(shape: tuple[int, ...], old_mm: tuple[float, ...], new_mm: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(max(1, round(old / new * n)) for old, new, n in zip(old_mm, new_mm, shape, strict=True))


def _normalise(image: NDArray[np.float32], how: Normalisation) -> NDArray[np.float32]:
    """In place, and before resampling, so that the mask of what is not zero still fits."""
    if how.scheme == "ZScoreNormalization" and how.within_mask:
        mask = binary_fill_holes(image != 0)
        inside = image[mask]
        if inside.size:
            image[mask] = (inside - inside.mean()) / max(inside.std(), _EPSILON)
    elif how.scheme == "ZScoreNormalization":
        image -= image.mean()
        image /= max(image.std(), _EPSILON)
    elif how.scheme == "CTNormalization":
        np.clip(image, how.lower, how.upper, out=image)
        image -= how.mean
        image /= max(how.std, _EPSILON)
    elif how.scheme == "RescaleTo01Normalization":
        image -= image.min()
        image /= max(image.max(), _EPSILON)
    elif how.scheme == "RGBTo01Normalization":
        _check_8_bit(image)
        image /= 255
    return image


def _check_8_bit(image: NDArray[Any]) -> None:
    if image.min() < 0 or image.max() > 255:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"values from {image.min():g} to {image.max():g}, RGBTo01Normalization takes 0 to 255",
            "the model was trained on 8-bit pictures: choose another, or other series",
        )
