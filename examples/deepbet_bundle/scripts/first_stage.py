"""deepbet's first stage: intensities by a thumbnail, and the box around the brain that a small network finds in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, Cropd, MapTransform
from monai.transforms.utils import get_largest_connected_component_mask
from torch.nn.functional import interpolate

THUMBNAIL = (128, 128, 128)
"""Voxels of the whole volume as the first network sees it, whatever their spacing."""


class ClipByThumbnaild(MapTransform):
    """Clip to two percentiles of the thumbnail and scale them to 0..1.

    Args:
        keys: Volumes `(1, I, J, K)`.
        lower: Percentile that becomes 0, in percent.
        upper: Percentile that becomes 1, in percent.
    """

    def __init__(self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5) -> None:
        super().__init__(keys)
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the data with clipped volumes; voxels that are no number count as 0."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = torch.nan_to_num(result[key])
            small = _thumbnail(image)
            low, high = (float(small.quantile(percent / 100)) for percent in (self.lower, self.upper))
            width = max(high - low, torch.finfo(small.dtype).tiny)  # an image of one value becomes 0
            result[key] = ((image - low) / width).clamp(0, 1)
        return result


class CropToBrain(Crop):
    """Crop a volume to the box around the brain, with a margin; `inverse` pads it with 0 again.

    The box is that of the largest component in the thumbnail, without the outermost planes that hold hardly any of
    it. Where the network finds no brain, nothing is cropped.

    Args:
        network: Standardized thumbnail `(1, 1, 128, 128, 128)` → probabilities `(1, 2, 128, 128, 128)`.
        margin: Added at either side, as a share of the box.
        min_share: Share of a plane that must be brain for the plane to belong to the box.
    """

    def __init__(
        self, network: Callable[[torch.Tensor], torch.Tensor], margin: float = 0.1, min_share: float = 0.02
    ) -> None:
        super().__init__(lazy=False)
        self.network = network
        self.margin = margin
        self.min_share = min_share

    def __call__(self, img: torch.Tensor, lazy: bool | None = None) -> torch.Tensor:  # type: ignore[override]
        """Return the part of `img`, (1, I, J, K) in 0..1, in which the brain is."""
        return super().__call__(img, self.box(img), lazy=lazy)

    def box(self, image: torch.Tensor) -> tuple[slice, ...]:
        """Where the brain is, margin included."""
        small = standardize(_thumbnail(image))
        with torch.no_grad():
            found = self.network(small[None])[0, 1:] > 0.5
        brain = torch.as_tensor(get_largest_connected_component_mask(found))[0]
        shares = [brain.float().mean(dim=dims) for dims in ((1, 2), (0, 2), (0, 1))]
        planes = [torch.nonzero(share > self.min_share).flatten() for share in shares]
        if any(len(inside) == 0 for inside in planes):
            return tuple(slice(0, n) for n in image.shape[1:])
        return tuple(self._extent(inside, n) for inside, n in zip(planes, image.shape[1:], strict=True))

    def _extent(self, inside: torch.Tensor, n_voxels: int) -> slice:
        """From planes of the thumbnail to voxels of the volume along one axis; the same rounding as deepbet's."""
        first, last = inside.min(), inside.max() + 1
        scale = n_voxels / torch.tensor(THUMBNAIL[0])
        centre = (scale * ((first + last) / 2)).round()
        size = ((1 + 2 * torch.tensor(self.margin)) * (scale * (last - first))).round()
        return slice(max(0, int(centre - size / 2)), min(n_voxels, int(centre + size / 2)))


class CropToBraind(Cropd):
    """Dictionary version of `CropToBrain`, with the same arguments."""

    def __init__(
        self,
        keys: KeysCollection,
        network: Callable[[torch.Tensor], torch.Tensor],
        margin: float = 0.1,
        min_share: float = 0.02,
    ) -> None:
        super().__init__(keys, CropToBrain(network, margin, min_share))

    @property
    def requires_current_data(self) -> bool:
        """The box is found in the voxels: whatever is pending has to be done first."""
        return True


def standardize(image: torch.Tensor) -> torch.Tensor:
    """Bring a volume to mean 0.449 and standard deviation 0.226, on which both networks were trained."""
    spread = image.std().clamp(min=torch.finfo(image.dtype).tiny)
    return 0.226 * ((image - image.mean()) / spread) + 0.449


def _thumbnail(image: torch.Tensor) -> torch.Tensor:
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    return interpolate(plain[None], THUMBNAIL, mode="nearest-exact")[0]
