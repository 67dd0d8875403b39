"""The network of a bundle: every member in the form that suits its device, put together as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.inferers import SlidingWindowInferer

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends import Network, load_network
from imaging_pipeline.segment.backends.average import Average
from imaging_pipeline.segment.backends.choices import Choices, choice_key
from imaging_pipeline.segment.backends.dealt import Dealt
from imaging_pipeline.segment.backends.fold import fold_norms, fold_shortcuts
from imaging_pipeline.segment.backends.live import live_network
from imaging_pipeline.segment.backends.probe import Probe, probe, window_size
from imaging_pipeline.segment.backends.sharded import shard
from imaging_pipeline.segment.backends.state_dict import TorchNetwork
from imaging_pipeline.segment.backends.trial import fastest, smooth_noise
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.config import Config, parse_config
from imaging_pipeline.segment.device import acceleration, network_dtype, window_batch
from imaging_pipeline.segment.votes import Decide
from imaging_pipeline.segment.weights import LIVE, Weights
from imaging_pipeline.segment.windows import can_stream
from imaging_pipeline.settings import SegmentSettings

_CPU = torch.device("cpu")
_CHOICES = "backends.json"

_QUICK_BYTES = 4 << 20
"""Windows that take less memory than this are through in milliseconds whatever runs them: no trial could pay."""

_HEAVY_BYTES = 1 << 30
"""Of windows that take more memory than this, a trial runs one at a time: two may not fit where one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A network ready for windows.

    Attributes:
        network: (N, 1, I, J, K) windows → (N, C, I, J, K) class scores, on the first device.
        backend: What runs it.
        window_batch: Windows a batch that suit it, for all devices together.
        probe: What a window has told of it; None where it was not tried.
    """

    network: Network
    backend: str
    window_batch: int
    probe: Probe | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be opened, and where.

    Attributes:
        bundle: The model.
        config: What its inference config defines; its network is taken for the first member.
        devices: Each gets the whole network and a share of every batch; or some of its layers.
        settings: Precision, batches, acceleration.
        cache_dir: Keeps which backends trials found the fastest; None: no trials.
        mirror_axes: Axes that are mirrored.
        activation: What the bundle applies to scores; see `Average`.
        decide: What a member by itself makes of its probabilities; None: nobody asks.
    """

    bundle: Bundle
    config: Config
    devices: tuple[torch.device, ...]
    settings: SegmentSettings
    cache_dir: Path | None
    mirror_axes: tuple[int, ...]
    activation: str
    decide: Decide | None

    @property
    def is_sharded(self) -> bool:
        """Whether the layers of one network lie on several devices."""
        return self.settings.shard and len(self.devices) > 1


def open_network(wanted: Wanted) -> Opened:
    """Open every member of a bundle's network on every device, and make one network of them.

    Raises:
        PipelineError: What `load_network`, `probe`, `live_network` and `accelerated` raise; `model-invalid` for weights
            whose layers cannot be told apart, where they are to be spread over devices.
    """
    opener = _Opener(wanted)
    if wanted.is_sharded:
        network, n_replicas = opener.whole(wanted.devices[0]), 1
    else:
        replicas = [opener.whole(device) for device in wanted.devices]
        network, n_replicas = Dealt(replicas, wanted.devices) if len(replicas) > 1 else replicas[0], len(replicas)
    return Opened(network=network, backend=opener.backend, window_batch=opener.batch * n_replicas, probe=opener.probe)


