"""An nnU-Net model opened for use: one network a fold, on one device."""

from collections.abc import Sequence
from pathlib import Path

import torch

from imaging_pipeline.segment.nnunet.network import build_network
from imaging_pipeline.segment.nnunet.plans import Plans
from imaging_pipeline.segment.nnunet.preprocess import Prepared, preprocess
from imaging_pipeline.segment.nnunet.weights import load_weights, read_checkpoint
from imaging_pipeline.volume.types import Volume


class NnunetModel:
    """A trained nnU-Net.

    Attributes:
        plans: What it was opened by.
        networks: One a fold, in evaluation mode, on the device.
        mirror_axes: Axes of the network's input that prediction may average over, by the first fold.
    """

    def __init__(self, plans: Plans, path: Path, checkpoints: Sequence[Path], device: torch.device) -> None:
        """Build the networks and read their weights.

        Args:
            plans: What `read_plans` gave for the folder.
            path: The folder.
            checkpoints: Those of `plans.checkpoints` to average over, relative to it; at least one.
            device: Where the networks run.

        Raises:
            PipelineError: `extra-missing`, `model-invalid`, `weights-unsafe` or `weights-mismatch`.
        """
        self.plans = plans
        self.device = device
        networks, mirror_axes = [], []
        for name in checkpoints:
            checkpoint = read_checkpoint(path / name)
            network = build_network(plans)
            load_weights(network, checkpoint, name.as_posix())
            networks.append(network.eval().requires_grad_(False).to(device))
            mirror_axes.append(checkpoint.mirror_axes)
        self.networks = tuple(networks)
        self.mirror_axes = mirror_axes[0]

    def prepare(self, volume: Volume) -> Prepared:
        """The volume on the network's grid: cropped, normalised, resampled.

        Raises:
            PipelineError: `model-invalid` where the values are not what the model's normalisation is for.
        """
        return preprocess(volume, self.plans, self.device)
