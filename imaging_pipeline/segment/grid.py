"""From the scanner's voxels to the model's grid and back, by the bundle's own transforms."""

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.model import Model
from imaging_pipeline.volume.types import Volume

AFFINE_TOLERANCE_MM = 1e-3
"""A mask's affine may differ from the image's by this, the rounding of float32 affines."""


def to_model_grid(volume: Volume, model: Model) -> MetaTensor:
    """The bundle's preprocessing on a volume: orientation, spacing, intensities.

    Args:
        volume: Values of shape (I, J, K).
        model: Its preprocessing records each step for the way back.

    Returns:
        (1, I', J', K') float32 on the model's device, with affine and applied operations.
    """
    array = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
    affine = torch.from_numpy(volume.affine)
    meta = {"original_affine": affine, "space": "RAS", "spatial_shape": np.array(volume.shape)}
    image = MetaTensor(array[None].to(model.device), affine=affine, meta=meta)
    prepared = model.preprocessing({"image": image})["image"]
    if not isinstance(prepared, MetaTensor) or prepared.shape[0] != 1:
        raise PipelineError(
            Code.MODEL_INVALID,
            f"the bundle's preprocessing gives shape {tuple(prepared.shape)}, one channel is needed",
            "only single-channel bundles run here",
        )
    return prepared


def to_native_grid(scores: torch.Tensor, prepared: MetaTensor, volume: Volume, model: Model) -> Volume:
    """The bundle's postprocessing on the network's output, checked to lie on the native voxels.

    Args:
        scores: (C, I', J', K') class scores on the model grid.
        prepared: What `to_model_grid` returned.
        volume: The native volume.
        model: Its postprocessing inverts what preprocessing did.

    Raises:
        PipelineError: `grid-mismatch` where shape or affine of the labels is another than the volume's.
    """
    pred = MetaTensor(scores, meta=dict(prepared.meta), applied_operations=prepared.applied_operations)
    finished = model.postprocessing({"image": prepared, "pred": pred})["pred"]
    if finished.shape != (1, *volume.shape):
        raise _mismatch(f"labels of shape {tuple(finished.shape)}", f"(1, {', '.join(map(str, volume.shape))})")
    affine = finished.affine.cpu().numpy() if isinstance(finished, MetaTensor) else volume.affine
    off_mm = float(np.abs(affine - volume.affine).max())
    if off_mm > AFFINE_TOLERANCE_MM:
        raise _mismatch(f"labels lie {off_mm:.3g} mm off the image", f"at most {AFFINE_TOLERANCE_MM} mm")
    return volume.with_array(_as_labels(finished[0], model))


def _as_labels(finished: torch.Tensor, model: Model) -> NDArray[Any]:
    largest = max((label.index for label in model.bundle.labels), default=1)
    return finished.cpu().numpy().astype(np.uint8 if largest < 256 else np.uint16)


def _mismatch(found: str, expected: str) -> PipelineError:
    return PipelineError(
        Code.GRID_MISMATCH,
        f"{found}, expected {expected}",
        "the bundle's postprocessing must invert its preprocessing (Invertd) and end in one label channel",
    )
