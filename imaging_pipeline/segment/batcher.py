"""Windows of several volumes through one network in batches of one fixed shape."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from imaging_pipeline.segment.backends import Network
from imaging_pipeline.segment.stream import WindowStream
from imaging_pipeline.segment.votes import votes_of
from imaging_pipeline.segment.windows import Shape

Taken = list[tuple[WindowStream, Shape]]


class Batcher:
    """Fills batches from the volume in turn, then from those behind it.

    Every batch has the same shape: what no volume fills is a repetition whose scores are dropped.

    Attributes:
        seconds: Time in the network so far, and for putting its scores in their places.
    """

    def __init__(
        self,
        network: Network,
        size: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]],
        more: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take a network.

        Args:
            network: (N, 1, I, J, K) → (N, C, I, J, K).
            size: Windows a batch.
            device: Where the network takes them.
            autocast: Mixed precision, around the network.
            more: Adds a further volume if there is one and memory for it; whether it did.
        """
        self.network = network
        self.size = size
        self.seconds = 0.0
        self._device = device
        self._autocast = autocast
        self._more = more
        self._streams: list[WindowStream] = []
        self._input: torch.Tensor | None = None

    def add(self, stream: WindowStream) -> None:
        """A volume whose windows may fill batches."""
        self._streams.append(stream)

    def remove(self, stream: WindowStream) -> None:
        """A volume that is through."""
        self._streams = [other for other in self._streams if other is not stream]

    def advance(self, stream: WindowStream) -> None:
        """Run the next windows of a volume, together with others' where it has too few.

        Raises:
            Exception: What the network raises over the windows of this volume alone; no other volume has lost any.
        """
        taken = self._fill(stream)
        try:
            self._run(taken)
        except Exception:
            self._put_back(taken)
            own = [pair for pair in taken if pair[0] is stream]
            if len(own) == len(taken):
                raise
            for _ in own:
                stream.take()
            try:
                self._run(own)
            except Exception:
                self._put_back(own)
                raise

    def _fill(self, stream: WindowStream) -> Taken:
        taken = self._take(stream, self.size)
        tried: list[WindowStream] = [stream]
        while len(taken) < self.size and stream.shares_batches:
            other = next((one for one in self._streams if one not in tried and _fits(one, stream)), None)
            if other is not None:
                tried.append(other)
                taken += self._take(other, self.size - len(taken))
            elif not self._more():
                break
        return taken

    def _take(self, stream: WindowStream, n: int) -> Taken:
        taken: Taken = []
        while len(taken) < n and (start := stream.take()) is not None:
            taken.append((stream, start))
        return taken

    def _put_back(self, taken: Taken) -> None:
        for stream in dict.fromkeys(one for one, _ in taken):
            stream.put_back([start for one, start in taken if one is stream])

    def _run(self, taken: Taken) -> None:
        began = time.perf_counter()
        windows = self._windows(taken)
        with torch.inference_mode(), self._autocast():
            scores = self.network(windows)
        if scores.device.type == "cuda":
            torch.cuda.synchronize(scores.device)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        asking, votes = taken[0][0], votes_of(self.network)
        with torch.inference_mode():
            for number, ((stream, start), values) in enumerate(zip(taken, scores, strict=False)):
                began = time.perf_counter()
                try:
                    stream.give(start, values)
                    if votes is not None:
                        stream.count(start, votes.numbers[number], votes.labels)
                except Exception as error:
                    if stream is asking:  # it stands first: no other has been given anything yet
                        raise
                    stream.error = error
                placing = time.perf_counter() - began
                self.seconds += placing
                stream.seconds += seconds / len(taken) + placing

    def _windows(self, taken: Taken) -> torch.Tensor:
        first, start = taken[0]
        shape = (self.size, 1, *first.plan.size)
        dtype = first.window(start).dtype
        if self._input is None or tuple(self._input.shape) != shape or self._input.dtype != dtype:
            self._input = torch.empty(shape, dtype=dtype, device=self._device)
        for number in range(self.size):
            stream, place = taken[min(number, len(taken) - 1)]
            self._input[number].copy_(stream.window(place))
        return self._input


def _fits(one: WindowStream, other: WindowStream) -> bool:
    return one.shares_batches and one.plan.size == other.plan.size
