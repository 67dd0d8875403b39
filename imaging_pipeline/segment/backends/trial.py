"""The fastest form of a torch network on this CPU, found by running some windows."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.segment.backends.fold import fold_norms, fold_shortcuts
from imaging_pipeline.segment.backends.live import live_backends, live_network
from imaging_pipeline.segment.backends.network import Network
from imaging_pipeline.segment.backends.state_dict import TorchNetwork

SMALLEST_AGREEMENT = 0.9999
"""Share of voxels whose class must be torch's."""

LARGEST_DIFFERENCE = 1e-3
"""Scores may differ from torch's by this share of their range."""

_WORTH = 0.9
"""Share of torch's time that another backend must stay below: near a tie, torch needs no second copy of the weights."""

_CONTENDS = 1.5
"""Only candidates within this factor of the fastest are timed a second time."""

_STEADY_SECONDS = 0.5
"""Windows that take longer than this are timed once: what disturbs a machine for a moment weighs little there."""

_WINDOWS = 4
"""Windows that checking and timing a candidate takes."""

_PAYS_WITHIN = 100
"""Windows after which another backend must have won back what it takes to open, a volume or a few."""

_LARGEST_GAIN = 0.5
"""Share of torch's time that no backend is expected to save more of."""

_OPENING_SECONDS = {"openvino": 2.0, "onnxruntime": 8.0}
"""About what it takes to open a backend, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The form of a network that was chosen.

    Attributes:
        name: torch, openvino or onnxruntime.
        network: It.
        window_batch: Windows a batch that suit it; 1 for the others, to which a batch is a loop over its windows.
        seconds: Seconds a window by candidate; empty without a trial, also where the network is so fast that none
            could pay.
        excluded: Why a candidate was not in question, by candidate.
        n_folded: Batch norms folded into convolutions of the torch network.
    """

    name: str
    network: Network
    window_batch: int
    seconds: Mapping[str, float]
    excluded: Mapping[str, str]
    n_folded: int


