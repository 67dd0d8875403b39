"""An nnU-Net model as the engine wants it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from imaging_pipeline.segment.agreement import Agreement
from imaging_pipeline.segment.backends import Network
from imaging_pipeline.segment.background import background
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.device import allowed_axes
from imaging_pipeline.segment.nnunet.folds import Folds, by_regions, mean_of_folds
from imaging_pipeline.segment.nnunet.model import NnunetModel
from imaging_pipeline.segment.nnunet.plans import read_plans
from imaging_pipeline.segment.nnunet.postprocess import to_labels
from imaging_pipeline.segment.nnunet.preprocess import Prepared
from imaging_pipeline.segment.nnunet.windows import plan_windows
from imaging_pipeline.segment.stream import Advance, Keeping, ScoreOverflowError, WindowStream
from imaging_pipeline.segment.transforms import Scores, Sink
from imaging_pipeline.segment.votes import by_channels
from imaging_pipeline.segment.windows import WindowPlan
from imaging_pipeline.settings import SegmentSettings
from imaging_pipeline.volume.types import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedNnunet:
    """An nnU-Net model ready to run; see `Model`.

    Attributes:
        inner: Plans and networks.
        network: All folds over a window and its mirror images.
        device: Where it runs.
        settings: Precision and batches.
        mirror_axes: Axes that are mirrored.
        foreign: Empty: every step is our own.
    """

    inner: NnunetModel
    network: Network
    device: torch.device
    settings: SegmentSettings
    mirror_axes: tuple[int, ...]
    foreign: tuple[str, ...] = ()
    backend: str = "torch"
    window_bytes: int = 0

    @property
    def n_channels(self) -> int:
        """See `Model`; the classes of every fold."""
        return self.inner.plans.n_outputs * len(self.inner.networks)

    @property
    def gives_probabilities(self) -> bool:
        """See `Model`; not by splines of higher order, which take all planes at once."""
        rule = self.inner.plans.resample_logits
        return rule is None or max(rule.order, rule.order_z) <= 1

    @property
    def window_batch(self) -> int:
        """See `Model`; its wide layers are beyond oneDNN's threshold at batch 1: pairs would only take memory."""
        return self.settings.window_batch or (1 if self.device.type == "cpu" else 2)

    def prepare(self, volume: Volume) -> Prepared:
        """See `Model`."""
        return self.inner.prepare(volume)

    def plan(self, prepared: Prepared) -> WindowPlan:
        """See `Model`."""
        return plan_windows(prepared.image.shape[1:], self.inner.plans.patch_size)

    def stream(
        self,
        prepared: Prepared,
        plan: WindowPlan,
        keeping: Keeping,
        advance: Advance,
        *,
        mean: bool,  # noqa: ARG002
    ) -> WindowStream:
        """See `Model`; always means: resampling and thresholds take them.

        On CPU, too, sums are kept in half precision, unless they have overflowed: masks are those of nnU-Net.
        """
        if self.device.type == "cpu" and not prepared.beyond_half:
            keeping = replace(keeping, dtype=torch.float16)
        fill = background("sigmoid" if self.inner.plans.regions else "softmax")
        return WindowStream(prepared.image, plan, keeping, advance, n_channels=self.n_channels, fill=fill)

    def whole(self, prepared: Prepared, agreement: Agreement) -> Scores:
        """See `Model`; every volume has a plan."""
        raise NotImplementedError

    def restore(self, scores: Scores, prepared: Prepared, volume: Volume, sink: Sink | None) -> NDArray[Any]:  # noqa: ARG002
        """See `Model`; what was prepared knows its volume."""
        dtype = torch.float32 if prepared.beyond_half else torch.float16
        mean = mean_of_folds(scores, len(self.inner.networks), dtype)
        try:
            return to_labels(mean, prepared, self.inner.plans, sink)
        except ScoreOverflowError:
            prepared.beyond_half = True
            raise


def open_nnunet(bundle: Bundle, device: torch.device, settings: SegmentSettings) -> AdaptedNnunet:
    """Open an nnU-Net model; see `open_model`."""
    checkpoints = [Path(item.name) for item in bundle.weights]
    inner = NnunetModel(read_plans(bundle.path), bundle.path, checkpoints, device)
    axes = allowed_axes(bundle.name, inner.mirror_axes, settings)
    regions = inner.plans.regions
    decide = (by_regions if regions else by_channels(None)) if settings.agreement else None
    has_members = len(inner.networks) > 1 or bool(axes)
    network = Folds(inner.networks, axes, decide if has_members else None, regions or None)
    return AdaptedNnunet(inner=inner, network=network, device=device, settings=settings, mirror_axes=axes)
