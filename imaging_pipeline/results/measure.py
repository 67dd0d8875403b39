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
    counts = np.bincount(mask.array.ravel(order="K"), minlength=max(labels, default=0) + 1)
    return {name: round(float(counts[index]) * mask.voxel_ml, 6) for index, name in labels.items()}
