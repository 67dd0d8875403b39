"""The network over a volume, window by window."""

import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from imaging_pipeline.segment.backends import autocast, window_batch
from imaging_pipeline.segment.model import Model
from imaging_pipeline.settings import SegmentSettings


def predict(prepared: MetaTensor, model: Model, settings: SegmentSettings) -> torch.Tensor:
    """Class scores on the model grid, by the bundle's own inferer.

    Args:
        prepared: (1, I, J, K) volume on the model's device.
        model: Network and inferer.
        settings: Precision and windows a batch; window size, overlap and weighting are the bundle's.

    Returns:
        (C, I, J, K) float32 class scores.
    """
    inferer = model.inferer
    if isinstance(inferer, SlidingWindowInferer):
        inferer.sw_batch_size = window_batch(model.device, settings, inferer.sw_batch_size)
    with torch.inference_mode(), autocast(model.device, settings):
        scores = inferer(prepared.as_tensor()[None], model.network)
    if not isinstance(scores, torch.Tensor):  # deep supervision: the first is the full resolution
        scores = next(iter(scores.values() if isinstance(scores, dict) else scores))
    first: torch.Tensor = scores[0]
    return first.float()
