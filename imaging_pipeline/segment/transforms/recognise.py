"""MONAI's objects as steps of ours, wherever all of their options are covered; everything else stays MONAI's."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.utils import get_equivalent_dtype

from imaging_pipeline.segment.transforms.components import FillHoles, KeepLargest
from imaging_pipeline.segment.transforms.crop_pad import Fill, Foreground, Pad
from imaging_pipeline.segment.transforms.discrete import Activation, Discrete
from imaging_pipeline.segment.transforms.intensity import MinMax, Normalize, Percentiles, Range
from imaging_pipeline.segment.transforms.invert import Back, Invert
from imaging_pipeline.segment.transforms.orientation import Orientation
from imaging_pipeline.segment.transforms.resample import Sampling
from imaging_pipeline.segment.transforms.spacing import Spacing
from imaging_pipeline.segment.transforms.steps import CropForeground, Foreign, Regrid, Revalue, Step

Change = Callable[[torch.Tensor], torch.Tensor]

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
    torch_dtype = _dtype(dtype or np.float64)
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


def _range(owner: mt.ScaleIntensityRanged, _: bool) -> Step | None:
    scaler = owner.scaler
    limits = {name: getattr(scaler, name) for name in ("a_min", "a_max", "b_min", "b_max")}
    if scaler.clip and scaler.b_min is None and scaler.b_max is None:
        return None
    return _intensity(owner, Range(**limits, clip=scaler.clip, dtype=_dtype(scaler.dtype)))


def _percentiles(owner: mt.ScaleIntensityRangePercentilesd, _: bool) -> Step | None:
    scaler = owner.scaler
    unlimited = scaler.b_min is None or scaler.b_max is None
    if unlimited and (scaler.relative or (scaler.clip and scaler.b_min is scaler.b_max)):
        return None
    names = ("lower", "upper", "b_min", "b_max", "clip", "relative", "channel_wise")
    options = {name: getattr(scaler, name) for name in names}
    return _intensity(owner, Percentiles(**options, dtype=_dtype(scaler.dtype)))


def _min_max(owner: mt.ScaleIntensityd, _: bool) -> Step | None:
    scaler = owner.scaler
    options = {name: getattr(scaler, name) for name in ("minv", "maxv", "factor", "channel_wise")}
    return _intensity(owner, MinMax(**options, dtype=_dtype(scaler.dtype)))


def _normalise(owner: mt.NormalizeIntensityd, _: bool) -> Step | None:
    given = owner.normalizer
    numbers = [_numbers(values, given.channel_wise) for values in (given.subtrahend, given.divisor)]
    if any(values == () for values in numbers):
        return None
    change = Normalize(
        subtrahend=numbers[0],
        divisor=numbers[1],
        nonzero=given.nonzero,
        channel_wise=given.channel_wise,
        dtype=_dtype(given.dtype),
    )
    return _intensity(owner, change)


def _numbers(values: Any, channel_wise: bool) -> tuple[float, ...] | None:
    """One number a channel, or one; () for anything else."""
    if values is None:
        return None
    if np.ndim(values) != int(channel_wise):
        return ()
    return tuple(float(value) for value in values) if channel_wise else (float(values),)


def _intensity(owner: Any, change: Change) -> Step:
    return Revalue(owner=owner, changes=_each(owner.keys, change), floating=True)


def _ensure_type(owner: mt.EnsureTyped, _: bool) -> Step | None:
    ensured = owner.converter
    if ensured.data_type != "tensor" or not ensured.track_meta:
        return None
    dtypes = [_dtype(dtype or ensured.dtype) for dtype in owner.dtype]
    changes = [_to(dtype, ensured.device) for dtype in dtypes]
    return Revalue(owner=owner, changes=tuple(zip(owner.keys, changes, strict=True)))


def _cast(owner: mt.CastToTyped, _: bool) -> Step | None:
    changes = [_to(_dtype(dtype or owner.converter.dtype), None) for dtype in owner.dtype]
    return Revalue(owner=owner, changes=tuple(zip(owner.keys, changes, strict=True)))


def _to(dtype: torch.dtype | None, device: torch.device | None) -> Change:
    return lambda values: values.to(device=device, dtype=dtype)


def _activation(owner: mt.Activationsd, _: bool) -> Step | None:
    if owner.converter.kwargs.get("dim", 0) != 0 or any(other is not None for other in owner.other):
        return None
    if any(bool(sigmoid) == bool(softmax) for sigmoid, softmax in zip(owner.sigmoid, owner.softmax, strict=True)):
        return None
    names = ("softmax" if softmax else "sigmoid" for softmax in owner.softmax)
    changes = (Activation(name=name) for name in names)
    return Revalue(owner=owner, changes=tuple(zip(owner.keys, changes, strict=True)))


def _discrete(owner: mt.AsDiscreted, labels: bool) -> Step | None:
    options = owner.converter.kwargs
    if options.get("dim", 0) != 0 or not options.get("keepdim", True):
        return None
    dtype = _dtype(options.get("dtype"))
    per_key = zip(owner.argmax, owner.to_onehot, owner.threshold, owner.rounding, strict=True)
    changes = []
    for argmax, classes, threshold, rounding in per_key:
        integers = labels and (argmax or classes is not None or threshold is not None)
        changes.append(
            Discrete(
                argmax=bool(argmax),
                classes=classes,
                threshold=threshold,
                rounding=rounding is not None,
                dtype=dtype or (None if integers else torch.float32),
            )
        )
    return Revalue(owner=owner, changes=tuple(zip(owner.keys, changes, strict=True)))


def _keep_largest(owner: mt.KeepLargestConnectedComponentd, _: bool) -> Step | None:
    rule = owner.converter
    change = KeepLargest(
        labels=rule.applied_labels,
        onehot=rule.is_onehot,
        independent=rule.independent,
        connectivity=rule.connectivity,
        n_kept=rule.num_components,
    )
    return Revalue(owner=owner, changes=_each(owner.keys, change))


def _fill_holes(owner: mt.FillHolesd, _: bool) -> Step | None:
    change = FillHoles(labels=owner.converter.applied_labels, connectivity=owner.converter.connectivity)
    return Revalue(owner=owner, changes=_each(owner.keys, change))


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


def _each(keys: Sequence[Hashable], change: Change) -> tuple[tuple[Hashable, Change], ...]:
    return tuple((key, change) for key in keys)


def _dtype(dtype: Any) -> torch.dtype | None:
    found: torch.dtype | None = get_equivalent_dtype(dtype, torch.Tensor)  # type: ignore[no-untyped-call]
    return found


_KNOWN: dict[type, Callable[[Any, bool], Step | None]] = {
    mt.Orientationd: _orientation,
    mt.Spacingd: _spacing,
    mt.SpatialPadd: _pad,
    mt.DivisiblePadd: _pad,
    mt.BorderPadd: _pad,
    mt.CropForegroundd: _crop_foreground,
    mt.ScaleIntensityRanged: _range,
    mt.ScaleIntensityRangePercentilesd: _percentiles,
    mt.ScaleIntensityd: _min_max,
    mt.NormalizeIntensityd: _normalise,
    mt.EnsureTyped: _ensure_type,
    mt.CastToTyped: _cast,
    mt.Activationsd: _activation,
    mt.AsDiscreted: _discrete,
    mt.KeepLargestConnectedComponentd: _keep_largest,
    mt.FillHolesd: _fill_holes,
    mt.Invertd: _invert,
}
