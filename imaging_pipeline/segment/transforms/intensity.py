"""Intensities scaled, in the operations of MONAI's transforms and with fewer passes and copies.

Every function takes values of a floating dtype and leaves them as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

_NUMPY_FROM = 1_000_000
"""From here on MONAI leaves `torch.quantile`, whose ranks are float32, for numpy's percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """To another dtype or device.

    Attributes:
        dtype: None: as before.
        device: None: where it is.
    """

    dtype: torch.dtype | None
    device: torch.device | None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """The same values."""
        return values.to(device=self.device, dtype=self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From one interval to another.

    Attributes:
        a_min: What becomes `b_min`.
        a_max: What becomes `b_max`.
        b_min: None: 0, and no lower limit.
        b_max: None: 1, and no upper limit.
        clip: Keep to `b_min` and `b_max`.
        dtype: Of the result; None: as before.
    """

    a_min: float | torch.Tensor
    a_max: float | torch.Tensor
    b_min: float | None
    b_max: float | None
    clip: bool
    dtype: torch.dtype | None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled values."""
        scaled = values - self.a_min
        if self.a_max - self.a_min == 0:
            return scaled if self.b_min is None else scaled.add_(self.b_min)
        scaled.div_(self.a_max - self.a_min)
        if self.b_min is not None and self.b_max is not None:
            scaled.mul_(self.b_max - self.b_min).add_(self.b_min)
        if self.clip:
            scaled.clamp_(self.b_min, self.b_max)
        return scaled.to(self.dtype or values.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """From the interval between two percentiles to another.

    Attributes:
        lower: Percentile that becomes `b_min`.
        upper: Percentile that becomes `b_max`.
        b_min: As of `Range`.
        b_max: As of `Range`.
        clip: As of `Range`.
        relative: To the same percentiles of the new interval, rather than to its ends.
        channel_wise: Each channel by its own percentiles.
        dtype: Of the result; None: as before.
    """

    lower: float
    upper: float
    b_min: float | None
    b_max: float | None
    clip: bool
    relative: bool
    channel_wise: bool
    dtype: torch.dtype | None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled values."""
        scaled = _by_channel(self._scale, values) if self.channel_wise else self._scale(values)
        return scaled.to(self.dtype or values.dtype)

    def _scale(self, values: torch.Tensor) -> torch.Tensor:
        low, high = percentiles(values, self.lower, self.upper)
        b_min, b_max = self.b_min, self.b_max
        if self.relative and b_min is not None and b_max is not None:
            width = b_max - b_min
            b_min, b_max = width * (self.lower / 100.0) + b_min, width * (self.upper / 100.0) + b_min
        return Range(a_min=low, a_max=high, b_min=b_min, b_max=b_max, clip=self.clip, dtype=self.dtype)(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class MinMax:
    """From the interval between smallest and largest value to another.

    Attributes:
        minv: New smallest value.
        maxv: New largest value; None here or there: from 0 to 1.
        factor: Where both are None, multiply by 1 + factor instead.
        channel_wise: Each channel by its own.
        dtype: Of the result; None: as before.
    """

    minv: float | None
    maxv: float | None
    factor: float | None
    channel_wise: bool
    dtype: torch.dtype | None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled values."""
        dtype = self.dtype or values.dtype
        if self.minv is None and self.maxv is None:
            return (values if self.factor is None else values * (1 + self.factor)).to(dtype)
        values = values.to(dtype)
        return _by_channel(self._scale, values) if self.channel_wise else self._scale(values)

    def _scale(self, values: torch.Tensor) -> torch.Tensor:
        low, high = torch.aminmax(values)
        if low == high:
            return values if self.minv is None else values * self.minv
        scaled = (values - low).div_(high - low)
        if self.minv is None or self.maxv is None:
            return scaled
        return scaled.mul_(self.maxv - self.minv).add_(self.minv)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """To mean 0 and standard deviation 1, or by given numbers.

    Attributes:
        subtrahend: Of each channel, or one; None: the mean.
        divisor: Of each channel, or one; None: the standard deviation.
        nonzero: Zeros stay zeros and count for nothing.
        channel_wise: Each channel by its own numbers.
        dtype: Of the result; None: as before.
    """

    subtrahend: tuple[float, ...] | None
    divisor: tuple[float, ...] | None
    nonzero: bool
    channel_wise: bool
    dtype: torch.dtype | None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Normalised values."""
        parts = values.float().unbind() if self.channel_wise else [values.float()]
        done = [self._normalise(part, number) for number, part in enumerate(parts)]
        scaled = torch.stack(done) if self.channel_wise else done[0]
        return scaled.to(self.dtype or values.dtype)

    def _normalise(self, values: torch.Tensor, number: int) -> torch.Tensor:
        mask = values != 0 if self.nonzero else None
        n = values.numel() if mask is None else int(mask.count_nonzero())
        if n == 0:
            return values
        mean = values.sum().item() / n if self.subtrahend is None else self.subtrahend[number]
        centred = values - mean
        if mask is not None:
            centred.mul_(mask)
        divisor = self._deviation(values, centred, mask, n) if self.divisor is None else self.divisor[number]
        return centred.div_(divisor or 1.0)

    def _deviation(self, values: torch.Tensor, centred: torch.Tensor, mask: torch.Tensor | None, n: int) -> float:
        if self.subtrahend is not None:
            return (values if mask is None else values[mask]).std(unbiased=False).item()
        variance, mean = (moment.item() for moment in torch.var_mean(centred, unbiased=False))
        return math.sqrt((variance + mean**2) * values.numel() / n)  # zeros add nothing to the sum, but count


def percentiles(values: torch.Tensor, *which: float) -> list[torch.Tensor]:
    """Percentiles of all values, interpolated linearly.

    Args:
        values: Any shape.
        which: From 0 to 100.
    """
    if values.numel() <= _NUMPY_FROM:
        return [
            torch.quantile(values, torch.tensor(one / 100, dtype=values.dtype, device=values.device)) for one in which
        ]
    if values.device.type == "cpu":
        found = np.percentile(values.numpy(), which)
    else:
        found = _percentiles_of_sorted(values.flatten().sort().values, which)
    return [torch.tensor(float(one), dtype=values.dtype, device=values.device) for one in found]


def _percentiles_of_sorted(ordered: torch.Tensor, which: tuple[float, ...]) -> list[float]:
    places = [one / 100 * (len(ordered) - 1) for one in which]
    pairs = [(ordered[math.floor(place)].item(), ordered[math.ceil(place)].item()) for place in places]
    return [low + (high - low) * (place % 1) for (low, high), place in zip(pairs, places, strict=True)]


def _by_channel(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    return torch.stack([function(channel) for channel in values])
