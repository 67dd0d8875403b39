"""A model opened for use on one device: a MONAI bundle, or an exported nnU-Net model."""

from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.agreement import Agreement
from imaging_pipeline.segment.backends import Network
from imaging_pipeline.segment.bundle import Bundle, Kind, digest_in_use
from imaging_pipeline.segment.monai import open_monai
from imaging_pipeline.segment.nnunet.adapter import open_nnunet
from imaging_pipeline.segment.stream import Advance, Keeping, WindowStream
from imaging_pipeline.segment.transforms import Scores, Sink
from imaging_pipeline.segment.windows import WindowPlan
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

    @property
    def backend(self) -> str:
        """What runs the network."""

    @property
    def network(self) -> Network:
        """(N, 1, I, J, K) windows → (N, C, I, J, K) class scores."""

    @property
    def window_batch(self) -> int:
        """Windows a batch that suit network and device."""

    @property
    def n_channels(self) -> int:
        """Classes; 0 where nobody knows yet."""

    @property
    def window_bytes(self) -> int:
        """About what the network takes for one window; 0 where nobody knows."""

    @property
    def gives_probabilities(self) -> bool:
        """Whether probabilities can be had slab by slab."""

    def prepare(self, volume: Volume) -> Any:
        """A volume on the model's grid, with what the way back needs."""

    def plan(self, prepared: Any) -> WindowPlan | None:
        """Windows over a prepared volume; None where the model goes over whole volumes by itself."""

    def stream(
        self, prepared: Any, plan: WindowPlan, keeping: Keeping, advance: Advance, *, mean: bool
    ) -> WindowStream:
        """The windows of a prepared volume."""

    def whole(self, prepared: Any, agreement: Agreement) -> Scores:
        """Scores of a volume without a plan; the votes of members go into the agreement where they can be counted."""

    def restore(self, scores: Scores, prepared: Any, volume: Volume, sink: Sink | None) -> NDArray[Any]:
        """Label numbers on the voxels of the volume."""


_CACHE: dict[tuple[object, ...], Model] = {}


def open_model(
    bundle: Bundle,
    device: torch.device,
    settings: SegmentSettings,
    others: tuple[torch.device, ...] = (),
    cache_dir: Path | None = None,
) -> Model:
    """Open a model on a device; a process opens the same one once.

    Args:
        bundle: The model.
        device: Where it is to run.
        settings: Mirroring, precision, and what may differ from the bundle.
        others: Devices that share the work with it.
        cache_dir: Keeps which backends trials found the fastest; None: no trials.

    Raises:
        PipelineError: `model-digest-mismatch` where its files have changed since the run began; `model-invalid`,
            `weights-unsafe` or `weights-mismatch` where config, network and weights do not fit together;
            `extra-missing` where an optional package is needed; `settings-invalid` for mirroring that is not allowed,
            or several devices where the model runs on one.
    """
    backends = tuple((item.backend, item.wanted) for item in bundle.weights)
    key = (bundle.digest, device, others, settings, cache_dir, backends, torch.get_num_threads())
    if key not in _CACHE:
        _check_digest(bundle)
        if bundle.kind is Kind.NNUNET:
            _check_one_device(bundle, others)
            _CACHE[key] = open_nnunet(bundle, device, settings)
        else:
            _CACHE[key] = open_monai(bundle, (device, *others), settings, cache_dir)
    return _CACHE[key]


def _check_one_device(bundle: Bundle, others: tuple[torch.device, ...]) -> None:
    if others:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"{1 + len(others)} devices asked for, {bundle.name} is an nnU-Net model and runs on one",
            "name one device, or let several tasks run at a time",
        )


def _check_digest(bundle: Bundle) -> None:
    """Files may change, or be others on another machine, between the start of a run and this moment."""
    found = digest_in_use(bundle.path, bundle.weights)
    if found != bundle.digest:
        raise PipelineError(
            Code.MODEL_DIGEST_MISMATCH,
            f"{bundle.path} has digest {found[:16]} here, the run began with {bundle.digest[:16]}",
            "every machine must see the same bundle; run again once it no longer changes",
        )
