"""Scores of voxels that no window has looked at."""

import torch

from imaging_pipeline.segment.accumulator import Fill

_SURE = 1e4
"""So far above all other scores that softmax and sigmoid give exactly 1."""


def background(activation: str) -> Fill:
    """What makes voxels background.

    Args:
        activation: What the bundle applies to scores: softmax, sigmoid, or nothing to probabilities.
    """

    def fill(scores: torch.Tensor, missing: torch.Tensor) -> None:
        scores.masked_fill_(missing, -_SURE if activation == "sigmoid" else 0.0)
        if activation != "sigmoid" and len(scores) > 1:
            scores[0].masked_fill_(missing, _SURE if activation == "softmax" else 1.0)

    return fill
