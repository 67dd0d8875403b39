"""MONAI's objects that change values where they are, as steps of ours."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.utils import get_equivalent_dtype

from imaging_pipeline.segment.transforms.components import FillHoles, KeepLargest
from imaging_pipeline.segment.transforms.discrete import Activation, Discrete
from imaging_pipeline.segment.transforms.intensity import Cast, MinMax, Normalize, Percentiles, Range
from imaging_pipeline.segment.transforms.steps import Revalue, Step

Change = Callable[[torch.Tensor], torch.Tensor]


def intensity_range(owner: mt.ScaleIntensityRanged, _: bool) -> Step | None:
    """A step for `ScaleIntensityRanged`, or None; see `recognise`."""
    scaler = owner.scaler
    limits = {name: getattr(scaler, name) for name in ("a_min", "a_max", "b_min", "b_max")}
    if scaler.clip and scaler.b_min is None and scaler.b_max is None:
        return None
    return _intensity(owner, Range(**limits, clip=scaler.clip, dtype=torch_dtype(scaler.dtype)))


def percentiles(owner: mt.ScaleIntensityRangePercentilesd, _: bool) -> Step | None:
    """A step for `ScaleIntensityRangePercentilesd`, or None; see `recognise`."""
    scaler = owner.scaler
    unlimited = scaler.b_min is None or scaler.b_max is None
    if unlimited and (scaler.relative or (scaler.clip and scaler.b_min is scaler.b_max)):
        return None
    names = ("lower", "upper", "b_min", "b_max", "clip", "relative", "channel_wise")
    options = {name: getattr(scaler, name) for name in names}
    return _intensity(owner, Percentiles(**options, dtype=torch_dtype(scaler.dtype)))


def min_max(owner: mt.ScaleIntensityd, _: bool) -> Step | None:
    """A step for `ScaleIntensityd`, or None; see `recognise`."""
    scaler = owner.scaler
    options = {name: getattr(scaler, name) for name in ("minv", "maxv", "factor", "channel_wise")}
    return _intensity(owner, MinMax(**options, dtype=torch_dtype(scaler.dtype)))


def normalise(owner: mt.NormalizeIntensityd, _: bool) -> Step | None:
    """A step for `NormalizeIntensityd`, or None; see `recognise`."""
    given = owner.normalizer
    numbers = [_numbers(values, given.channel_wise) for values in (given.subtrahend, given.divisor)]
    if any(values == () for values in numbers):
        return None
    change = Normalize(
        subtrahend=numbers[0],
        divisor=numbers[1],
        nonzero=given.nonzero,
        channel_wise=given.channel_wise,
        dtype=torch_dtype(given.dtype),
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


def ensure_type(owner: mt.EnsureTyped, _: bool) -> Step | None:
    """A step for `EnsureTyped`, or None; see `recognise`."""
    ensured = owner.converter
    if ensured.data_type != "tensor" or not ensured.track_meta:
        return None
    dtypes = [torch_dtype(dtype or ensured.dtype) for dtype in owner.dtype]
    changes = [_to(dtype, ensured.device) for dtype in dtypes]
    return Revalue(owner=owner, changes=tuple(zip(owner.keys, changes, strict=True)))


def cast(owner: mt.CastToTyped, _: bool) -> Step | None:
    """A step for `CastToTyped`, or None; see `recognise`."""
    changes = [_to(torch_dtype(dtype or owner.converter.dtype), None) for dtype in owner.dtype]
    return Revalue(owner=owner, changes=tuple(zip(owner.keys, changes, strict=True)))


def _to(dtype: torch.dtype | None, device: torch.device | None) -> Change:
    return Cast(dtype=dtype, device=device)


def activation(owner: mt.Activationsd, _: bool) -> Step | None:
    """A step for `Activationsd`, or None; see `recognise`."""
    if owner.converter.kwargs.get("dim", 0) != 0 or any(other is not None for other in owner.other):
        return None
    if any(bool(sigmoid) == bool(softmax) for sigmoid, softmax in zip(owner.sigmoid, owner.softmax, strict=True)):
        return None
    names = ("softmax" if softmax else "sigmoid" for softmax in owner.softmax)
    changes = (Activation(name=name) for name in names)
    return Revalue(owner=owner, changes=tuple(zip(owner.keys, changes, strict=True)))


def discrete(owner: mt.AsDiscreted, labels: bool) -> Step | None:
    """A step for `AsDiscreted`, or None; see `recognise`."""
    options = owner.converter.kwargs
    if options.get("dim", 0) != 0 or not options.get("keepdim", True):
        return None
    dtype = torch_dtype(options.get("dtype"))
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


def keep_largest(owner: mt.KeepLargestConnectedComponentd, _: bool) -> Step | None:
    """A step for `KeepLargestConnectedComponentd`, or None; see `recognise`."""
    rule = owner.converter
    change = KeepLargest(
        labels=rule.applied_labels,
        onehot=rule.is_onehot,
        independent=rule.independent,
        connectivity=rule.connectivity,
        n_kept=rule.num_components,
    )
    return Revalue(owner=owner, changes=_each(owner.keys, change))


def fill_holes(owner: mt.FillHolesd, _: bool) -> Step | None:
    """A step for `FillHolesd`, or None; see `recognise`."""
    change = FillHoles(labels=owner.converter.applied_labels, connectivity=owner.converter.connectivity)
    return Revalue(owner=owner, changes=_each(owner.keys, change))


def _each(keys: Sequence[Hashable], change: Change) -> tuple[tuple[Hashable, Change], ...]:
    return tuple((key, change) for key in keys)


def torch_dtype(dtype: Any) -> torch.dtype | None:
    """The torch dtype of a torch, numpy or Python one; None for None."""
    found: torch.dtype | None = get_equivalent_dtype(dtype, torch.Tensor)  # type: ignore[no-untyped-call]
    return found
