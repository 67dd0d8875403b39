"""MONAI's objects as steps of ours, wherever all of their options are covered; everything else stays MONAI's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai import transforms as mt

from imaging_pipeline.segment.transforms import recognise_values as values_of
from imaging_pipeline.segment.transforms.crop_pad import Fill, Foreground, Pad
from imaging_pipeline.segment.transforms.invert import Back, Invert
from imaging_pipeline.segment.transforms.orientation import Orientation
from imaging_pipeline.segment.transforms.places import Sampling
from imaging_pipeline.segment.transforms.spacing import Spacing
from imaging_pipeline.segment.transforms.steps import CropForeground, Foreign, Regrid, Step

_MODES = ("bilinear", "nearest")
_PADDINGS = ("border", "zeros", "reflection")
_DTYPES = (torch.float32, torch.float64)


def recognise(owner: Any, *, labels: bool) -> Step:
    """The step for one of MONAI's objects.

    Args:
        owner: A transform, with all of its arguments resolved.
        labels: Only steps of ours follow: labels may be integers, where MONAI makes them float32.
    """
    known = _KNOWN.get(type(owner))
    step = known(owner, labels) if known is not None else None
    return Foreign(owner=owner) if step is None else step


def flattened(owner: Any) -> tuple[Any, ...]:
    """Transforms within a transform: those of a `Compose`, nested ones too, or itself."""
    if type(owner) is not mt.Compose or owner.unpack_items:
        return (owner,)
    return tuple(part for one in owner.transforms for part in flattened(one))


def _orientation(owner: mt.Orientationd, _: bool) -> Step | None:
    change = owner.ornt_transform
    codes = None if change.as_closest_canonical else change.axcodes
    if codes is not None and len(codes) != 3:
        return None
    plan = Orientation(codes=codes, labels=change.labels)
    return Regrid(owner=owner, plans=tuple((key, plan) for key in owner.keys))


def _spacing(owner: mt.Spacingd, _: bool) -> Step | None:
    change = owner.spacing_transform
    samplings = [
        _sampling(*options)
        for options in zip(owner.mode, owner.padding_mode, owner.align_corners, owner.dtype, strict=True)
    ]
    if any(owner.scale_extent) or change.recompute_affine or None in samplings:
        return None
    sizes = [tuple(float(mm) for mm in values) for values in (change.pixdim, change.min_pixdim, change.max_pixdim)]
    plans = (
        Spacing(pixdim=sizes[0], smallest=sizes[1], largest=sizes[2], diagonal=change.diagonal, sampling=sampling)
        for sampling in samplings
        if sampling is not None
    )
    return Regrid(owner=owner, plans=tuple(zip(owner.keys, plans, strict=True)), single=True, as_float=True)


def _sampling(mode: Any, padding: Any, align_corners: bool | None, dtype: Any) -> Sampling | None:
    torch_dtype = values_of.torch_dtype(dtype or np.float64)
    if mode not in _MODES or padding not in _PADDINGS or torch_dtype is None or torch_dtype not in _DTYPES:
        return None
    nearest = mode == "nearest"
    return Sampling(nearest=nearest, padding=str(padding), align_corners=bool(align_corners), dtype=torch_dtype)


def _pad(owner: mt.Padd, _: bool) -> Step | None:
    fills = [Fill(mode=str(mode), options=owner.padder.kwargs) for mode in owner.mode]
    plans = (Pad(widths=owner.padder.compute_pad_width, fill=fill) for fill in fills)
    return Regrid(owner=owner, plans=tuple(zip(owner.keys, plans, strict=True)))


def _crop_foreground(owner: mt.CropForegroundd, _: bool) -> Step | None:
    if len(owner.keys) > 1:
        return None
    crop = owner.cropper
    foreground = Foreground(
        select=crop.select_fn,
        channels=crop.channel_indices,
        margin=crop.margin,
        inside=crop.allow_smaller,
        divisible=crop.k_divisible,
        fill=Fill(mode=str(owner.mode[0]), options=crop.padder.kwargs),
    )
    notes = (owner.start_coord_key, owner.end_coord_key)
    return CropForeground(owner=owner, key=owner.keys[0], foreground=foreground, notes=notes)


def _invert(owner: mt.Invertd, labels: bool) -> Step | None:
    owners = flattened(owner.transform)
    per_key = zip(owner.keys, owner.orig_keys, owner.nearest_interp, owner.device, owner.post_func, strict=True)
    backs = tuple(
        Back(
            owners=owners,
            key=key,
            original=original,
            nearest=bool(nearest),
            device=None if device is None else torch.device(device),
            finally_=function,
        )
        for key, original, nearest, device, function in per_key
    )
    return Invert(owner=owner, backs=backs, labels=labels)


_KNOWN: dict[type, Callable[[Any, bool], Step | None]] = {
    mt.Orientationd: _orientation,
    mt.Spacingd: _spacing,
    mt.SpatialPadd: _pad,
    mt.DivisiblePadd: _pad,
    mt.BorderPadd: _pad,
    mt.CropForegroundd: _crop_foreground,
    mt.ScaleIntensityRanged: values_of.intensity_range,
    mt.ScaleIntensityRangePercentilesd: values_of.percentiles,
    mt.ScaleIntensityd: values_of.min_max,
    mt.NormalizeIntensityd: values_of.normalise,
    mt.EnsureTyped: values_of.ensure_type,
    mt.CastToTyped: values_of.cast,
    mt.Activationsd: values_of.activation,
    mt.AsDiscreted: values_of.discrete,
    mt.KeepLargestConnectedComponentd: values_of.keep_largest,
    mt.FillHolesd: values_of.fill_holes,
    mt.Invertd: _invert,
}
