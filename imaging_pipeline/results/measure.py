"""Volumes of labels on the native grid."""

from collections.abc import Mapping

import numpy as np

from imaging_pipeline.volume import Volume


def measure_volumes(mask: Volume, labels: Mapping[int, str]) -> dict[str, float]:
    """Volume of every label in ml, 0 where it is not found.

    Args:
        mask: Label numbers.
        labels: Label number to name.
    """
    n_numbers = int(np.iinfo(mask.array.dtype).max) + 1
    counts = np.zeros(n_numbers, dtype=np.int64)
    for plane in mask.array:  # counting takes eight bytes a voxel
        counts += np.bincount(plane.ravel(order="K"), minlength=n_numbers)
    return {name: round(float(counts[index]) * mask.voxel_ml, 6) for index, name in labels.items()}