class _Opener:
    """Opens one member after the other; what the first one shows holds for all.

    Attributes:
        backend: What runs them.
        batch: Windows a batch that suit one device.
        probe: What a window has told of the first.
    """

    def __init__(self, wanted: Wanted) -> None:
        inferer = wanted.config.inferer
        own = inferer.sw_batch_size if isinstance(inferer, SlidingWindowInferer) else 1
        self.backend = wanted.bundle.weights[0].backend
        self.batch = window_batch(wanted.devices[0], wanted.settings, own)
        self.probe: Probe | None = None
        self._torch_batch = self.batch
        self._wanted = wanted
        self._size = window_size(inferer)
        self._dtype = network_dtype(wanted.devices[0], wanted.settings)
        self._n_loaded = 0
        self._known: str | None = None

    def whole(self, device: torch.device) -> Network:
        """The members on a device as one network."""
        members = [self._member(weights, device) for weights in self._wanted.bundle.weights]
        if len(members) == 1 and not self._wanted.mirror_axes:
            return members[0]
        return Average(members, self._wanted.mirror_axes, self._wanted.activation, self._wanted.decide)

    def _member(self, weights: Weights, device: torch.device) -> Network:
        how = acceleration(device, self._wanted.settings)
        loaded = self._load(weights, _CPU if self._wanted.is_sharded else device)
        if self._wanted.is_sharded:
            return self._spread(loaded)
        network = self._formed(loaded, weights, device, may_choose=how == "off")
        if how == "off" or (self._wanted.settings.acceleration == "auto" and not isinstance(network, TorchNetwork)):
            return network
        from imaging_pipeline.segment.backends.accelerate import accelerated  # torch's compiler takes half a second

        return accelerated(network, device, how)

    def _load(self, weights: Weights, device: torch.device) -> Network:
        # each member needs a network of its own: the parser would hand out the same one again
        config = parse_config(self._wanted.bundle, device) if self._n_loaded else self._wanted.config
        network = load_network(weights.path, device, config.build, weights.backend)
        if not self._n_loaded:
            self.probe = probe(network, config.inferer, self._wanted.bundle, device)
        self._n_loaded += 1
        return network

    def _formed(self, network: Network, weights: Weights, device: torch.device, *, may_choose: bool) -> Network:
        """The network as its backend runs it; batch norms are folded where torch runs it on the CPU."""
        if not isinstance(network, TorchNetwork):
            return network
        if weights.wanted in LIVE and weights.backend not in LIVE:
            return self._turned(network, weights.wanted, device)
        size = self._window()
        if device.type != "cpu" or weights.backend != "torch" or size is None or self._dtype is torch.float16:
            return network
        if weights.wanted == "auto" and may_choose and self._wanted.cache_dir is not None and not self._is_quick():
            return self._fastest(network, size, self._wanted.cache_dir / _CHOICES)
        fold_shortcuts(network.module)
        fold_norms(network.module, smooth_noise(1, size))
        return network

    def _window(self) -> tuple[int, int, int, int] | None:
        """Size of the windows that a volume is cut into; None where something else may reach the network."""
        keeps_size = self.probe is not None and self.probe.keeps_size
        return self._sized() if keeps_size and can_stream(self._wanted.config.inferer) else None

    def _is_quick(self) -> bool:
        return self.probe is not None and self.probe.window_bytes < _QUICK_BYTES

    def _sized(self) -> tuple[int, int, int, int] | None:
        return None if self._size is None else (1, self._size[0], self._size[1], self._size[2])

    def _fastest(self, network: TorchNetwork, size: tuple[int, int, int, int], file: Path) -> Network:
        """The first member stands for all; what a trial found is kept."""
        bundle, choices = self._wanted.bundle, Choices(path=file)
        names = [item.name for item in bundle.weights]
        key = choice_key(bundle.digest, names, size, self._torch_batch, self._dtype)
        known = choices.find(key) if self._known is None else self._known
        n_windows = 1 if self.probe is not None and self.probe.window_bytes > _HEAVY_BYTES else None
        choice = fastest(
            network, size, window_batch=self._torch_batch, n_windows=n_windows, known=known, dtype=self._dtype
        )
        if choice.seconds:
            choices.keep(key, choice.name)
        self._known = self.backend = choice.name
        self.batch = self._wanted.settings.window_batch or choice.window_batch
        return choice.network

    def _turned(self, network: TorchNetwork, backend: str, device: torch.device) -> Network:
        name, size = self._wanted.bundle.name, self._sized()
        if device.type != "cpu":
            raise PipelineError(
                Code.DEVICE_NOT_FOUND, f"{backend} runs a state dict on the CPU, not on {device}", "use --device cpu"
            )
        if size is None:
            raise PipelineError(
                Code.MODEL_INVALID,
                f"{backend} runs windows of one shape, {name} takes whole volumes",
                "leave models.backend at auto, or set it to torch",
            )
        self.backend = backend
        self.batch = self._wanted.settings.window_batch or 1
        return live_network(network, backend, size, self._dtype)

    def _spread(self, network: Network) -> Network:
        if not isinstance(network, TorchNetwork) or isinstance(network.module, torch.jit.ScriptModule):
            raise PipelineError(
                Code.MODEL_INVALID,
                f"the layers of {self.backend} weights cannot be spread over {_named(self._wanted.devices)}",
                "use the state dict, or leave segment.shard off",
            )
        return shard(network.module, self._wanted.devices, self._sized())


def _named(devices: Sequence[torch.device]) -> str:
    return ", ".join(map(str, devices))
