"""Which values of an image are black, and which are white."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SOFT_TISSUE = (40.0, 400.0)
"""Centre and width in HU, as viewers' presets for the abdomen have them."""

_SAMPLES = 200_000
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A range of values.

    Attributes:
        low: What is black, in modality units.
        high: What is white.
        words: What a caption says of it.
    """

    low: float
    high: float
    words: str

    def greys(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values as greys of 8 bits."""
        share = (np.nan_to_num(values.astype(np.float64), posinf=self.high, neginf=self.low) - self.low) / (
            self.high - self.low
        )
        greys: NDArray[np.uint8] = np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)
        return greys


def window_of(modality: str, values: NDArray[Any]) -> Window:
    """Soft tissue for CT, else from the 0.5th to the 99.5th percentile of what is not the lowest value.

    Args:
        modality: (0008,0060).
        values: Of the image, in modality units.
    """
    if modality == "CT":
        centre, width = _SOFT_TISSUE
        return Window(low=centre - width / 2, high=centre + width / 2, words=f"W {width:g} L {centre:g} HU")
    flat = values.ravel(order="K")
    sample = flat[:: max(flat.size // _SAMPLES, 1)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    inside = sample[sample > sample.min()] if sample.size else sample
    low, high = np.percentile(inside, _PERCENTILES) if inside.size else (0.0, 1.0)
    return Window(low=float(low), high=float(max(high, low + 1e-6)), words=f"{low:.4g} to {high:.4g}")
