"""A storage that many readers share."""

import heapq
import math
from collections.abc import Callable

from benchmarks.simulated_values import Cluster


class Storage:
    """Readers that share a bandwidth evenly: each has got `level` megabytes since the beginning of time."""

    def __init__(self, cluster: Cluster) -> None:
        """Nobody reads yet."""
        self._cluster = cluster
        self._ends: list[tuple[float, int]] = []
        self._readers: dict[int, tuple[float, Callable[[], None]]] = {}
        self._level = 0.0
        self._at = 0.0
        self._last = 0
        self.moved_mb = 0.0

    def start(self, now: float, mb: float, then: Callable[[], None]) -> int:
        """A reader begins; `then` is called at its end.

        Returns:
            Its number.
        """
        self._advance(now)
        self._last += 1
        self._readers[self._last] = (self._level, then)
        heapq.heappush(self._ends, (self._level + mb, self._last))
        return self._last

    def cancel(self, now: float, reader: int) -> None:
        """A reader goes before its end; what it has read was moved all the same."""
        self._advance(now)
        if reader in self._readers:
            self.moved_mb += self._level - self._readers.pop(reader)[0]

    def next_end(self) -> float:
        """When the next reader is done, if none comes or goes before; endless where nobody reads."""
        while self._ends and self._ends[0][1] not in self._readers:
            heapq.heappop(self._ends)
        if not self._ends:
            return math.inf
        rate = self._rate()
        return self._at if math.isinf(rate) else self._at + max(self._ends[0][0] - self._level, 0.0) / rate

    def finish(self, now: float) -> None:
        """End the reader that is due."""
        end, reader = heapq.heappop(self._ends)
        self._advance(now)
        self._level = max(self._level, end)
        begun, then = self._readers.pop(reader)
        self.moved_mb += end - begun
        then()

    def _rate(self) -> float:
        return min(self._cluster.stream_mb_s, self._cluster.storage_mb_s / max(len(self._readers), 1))

    def _advance(self, now: float) -> None:
        if self._readers and now > self._at:
            self._level += (now - self._at) * self._rate()
        self._at = now
