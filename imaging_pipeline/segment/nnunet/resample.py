"""From one grid to another as nnU-Net does it: splines through voxel centres, the long axis of thick slices apart."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from imaging_pipeline.segment.nnunet.recipe import Resampling


class Resampler:
    """Brings volumes of one shape to another.

    A spline of any order is linear in its values and separable, so it is one matrix an axis: faster than a spline in
    three dimensions, and on every device.
    """

    def __init__(
        self,
        rule: Resampling,
        shapes: tuple[Sequence[int], Sequence[int]],
        spacings_mm: tuple[Sequence[float], Sequence[float]],
        device: torch.device,
    ) -> None:
        """Work out the axis that goes apart, and the matrices.

        Args:
            rule: Orders, and when an axis goes apart.
            shapes: Voxels before and after.
            spacings_mm: Edges of a voxel before and after; they decide only about the axis apart.
            device: Where volumes will be.
        """
        self._old, self._new = tuple(shapes[0]), tuple(shapes[1])
        self._order, self._order_z = rule.order, rule.order_z
        self._apart = separate_axis(rule, *spacings_mm)
        self._matrices = {
            axis: spline_matrix(self._old[axis], self._new[axis], order).to(device)
            for axis, order in ((axis, self._order_z if axis == self._apart else self._order) for axis in range(3))
            if self._old[axis] != self._new[axis]
        }

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """Resample (Z, Y, X) float32 values."""
        if self._old == self._new:
            return volume
        in_plane = [axis for axis in range(3) if axis != self._apart]
        return self._separately(self._spline(volume, in_plane))

    def _separately(self, values: torch.Tensor) -> torch.Tensor:
        """The axis that goes apart, where there is one and it changes."""
        if self._apart is None or self._apart not in self._matrices:
            return values
        if self._order_z == 0:
            return values.index_select(self._apart, self._matrices[self._apart].argmax(dim=1))
        return _along(values, self._apart, self._matrices[self._apart])

    def _spline(self, volume: torch.Tensor, axes: list[int]) -> torch.Tensor:
        changed = [axis for axis in axes if axis in self._matrices]
        if self._order == 1 and changed:
            shape = [self._new[axis] if axis in changed else volume.shape[axis] for axis in range(3)]
            return torch.nn.functional.interpolate(volume[None, None], shape, mode="trilinear")[0, 0]
        values = volume
        for axis in sorted(changed, key=lambda axis: self._new[axis] / self._old[axis]):  # shrink first
            values = _along(values, axis, self._matrices[axis])
        if self._order > 1 and changed:  # splines overshoot: never beyond what the volume, or its slice, had
            lowest, highest = volume.amin(dim=axes, keepdim=True), volume.amax(dim=axes, keepdim=True)
            values = values.clamp(lowest, highest)
        return values


def separate_axis(rule: Resampling, old_mm: Sequence[float], new_mm: Sequence[float]) -> int | None:
    """The axis that is resampled apart: the one long edge of anisotropic voxels, if there is just one."""
    if rule.separate is not None:
        spacing = old_mm if rule.separate else None
    else:
        spacing = next((mm for mm in (old_mm, new_mm) if max(mm) / min(mm) > rule.anisotropy), None)
    longest = [axis for axis, edge in enumerate(spacing or ()) if edge == max(spacing or ())]
    return longest[0] if len(longest) == 1 else None


def spline_matrix(n_old: int, n_new: int, order: int) -> torch.Tensor:
    """(n_new, n_old) weights of old voxels in new ones: a spline through voxel centres, edges held."""
    centres = (np.arange(n_new) + 0.5) * (n_old / n_new) - 0.5
    columns = [map_coordinates(unit, [centres], order=order, mode="nearest") for unit in np.eye(n_old)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _along(values: torch.Tensor, axis: int, matrix: torch.Tensor) -> torch.Tensor:
    if axis == 2:
        return values @ matrix.T
    if axis == 1:
        return matrix @ values
    return (matrix @ values.flatten(1)).reshape(-1, *values.shape[1:])
