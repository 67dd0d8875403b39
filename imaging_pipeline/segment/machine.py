"""What all volumes of an engine share: the model, its batches, and the clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from imaging_pipeline.segment.batcher import Batcher
from imaging_pipeline.segment.device import autocast
from imaging_pipeline.segment.model import Model
from imaging_pipeline.settings import SegmentSettings


@dataclass(slots=True, kw_only=True)
class Machine:
    """A model on a device.

    Attributes:
        model: The model.
        device: The device.
        settings: How the network is run.
        open_on: Opens the model on another device.
        more: Takes in a further volume where there is one and memory for it; None: there is none.
        outside_seconds: Time spent on taking in volumes so far, while another was at hand.
        shared: Batches that windows of several volumes fill.
    """

    model: Model
    device: torch.device
    settings: SegmentSettings
    open_on: Callable[[torch.device], Model]
    more: Callable[[], bool] | None = None
    outside_seconds: float = 0.0
    shared: Batcher = field(init=False)

    def __post_init__(self) -> None:
        """Make the shared batches."""
        self.shared = self.batcher(self.model, self.device, self.model.window_batch, self._more)

    @property
    def sharing_bytes(self) -> int:
        """Memory for prepared volumes that wait for a shared batch."""
        return self.settings.sharing_limit_mb << 20

    def batcher(
        self, model: Model, device: torch.device, size: int, more: Callable[[], bool] = lambda: False
    ) -> Batcher:
        """Batches for a model."""
        return Batcher(model.network, size, device, partial(autocast, device, self.settings), more)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Time that does not count for the volume at hand."""
        began, before = time.perf_counter(), self.outside_seconds
        try:
            yield
        finally:
            self.outside_seconds = before + time.perf_counter() - began

    def _more(self) -> bool:
        return self.settings.share_batches and self.more is not None and self.more()
