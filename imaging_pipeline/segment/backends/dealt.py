"""The windows of one batch dealt to replicas of a network on several devices."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from imaging_pipeline.segment.backends.network import Network
from imaging_pipeline.segment.votes import Poll, Votes, votes_of


class Dealt:
    """Replicas on several devices as one network; a thread a device, from the first window to `close`.

    Every replica gets the same share of a batch: one that got fewer windows computes some of them twice, and one that
    got none rests. Batches of one shape thus stay so on every device, which suits cuDNN's choice of algorithms and CUDA
    graphs; smaller ones take less memory everywhere.

    Attributes:
        poll: What members of an ensemble say by themselves of the windows of the last call.
    """

    def __init__(self, networks: Sequence[Network], devices: Sequence[torch.device]) -> None:
        """Start nothing yet.

        Args:
            networks: The same network once a device.
            devices: Where they were loaded; scores come together on the first.

        Raises:
            ValueError: Not one network a device.
        """
        if not networks or len(networks) != len(devices):
            raise ValueError(f"{len(networks)} networks for {len(devices)} devices")
        self.poll = Poll(None)
        self._networks = tuple(networks)
        self._devices = tuple(devices)
        # the thread of a pool ends with the pool, also where that is only forgotten
        self._pools = [ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"device-{device}") for device in devices]

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """See `Network`.

        Raises:
            torch.OutOfMemoryError: Of any replica, when all are finished; so with every other error.
        """
        n_windows = windows.shape[0]
        share_size = -(-n_windows // len(self._networks))
        mode = _Mode.current(self._devices[0].type)
        _settle(windows.device)  # the threads have streams of their own
        futures: list[Future[_Share]] = []
        # a small batch may end before the last replica
        for number, start in enumerate(range(0, n_windows, share_size)):
            share = _filled(windows[start : start + share_size], share_size)
            futures.append(self._pools[number].submit(self._run, number, share, mode))
        wait(futures)  # an error of one must not meet the others in the middle of their work
        shares = [future.result() for future in futures]
        self.poll.give(_joined([share.votes for share in shares], n_windows))
        return torch.cat([share.scores for share in shares])[:n_windows]

    def close(self) -> None:
        """End the threads; no window can be computed afterwards."""
        for pool in self._pools:
            pool.shutdown(wait=True)

    def _run(self, number: int, share: torch.Tensor, mode: "_Mode") -> "_Share":
        device, first = self._devices[number], self._devices[0]
        with ExitStack() as stack:
            mode.enter(stack, device)
            scores = self._networks[number](share.to(device)).to(first)
            votes = votes_of(self._networks[number])
            votes = votes and replace(votes, numbers=votes.numbers.to(first))
            _settle(device)
            _settle(first)
            return _Share(scores=scores, votes=votes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one replica gives, on the first device."""

    scores: torch.Tensor
    votes: Votes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mode:
    """What torch keeps a thread: without it a replica would record gradients and leave mixed precision."""

    is_inference: bool
    has_gradients: bool
    autocasts: bool
    autocast_dtype: torch.dtype

    @classmethod
    def current(cls, device_type: str) -> "_Mode":
        return cls(
            is_inference=torch.is_inference_mode_enabled(),
            has_gradients=torch.is_grad_enabled(),
            autocasts=torch.is_autocast_enabled(device_type),
            autocast_dtype=torch.get_autocast_dtype(device_type),
        )

    def enter(self, stack: ExitStack, device: torch.device) -> None:
        stack.enter_context(torch.inference_mode(self.is_inference))
        stack.enter_context(torch.set_grad_enabled(self.has_gradients))
        stack.enter_context(torch.autocast(device.type, dtype=self.autocast_dtype, enabled=self.autocasts))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))


def _joined(votes: Sequence[Votes | None], n_windows: int) -> Votes | None:
    """Votes on all windows; None where nobody voted."""
    given = [share for share in votes if share is not None]
    if not given:
        return None
    return replace(given[0], numbers=torch.cat([share.numbers for share in given])[:n_windows])


def _filled(share: torch.Tensor, size: int) -> torch.Tensor:
    """A share of `size` windows, the last one repeated."""
    n_missing = size - share.shape[0]
    return torch.cat([share, share[-1:].expand(n_missing, *share.shape[1:])]) if n_missing else share


def _settle(device: torch.device) -> None:
    """Wait until what this thread has asked of a device is there for other threads."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
