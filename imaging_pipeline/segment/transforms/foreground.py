"""Which voxels are body and which are air, for models that call air background."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import torch

from imaging_pipeline.segment.transforms.geometry import plain
from imaging_pipeline.segment.transforms.intensity import Cast, Range
from imaging_pipeline.segment.transforms.steps import Regrid, Revalue, Step

CLIP: Final = "clip"
"""Air is what the bundle's own intensity rule clips to its lower end."""

Air = float | Literal["clip"]
"""Voxels at or below this are air, in the modality's units; or `CLIP`."""


def above(image: Any, air: Air | None) -> torch.Tensor | None:
    """(I, J, K) voxels above a number; None where none is given.

    Args:
        image: (C, I, J, K) in the modality's units.
        air: The number.
    """
    if air is None or air == CLIP or not isinstance(image, torch.Tensor):
        return None
    return (plain(image) > air).any(0)


def above_floor(image: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor | None:
    """(I, J, K) voxels above what the last clipping step clips to; None where later steps change values again.

    Args:
        image: (C, I, J, K) after all steps.
        steps: Those that made it.
    """
    for step in reversed(steps):
        if isinstance(step, Regrid) or (isinstance(step, Revalue) and _all(step, Cast)):
            continue
        if isinstance(step, Revalue) and _all(step, Range):
            change = step.changes[0][1]
            assert isinstance(change, Range)
            ends = (change.b_min, change.b_max)
            if not change.clip or ends[0] is None or ends[1] is None or ends[0] >= ends[1]:
                return None
            return (plain(image) > ends[0]).any(0)
        return None
    return None


def _all(step: Revalue, kind: type) -> bool:
    return all(isinstance(change, kind) for _, change in step.changes)
