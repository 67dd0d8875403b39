"""An nnU-Net model as the engine wants it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imaging_pipeline.segment.backends import Network
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.device import allowed_axes, autocast
from imaging_pipeline.segment.nnunet.model import NnunetModel
from imaging_pipeline.segment.nnunet.plans import read_plans
from imaging_pipeline.segment.nnunet.preprocess import Prepared
from imaging_pipeline.segment.stream import Advance, Keeping, WindowStream
from imaging_pipeline.segment.transforms import Scores, Sink, in_memory
from imaging_pipeline.segment.transforms.scores import gathered
from imaging_pipeline.segment.windows import WindowPlan
from imaging_pipeline.settings import SegmentSettings
from imaging_pipeline.volume.types import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedNnunet:
    """An nnU-Net model ready to run; see `Model`.

    Attributes:
        inner: What does the work.
        device: Where it runs.
        settings: Precision and batches.
        mirror_axes: Axes that are mirrored.
        foreign: Empty: every step is our own.
    """

    inner: NnunetModel
    device: torch.device
    settings: SegmentSettings
    mirror_axes: tuple[int, ...]
    foreign: tuple[str, ...] = ()
    backend: str = "torch"
    window_bytes: int = 0
    gives_probabilities: bool = False

    @property
    def n_channels(self) -> int:
        """See `Model`."""
        return self.inner.plans.n_outputs

    @property
    def network(self) -> Network:
        """See `Model`."""
        return self.inner.networks[0]

    @property
    def window_batch(self) -> int:
        """See `Model`; its wide layers are beyond oneDNN's threshold at batch 1: pairs would only take memory."""
        return self.settings.window_batch or (1 if self.device.type == "cpu" else 2)

    def prepare(self, volume: Volume) -> Prepared:
        """See `Model`."""
        return self.inner.prepare(volume)

    def plan(self, prepared: Prepared) -> WindowPlan | None:  # noqa: ARG002
        """See `Model`."""
        return None

    def stream(
        self, prepared: Prepared, plan: WindowPlan, keeping: Keeping, advance: Advance, *, mean: bool
    ) -> WindowStream:
        """See `Model`."""
        raise NotImplementedError

    def whole(self, prepared: Prepared) -> Scores:
        """See `Model`."""
        context = autocast(self.device, self.settings)
        scores = self.inner.predict(
            prepared, mirror=bool(self.mirror_axes), window_batch=self.window_batch, autocast=context
        )
        return in_memory(scores)

    def restore(self, scores: Scores, prepared: Prepared, volume: Volume, sink: Sink | None) -> NDArray[Any]:  # noqa: ARG002
        """See `Model`; what was prepared knows its volume."""
        labels: NDArray[np.uint8] = self.inner.restore(gathered(scores), prepared)
        return labels


def open_nnunet(bundle: Bundle, device: torch.device, settings: SegmentSettings) -> AdaptedNnunet:
    """Open an nnU-Net model; see `open_model`."""
    checkpoints = [Path(item.name) for item in bundle.weights]
    inner = NnunetModel(read_plans(bundle.path), bundle.path, checkpoints, device)
    axes = allowed_axes(bundle.name, inner.mirror_axes, settings)
    return AdaptedNnunet(inner=inner, device=device, settings=settings, mirror_axes=axes)
