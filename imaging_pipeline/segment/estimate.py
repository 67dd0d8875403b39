"""What a task will take for its largest volume, before there is one: to size the executors that run it."""

import math
from dataclasses import dataclass

import torch

from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.device import for_fallback
from imaging_pipeline.segment.memory import Load, rungs
from imaging_pipeline.segment.model import open_model
from imaging_pipeline.settings import Settings

_CPU = torch.device("cpu")

_BYTES_A_VOXEL = 4 * 2 + 4 + 2 * 1
"""Volumes of 16 bits: the one at work, what of it is kept for measuring, the same of the one being written, and the one
decoded ahead; the volume on the model grid, its mask and the one being written."""

_UNKNOWN_VALUES = 64
"""Values a voxel of a window where a network says nothing of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hollow:
    """A volume on the model grid, without memory."""

    image: torch.Tensor


def task_bytes(bundle: Bundle, settings: Settings, shape: tuple[int, int, int]) -> int:
    """Host memory of one task beyond its process, all on the CPU: where a GPU falls short the CPU takes over.

    The model grid is taken to be as fine as the native one.

    Args:
        bundle: The model; it is opened for its channels and windows.
        settings: How it is run.
        shape: Voxels of the largest volume.

    Raises:
        PipelineError: What `open_model` raises.
    """
    model = open_model(bundle, _CPU, for_fallback(settings.segment))
    n_voxels, n_channels = math.prod(shape), max(model.n_channels, 1)
    plan = model.plan(_Hollow(image=torch.empty((1, *shape), device="meta")))
    if plan is None:  # the network goes over whole volumes: scores of all classes at once
        return n_voxels * (4 * n_channels + _BYTES_A_VOXEL)
    window_bytes = model.window_bytes or 4 * _UNKNOWN_VALUES * math.prod(plan.size)
    load = Load(plan=plan, n_channels=n_channels, window_bytes=window_bytes, n_native=n_voxels)
    rung = next(rungs(_CPU, model.window_batch, torch.float32))
    return load.bytes_on(rung, _CPU) + n_voxels * _BYTES_A_VOXEL
