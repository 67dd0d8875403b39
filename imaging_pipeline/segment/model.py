"""A model opened for use on one device: a MONAI bundle, or an exported nnU-Net model."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends import Network, load_network
from imaging_pipeline.segment.backends.average import Average
from imaging_pipeline.segment.backends.probe import check_channels
from imaging_pipeline.segment.bundle import Bundle, Kind, digest_in_use
from imaging_pipeline.segment.config import CONFIG_FAULTS, Config, invalid, parse_config
from imaging_pipeline.segment.device import autocast, window_batch
from imaging_pipeline.segment.grid import as_image, as_labels
from imaging_pipeline.segment.transforms import Chain, compile_chain
from imaging_pipeline.settings import SegmentSettings
from imaging_pipeline.volume.types import Volume


class Model(Protocol):
    """What the engine needs of a model."""

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes that are mirrored."""

    @property
    def foreign(self) -> tuple[str, ...]:
        """Names of transforms that run as MONAI's own objects."""

    def prepare(self, volume: Volume) -> Any:
        """A volume on the model's grid, with what the way back needs."""

    def predict(self, prepared: Any, settings: SegmentSettings) -> torch.Tensor:
        """(C, I', J', K') class scores on the model's grid."""

    def restore(self, scores: torch.Tensor, prepared: Any, volume: Volume) -> NDArray[Any]:
        """Label numbers on the voxels of the volume."""


_CACHE: dict[tuple[object, ...], Model] = {}


