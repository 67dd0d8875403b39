"""Connected components of labels: the largest ones kept, holes filled; on CPU, within the labels' bounding boxes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

_LARGEST_LABEL = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepLargest:
    """Removes all but the largest components.

    Attributes:
        labels: Those to work on, or channels; None: all that occur.
        onehot: One channel a label; None: where there are several channels.
        independent: Each label by itself, rather than their union.
        connectivity: Hops to a neighbour; None: 3.
        n_kept: Components that stay.
    """

    labels: tuple[Any, ...] | None
    onehot: bool | None
    independent: bool
    connectivity: int | None
    n_kept: int

    def covers(self, values: torch.Tensor) -> bool:
        """Whether values are what this works on."""
        onehot = _is_onehot(values) if self.onehot is None else self.onehot
        return onehot or (len(values) == 1 and _is_labels(values))

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Values of shape (C, I, J, K) with 0 where a component was removed."""
        onehot = _is_onehot(values) if self.onehot is None else self.onehot
        array = values.cpu().numpy().copy()
        if onehot:
            self._channels(array)
        elif self.independent:
            self._each_label(array[0])
        else:
            foreground = array[0] != 0 if self.labels is None else np.isin(array[0], np.asarray(self.labels))
            array[0][foreground & ~self._largest(foreground)] = 0
        return torch.from_numpy(array).to(values.device)

    def _each_label(self, array: NDArray[Any]) -> None:
        boxes = ndimage.find_objects(array.astype(np.int32, copy=False))
        for label, box in enumerate(boxes, 1):
            if box is not None and (self.labels is None or label in self.labels):
                foreground = array[box] == label
                array[box][foreground & ~self._largest(foreground)] = 0

    def _channels(self, array: NDArray[Any]) -> None:
        channels = [n for n in range(1, len(array)) if array[n].sum() > 0] if self.labels is None else self.labels
        if self.independent:
            for n in channels:
                foreground = array[n] > 0
                array[n][foreground & ~self._largest(foreground)] = 0
            return
        foreground = (array[list(channels)] == 1).any(0)
        removed = foreground & ~self._largest(foreground)
        for n in channels:
            array[n][removed] = 0

    def _largest(self, foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
        box = _box(foreground)
        if box is None:
            return foreground
        kept = np.zeros_like(foreground)
        kept[box] = self._largest_in(foreground[box])
        return kept

    def _largest_in(self, foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
        components, n = ndimage.label(foreground, _neighbours(self.connectivity))
        if n <= self.n_kept:
            return foreground
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        is_kept = np.zeros(n + 1, dtype=bool)
        is_kept[np.argsort(sizes)[::-1][: self.n_kept]] = True
        kept: NDArray[np.bool_] = is_kept[components]
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class FillHoles:
    """Gives a label to all that it encloses.

    Attributes:
        labels: Those to work on, or channels; None: all that occur.
        connectivity: Hops to a neighbour, of what is not the label; None: 3.
    """

    labels: tuple[Any, ...] | None
    connectivity: int | None

    def covers(self, values: torch.Tensor) -> bool:
        """Whether values are what this works on."""
        return _is_onehot(values) or _is_labels(values)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Values of shape (C, I, J, K) without holes."""
        array = values.cpu().numpy().copy()
        if _is_onehot(values):
            for n in self._in_order(n for n in range(len(array)) if array[n].sum() > 0):
                array[n] = self._filled(array[n] != 0)
        else:
            boxes = ndimage.find_objects(array[0].astype(np.int32, copy=False))
            for label in self._in_order(_occurring(array[0], boxes)):
                self._fill_label(array[0], label, boxes)
        return torch.from_numpy(array).to(values.device)

    def _in_order(self, occurring: Iterable[int]) -> set[Any]:
        """MONAI's order, that of a set which held 0: it decides where one label encloses another."""
        labels = set(occurring if self.labels is None else self.labels)
        labels.discard(0)
        return labels

    def _fill_label(self, array: NDArray[Any], label: float, boxes: list[Any]) -> None:
        box = boxes[int(label) - 1] if label == int(label) and 1 <= label <= len(boxes) else None
        if box is not None:
            array[box][self._filled(array[box] == label)] = label

    def _filled(self, foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
        box = _box(foreground)
        if box is None:
            return foreground
        outside, _ = ndimage.label(~np.pad(foreground[box], 1), _neighbours(self.connectivity))
        filled = foreground.copy()
        filled[box] = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
        return filled


def _occurring(array: NDArray[Any], boxes: list[Any]) -> Iterable[int]:
    if (array == 0).any():
        yield 0
    yield from (label for label, box in enumerate(boxes, 1) if box is not None)


def _is_onehot(values: torch.Tensor) -> bool:
    return len(values) > 1


def _is_labels(values: torch.Tensor) -> bool:
    low, high = (float(end) for end in torch.aminmax(values)) if values.numel() else (0.0, 0.0)
    whole = not values.is_floating_point() or bool((values == values.round()).all())
    return whole and low >= 0 and high <= _LARGEST_LABEL


def _neighbours(connectivity: int | None) -> NDArray[np.bool_]:
    structure: NDArray[np.bool_] = ndimage.generate_binary_structure(3, connectivity or 3)
    return structure


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    rows = (mask.any((1, 2)), mask.any((0, 2)), mask.any((0, 1)))
    places = [np.flatnonzero(row) for row in rows]
    return tuple(slice(int(along[0]), int(along[-1]) + 1) for along in places) if len(places[0]) else None