def fastest(
    network: TorchNetwork,
    size: tuple[int, int, int, int],
    *,
    window_batch: int = 2,
    n_windows: int | None = None,
    backends: Sequence[str] | None = None,
    known: str | None = None,
    budget_seconds: float = 60.0,
    dtype: torch.dtype = torch.float32,
) -> Choice:
    """Choose between a torch network and what it can be turned into.

    Args:
        network: On the CPU; its batch norms are folded in place.
        size: (C, I, J, K) of a window.
        window_batch: Windows a batch for torch.
        n_windows: Windows that are compared and timed at once; None: a batch of torch's.
        backends: Candidates besides torch; None: the likely fastest that is installed, as each costs seconds to open.
        known: What an earlier trial chose: it is opened, and nothing timed.
        budget_seconds: Time that the trial may take; candidates that it leaves no room for are excluded.
        dtype: What layers compute in: float32, or bfloat16 by torch's autocast and by backends that can.
    """
    windows = smooth_noise(n_windows or window_batch, size)
    candidates = _Candidates(network, windows, window_batch, dtype, folds=known in (None, "torch"))
    if known is None:
        candidates.hold_trial(live_backends()[:1] if backends is None else backends, budget_seconds)
    elif known != "torch":
        candidates.open(known)
    return candidates.choose(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowed:
    """How far a candidate may be from torch in float32.

    Attributes:
        difference: Of scores, as a share of their range.
        others: Share of voxels of another class.
    """

    difference: float = LARGEST_DIFFERENCE
    others: float = 1 - SMALLEST_AGREEMENT

    @classmethod
    def beside(cls, scores: torch.Tensor, expected: torch.Tensor) -> "_Allowed":
        """Twice as far as torch's own scores of a lower precision are."""
        extent, difference, others = _compared(scores, expected)
        plain = cls()
        if not difference <= extent:  # not a number, or all of one value: no measure of anything
            return plain
        return cls(
            difference=max(plain.difference, 2 * difference / max(extent, 1e-30)), others=max(plain.others, 2 * others)
        )


class _Candidates:
    """Torch and what stands beside it."""

    def __init__(
        self, network: TorchNetwork, windows: torch.Tensor, window_batch: int, dtype: torch.dtype, *, folds: bool
    ) -> None:
        self._batches = {"torch": window_batch}
        self._networks: dict[str, Network] = {"torch": network}
        self._seconds: dict[str, float] = {}
        self._opening: dict[str, float] = {}
        self._excluded: dict[str, str] = {}
        self._windows = windows
        self._allowed = _Allowed()
        self._dtype = dtype
        fold_shortcuts(network.module)
        self._n_folded = fold_norms(network.module, self._windows[:1]) if folds else 0  # others fold by themselves

    def open(self, name: str) -> bool:
        """Turn the torch network into a candidate; whether that is possible."""
        torch_network = self._networks["torch"]
        assert isinstance(torch_network, TorchNetwork)
        began = time.perf_counter()
        try:
            n_channels, i, j, k = self._windows.shape[1:]
            self._networks[name] = live_network(torch_network, name, (n_channels, i, j, k), self._dtype)
        except PipelineError as error:
            self._excluded[name] = error.message
            return False
        self._opening[name] = time.perf_counter() - began
        self._batches[name] = 1
        return True

    def hold_trial(self, names: Sequence[str], budget_seconds: float) -> None:
        """Check and time every candidate."""
        end, began = time.monotonic() + budget_seconds, time.perf_counter()
        scores = self._scores("torch")
        self._seconds["torch"] = (time.perf_counter() - began) / len(self._windows)
        expected = scores
        if self._dtype is not torch.float32:  # a candidate may be as far from float32 as torch is
            with torch.inference_mode():
                expected = self._networks["torch"](self._windows)
            self._allowed = _Allowed.beside(scores, expected)
        if self._seconds["torch"] < _STEADY_SECONDS:
            self._time("torch")
        for name in names:
            if self._most_saved() < _OPENING_SECONDS.get(name, 0.0):
                self._excluded[name] = f"opening it takes longer than it could save over {_PAYS_WITHIN} windows"
            elif time.monotonic() + _WINDOWS * self._seconds["torch"] > end:
                self._excluded[name] = f"a trial takes longer than the {budget_seconds:g} s that it may"
            elif self.open(name) and self._agrees(name, expected):
                self._time(name)
        limit = _CONTENDS * min(self._seconds.values())
        contenders = [name for name, seconds in self._seconds.items() if seconds <= limit]
        again = len(contenders) > 1 and time.monotonic() < end and limit < _STEADY_SECONDS
        for name in contenders if again else ():
            self._time(name)
        if self._most_saved() < min(_OPENING_SECONDS.values()):
            self._seconds.clear()

    def choose(self, known: str | None) -> Choice:
        """The one that was known and opens, or the fastest, or torch."""
        name = known if known in self._networks else "torch"
        if self._seconds:
            best = min(self._seconds, key=self._seconds.__getitem__)
            name = best if self._pays(best) else "torch"
        return Choice(
            name=name,
            network=self._networks[name],
            window_batch=self._batches[name],
            seconds=self._seconds,
            excluded=self._excluded,
            n_folded=self._n_folded,
        )

    def _most_saved(self) -> float:
        return _LARGEST_GAIN * _PAYS_WITHIN * self._seconds["torch"]

    def _pays(self, name: str) -> bool:
        seconds, of_torch = self._seconds[name], self._seconds["torch"]
        is_won_back = (of_torch - seconds) * _PAYS_WITHIN > self._opening.get(name, 0.0)
        return seconds < _WORTH * of_torch and is_won_back

    def _agrees(self, name: str, expected: torch.Tensor) -> bool:
        difference = _disagreement(self._scores(name), expected, self._allowed)
        if difference:
            self._excluded[name] = difference
            del self._networks[name]
        return not difference

    def _time(self, name: str) -> None:
        """Once, over all windows; the network must have been called before."""
        begin = time.perf_counter()
        self._scores(name)
        seconds = (time.perf_counter() - begin) / len(self._windows)
        self._seconds[name] = min(seconds, self._seconds.get(name, seconds))

    def _scores(self, name: str) -> torch.Tensor:
        is_mixed = self._dtype is not torch.float32
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
            return self._networks[name](self._windows)


def smooth_noise(n: int, size: Sequence[int]) -> torch.Tensor:
    """(N, C, I, J, K) windows that vary over some voxels as images do, the same every time."""
    generator = torch.Generator().manual_seed(0)
    n_channels, *lengths = size
    coarse = torch.randn(n, n_channels, *(max(length // 4, 1) for length in lengths), generator=generator)
    return torch.nn.functional.interpolate(coarse, tuple(lengths), mode="trilinear")


def _disagreement(found: torch.Tensor, expected: torch.Tensor, allowed: _Allowed) -> str:
    """What is wrong with a candidate's scores; empty where they are those of torch in float32."""
    if found.shape != expected.shape:
        return f"scores of shape {tuple(found.shape)}, torch gives {tuple(expected.shape)}"
    extent, difference, others = _compared(found, expected)
    if not difference <= allowed.difference * extent:  # not a number counts as different
        return f"scores up to {difference:.3g} off torch's, of a range of {extent:.3g}"
    return "" if others <= allowed.others else f"{others:.2%} of voxels get another class than by torch"


def _compared(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float, float]:
    """Range of scores, their largest difference, and the share of voxels of another class."""
    others = float((found.argmax(1) != expected.argmax(1)).double().mean())
    return float(expected.max() - expected.min()), float((found - expected).abs().max()), others
