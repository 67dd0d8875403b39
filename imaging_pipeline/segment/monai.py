"""A MONAI bundle ready to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.agreement import Agreement, count_whole
from imaging_pipeline.segment.backends import Network
from imaging_pipeline.segment.backends.probe import Probe
from imaging_pipeline.segment.background import background
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.config import CONFIG_FAULTS, invalid, parse_config
from imaging_pipeline.segment.device import allowed_axes, autocast
from imaging_pipeline.segment.grid import as_image, as_labels
from imaging_pipeline.segment.network import Wanted, open_network
from imaging_pipeline.segment.stream import Advance, Keeping, WindowStream
from imaging_pipeline.segment.transforms import Air, Chain, Prepared, Scores, Sink, compile_chain, in_memory
from imaging_pipeline.segment.votes import by_channels, votes_of
from imaging_pipeline.segment.windows import WindowPlan, can_stream, plan_windows
from imaging_pipeline.settings import SegmentSettings
from imaging_pipeline.volume.types import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiModel:
    """A MONAI bundle opened on a device; see `Model`.

    Attributes:
        bundle: What it was opened from.
        device: Where it runs; of several, the one that holds volumes and sums.
        network: (N, 1, I, J, K) window → (N, C, I, J, K) class scores.
        backend: What runs it.
        window_batch: Windows a batch that suit it, for all devices together.
        chain: The bundle's transforms before and behind the network.
        inferer: The bundle's inferer.
        probe: What a window has told of the network; None where it was not tried.
        air: What counts as air, and hence as background; None: nothing does.
        settings: Precision, batches, window starts.
        writer_resamples: Labels on another grid than the native one are brought back by nearest neighbour.
        mirror_axes: Axes that are mirrored.
    """

    bundle: Bundle
    device: torch.device
    network: Network
    backend: str
    window_batch: int
    chain: Chain
    inferer: Inferer
    probe: Probe | None
    air: Air | None
    settings: SegmentSettings
    writer_resamples: bool
    mirror_axes: tuple[int, ...]

    @property
    def foreign(self) -> tuple[str, ...]:
        """See `Model`."""
        return self.chain.foreign

    @property
    def n_channels(self) -> int:
        """See `Model`."""
        return self.bundle.n_outputs if self.probe is None else self.probe.n_channels

    @property
    def window_bytes(self) -> int:
        """See `Model`."""
        return 0 if self.probe is None else self.probe.window_bytes

    @property
    def gives_probabilities(self) -> bool:
        """See `Model`."""
        return self.chain.streams

    def prepare(self, volume: Volume) -> Prepared:
        """See `Model`."""
        prepared = self.chain.prepare(as_image(volume, self.device), self.air)
        if prepared.image.shape[0] != 1:
            raise PipelineError(
                Code.MODEL_MULTI_CHANNEL,
                f"the bundle's preprocessing gives {prepared.image.shape[0]} channels, one is needed",
                "only single-channel bundles run here",
            )
        return prepared

    def plan(self, prepared: Prepared) -> WindowPlan | None:
        """See `Model`; window size, overlap and weighting are the bundle's."""
        if not can_stream(self.inferer) or (self.probe is not None and not self.probe.keeps_size):
            return None
        assert isinstance(self.inferer, SlidingWindowInferer)
        where = self.settings.window_starts
        body = prepared.foreground if where == "body" else None
        return plan_windows(prepared.image.shape[1:], self.inferer, even=where == "even", body=body)

    def stream(
        self, prepared: Prepared, plan: WindowPlan, keeping: Keeping, advance: Advance, *, mean: bool
    ) -> WindowStream:
        """See `Model`; means only where more than the order of scores matters."""
        needed = mean or not self.chain.takes_order_only(prepared, self.n_channels)
        return WindowStream(
            _plain(prepared.image),
            plan,
            keeping,
            advance,
            n_channels=self.n_channels,
            fill=background(self.chain.activation) if needed else None,
            foreground=prepared.foreground,
        )

    def whole(self, prepared: Prepared, agreement: Agreement) -> Scores:
        """See `Model`; the bundle's inferer does it. Votes are counted where it shows the network all at once."""
        with torch.inference_mode(), autocast(self.device, self.settings):
            scores: torch.Tensor = self.inferer(_plain(prepared.image)[None], self.network)
        count_whole(agreement, votes_of(self.network), tuple(prepared.image.shape[1:]))
        return in_memory(scores[0].float())

    def restore(self, scores: Scores, prepared: Prepared, volume: Volume, sink: Sink | None) -> NDArray[Any]:
        """See `Model`."""
        with torch.inference_mode():
            finished = self.chain.finish(scores, prepared, sink)
        return as_labels(finished, volume, self.bundle, resample=self.writer_resamples)


def open_monai(
    bundle: Bundle, devices: tuple[torch.device, ...], settings: SegmentSettings, cache_dir: Path | None
) -> MonaiModel:
    """Open a MONAI bundle; see `open_model`. Volumes and sums are on the first device."""
    device = devices[0]
    config = parse_config(bundle, device)
    axes = allowed_axes(bundle.name, bundle.mirror_axes or (), settings)
    try:
        nearest = settings.restore == "labels"
        chain = compile_chain(config.preprocessing, config.postprocessing, nearest=nearest)
        wanted = Wanted(
            bundle=bundle,
            config=config,
            devices=devices,
            settings=settings,
            cache_dir=cache_dir,
            mirror_axes=axes,
            activation=chain.activation,
            decide=by_channels(chain.threshold) if settings.agreement else None,
        )
        opened = open_network(wanted)
    except CONFIG_FAULTS as error:
        raise invalid(bundle, error) from error
    return MonaiModel(
        bundle=bundle,
        device=device,
        network=opened.network,
        backend=opened.backend,
        window_batch=opened.window_batch,
        chain=chain,
        inferer=config.inferer,
        probe=opened.probe,
        air=settings.air_for(bundle.air),
        settings=settings,
        writer_resamples=config.writer_resamples,
        mirror_axes=axes,
    )


def _plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image