def open_model(bundle: Bundle, device: torch.device, *, mirror: bool = False) -> Model:
    """Open a model on a device; a process opens the same one once.

    Args:
        bundle: The model.
        device: Where it is to run.
        mirror: Average over mirror images.

    Raises:
        PipelineError: `model-digest-mismatch` where its files have changed since the run began; `model-invalid`,
            `weights-unsafe` or `weights-mismatch` where config, network and weights do not fit together;
            `extra-missing` where an optional package is needed; `settings-invalid` for mirroring that is not allowed.
    """
    key = (bundle.digest, str(device), mirror, tuple(item.backend for item in bundle.weights))
    if key not in _CACHE:
        _check_digest(bundle)
        _CACHE[key] = (_open_nnunet if bundle.kind is Kind.NNUNET else _open_monai)(bundle, device, mirror)
    return _CACHE[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiModel:
    """A MONAI bundle ready to run.

    Attributes:
        bundle: What it was opened from.
        device: Where it runs.
        network: (N, 1, I, J, K) window → (N, C, I, J, K) class scores.
        chain: The bundle's transforms before and behind the network.
        inferer: The bundle's inferer.
        writer_resamples: Labels on another grid than the native one are brought back by nearest neighbour.
        mirror_axes: Axes that are mirrored.
    """

    bundle: Bundle
    device: torch.device
    network: Network
    chain: Chain
    inferer: Inferer
    writer_resamples: bool
    mirror_axes: tuple[int, ...]

    @property
    def foreign(self) -> tuple[str, ...]:
        """See `Model`."""
        return self.chain.foreign

    def prepare(self, volume: Volume) -> Any:
        """See `Model`."""
        prepared = self.chain.prepare(as_image(volume, self.device))
        if prepared.image.shape[0] != 1:
            raise PipelineError(
                Code.MODEL_MULTI_CHANNEL,
                f"the bundle's preprocessing gives {prepared.image.shape[0]} channels, one is needed",
                "only single-channel bundles run here",
            )
        return prepared

    def predict(self, prepared: Any, settings: SegmentSettings) -> torch.Tensor:
        """See `Model`; window size, overlap and weighting are the bundle's."""
        inferer = self.inferer
        if isinstance(inferer, SlidingWindowInferer):
            inferer.sw_batch_size = window_batch(self.device, settings, inferer.sw_batch_size)
        image = prepared.image.as_tensor() if isinstance(prepared.image, MetaTensor) else prepared.image
        with torch.inference_mode(), autocast(self.device, settings):
            scores: torch.Tensor = inferer(image[None], self.network)
        return scores[0].float()

    def restore(self, scores: torch.Tensor, prepared: Any, volume: Volume) -> NDArray[Any]:
        """See `Model`."""
        finished = self.chain.finish(scores, prepared)
        return as_labels(finished, volume, self.bundle, resample=self.writer_resamples)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedNnunet:
    """An nnU-Net model ready to run.

    Attributes:
        inner: The adapter that does the work.
        device: Where it runs.
        mirror_axes: Axes that are mirrored.
        foreign: Empty: every step is our own.
    """

    inner: Any
    device: torch.device
    mirror_axes: tuple[int, ...]
    foreign: tuple[str, ...] = ()

    def prepare(self, volume: Volume) -> Any:
        """See `Model`."""
        return self.inner.prepare(volume)

    def predict(self, prepared: Any, settings: SegmentSettings) -> torch.Tensor:
        """See `Model`."""
        context: AbstractContextManager[object] = autocast(self.device, settings)
        # its wide layers are beyond oneDNN's threshold at batch 1 already: pairs would only take memory
        batch = settings.window_batch or (1 if self.device.type == "cpu" else 2)
        scores: torch.Tensor = self.inner.predict(
            prepared, mirror=bool(self.mirror_axes), window_batch=batch, autocast=context
        )
        return scores

    def restore(self, scores: torch.Tensor, prepared: Any, volume: Volume) -> NDArray[Any]:  # noqa: ARG002
        """See `Model`; what was prepared knows its volume."""
        labels: NDArray[np.uint8] = self.inner.restore(scores, prepared)
        return labels


def _open_monai(bundle: Bundle, device: torch.device, mirror: bool) -> Model:
    config = parse_config(bundle, device)
    axes = _axes(bundle, bundle.mirror_axes or (), mirror)
    try:
        members = [_member(bundle, config, device, number) for number in range(len(bundle.weights))]
        chain = compile_chain(config.preprocessing, config.postprocessing)
        check_channels(members[0], config.inferer, bundle, device)
    except CONFIG_FAULTS as error:
        raise invalid(bundle, error) from error
    averaged = len(members) > 1 or axes
    return MonaiModel(
        bundle=bundle,
        device=device,
        network=Average(members, axes, chain.activation) if averaged else members[0],
        chain=chain,
        inferer=config.inferer,
        writer_resamples=config.writer_resamples,
        mirror_axes=axes,
    )


def _member(bundle: Bundle, config: Config, device: torch.device, number: int) -> Network:
    weights = bundle.weights[number]
    # each member needs a network of its own: the parser would hand out the same one again
    build = config.build if number == 0 else parse_config(bundle, device).build
    return load_network(weights.path, device, build, weights.backend)


def _open_nnunet(bundle: Bundle, device: torch.device, mirror: bool) -> Model:
    from imaging_pipeline.segment.nnunet.model import NnunetModel
    from imaging_pipeline.segment.nnunet.plans import read_plans

    checkpoints = [Path(item.name) for item in bundle.weights]
    inner = NnunetModel(read_plans(bundle.path), bundle.path, checkpoints, device)
    return AdaptedNnunet(inner=inner, device=device, mirror_axes=_axes(bundle, inner.mirror_axes, mirror))


def _axes(bundle: Bundle, allowed: tuple[int, ...], mirror: bool) -> tuple[int, ...]:
    if mirror and not allowed:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"test-time mirroring asked for, and {bundle.name} allows no axis",
            "leave --tta away, or name mirror_axes in the bundle's configs/metadata.json if it was trained with flips",
        )
    return allowed if mirror else ()


def _check_digest(bundle: Bundle) -> None:
    """Files may change, or be others on another machine, between the start of a run and this moment."""
    found = digest_in_use(bundle.path, bundle.weights)
    if found != bundle.digest:
        raise PipelineError(
            Code.MODEL_DIGEST_MISMATCH,
            f"{bundle.path} has digest {found[:16]} here, the run began with {bundle.digest[:16]}",
            "every machine must see the same bundle; run again once it no longer changes",
        )
