"""Axes permuted and flipped until they run along given anatomical directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import SpaceKeys

from imaging_pipeline.segment.transforms.geometry import Grid, Move, Shape, Source, Stay, grid_of

Labels = Sequence[tuple[str, str]] | None

_LPS_LABELS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorient(Move):
    """Flips axes, then permutes them.

    Attributes:
        order: For each new axis, the old one.
        flipped: For each old axis, whether it is turned round.
    """

    order: Shape
    flipped: tuple[bool, ...]

    def follow(self, axis: int) -> tuple[int, bool]:
        """Where an axis of the old grid lies; see `Move`."""
        return self.order.index(axis), self.flipped[axis]

    def slab(self, source: Source, axis: int, start: int, stop: int) -> torch.Tensor:
        """A slab on the new axes; see `Move`."""
        old = self.order[axis]
        if self.flipped[old]:
            start, stop = self.grid.shape[axis] - stop, self.grid.shape[axis] - start
        values = source(old, start, stop)
        if any(self.flipped):
            values = values.flip([n + 1 for n, flipped in enumerate(self.flipped) if flipped])
        return values.permute(0, *(n + 1 for n in self.order))


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """To anatomical axis codes.

    Attributes:
        codes: Such as RAS; None: each axis towards the closest positive direction.
        labels: Start and end letter of each world axis; None: L R, P A, I S, or what the image's space says.
    """

    codes: str | None
    labels: Labels = None

    def plan(self, image: MetaTensor) -> tuple[Move, "Unorient"]:
        """The move of an image, and the way back."""
        labels = self.labels
        if labels is None and SpaceKeys(image.meta.get("space", SpaceKeys.RAS)) == SpaceKeys.LPS:
            labels = _LPS_LABELS
        grid = grid_of(image)
        before = nib.orientations.aff2axcodes(grid.affine, labels=labels)
        return _reorient(grid, self.codes, labels), Unorient(codes="".join(before), labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unorient:
    """Back to the axis codes of before; see `Undo`."""

    codes: str
    labels: Labels

    def plan(self, grid: Grid, *, nearest: bool) -> Move:  # noqa: ARG002
        """The way back from a grid."""
        return _reorient(grid, self.codes, self.labels)


def _reorient(grid: Grid, codes: str | None, labels: Labels) -> Move:
    change = nib.io_orientation(grid.affine)
    if codes is not None:
        target = nib.orientations.axcodes2ornt(codes[:3], labels=labels)
        change = nib.orientations.ornt_transform(change, target)
    i, j, k = (int(axis) for axis in np.argsort(change[:, 0]))
    flipped = tuple(bool(direction < 0) for direction in change[:, 1])
    if (i, j, k) == (0, 1, 2) and not any(flipped):
        return Stay(grid=grid)
    shape = (grid.shape[i], grid.shape[j], grid.shape[k])
    xform = nib.orientations.inv_ornt_aff(change, grid.shape)
    return Reorient(grid=grid.moved(xform, shape), order=(i, j, k), flipped=flipped)
