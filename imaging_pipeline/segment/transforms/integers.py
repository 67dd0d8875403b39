"""Integers of the scanner in place of the float32 that MONAI's readers make of them: half of the memory."""

import torch
from monai.data import MetaTensor

from imaging_pipeline.segment.transforms.crop_pad import Fill, Pad
from imaging_pipeline.segment.transforms.geometry import plain, with_values
from imaging_pipeline.segment.transforms.intensity import Cast
from imaging_pipeline.segment.transforms.orientation import Orientation
from imaging_pipeline.segment.transforms.spacing import Spacing
from imaging_pipeline.segment.transforms.steps import Regrid, Revalue, State, Step


def takes_integers(step: Step) -> bool:
    """Whether a step makes of integers what it makes of the same numbers in float32."""
    if isinstance(step, Regrid):
        return all(_moves_integers(plan) for _, plan in step.plans)
    return isinstance(step, Revalue) and all(_keeps(change) for _, change in step.changes)


def is_idle_cast(step: Step, state: State) -> bool:
    """Whether a step would do nothing but make integers float32."""
    image = state.data.get("image")
    if not isinstance(step, Revalue) or not isinstance(image, torch.Tensor) or image.is_floating_point():
        return False
    return all(
        isinstance(change, Cast) and _keeps(change) and change.device in (None, image.device)
        for _, change in step.changes
    )


def as_float(state: State) -> State:
    """The state with the volume in float32 where it was integers."""
    image = state.data.get("image")
    if not isinstance(image, MetaTensor) or image.is_floating_point():
        return state
    return state.with_image("image", with_values(image, plain(image).float()))


def _moves_integers(plan: object) -> bool:
    return isinstance(plan, Orientation | Spacing) or (isinstance(plan, Pad) and plan.fill == Fill())


def _keeps(change: object) -> bool:
    return isinstance(change, Cast) and change.dtype in (None, torch.float32)
