"""Series into bins, longest first: large bins for the start of a run, small ones for its end."""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


def deal(seconds: NDArray[np.float64], n_slots: int, bins_per_slot: int) -> list[Places]:
    """Deal series into at most `n_slots` x `bins_per_slot` bins, the heaviest series first to the bin with most room.

    A slot that is free takes the next bin, heaviest first. The first bins of all slots are to hold half of the work,
    the next a quarter, and so on (factoring: Hummel, Schonberg and Flynn, 1992): what a prediction is off by is evened
    out by bins that are short when the end is near, while most series share a partition with many others. Within a
    bin the heaviest comes first.

    Args:
        seconds: Predicted seconds of each series.
        n_slots: Bins that are worked through beside each other.
        bins_per_slot: Bins for each slot at most.

    Returns:
        Places of series by bin, the heaviest bin first; empty ones are left out.
    """
    total = float(seconds.sum())
    shares = [share / n_slots for share in _shares(bins_per_slot) for _ in range(n_slots)]
    bins: list[list[int]] = [[] for _ in shares]
    heap = [(-share * total, number) for number, share in enumerate(shares)]
    heapq.heapify(heap)
    for place in np.argsort(-seconds, kind="stable").tolist():
        room, number = heapq.heappop(heap)
        bins[number].append(place)
        heapq.heappush(heap, (room + float(seconds[place]), number))
    filled = [np.array(members) for members in bins if members]
    return sorted(filled, key=lambda members: -float(seconds[members].sum()))


def makespan(seconds: Sequence[float], n_slots: int) -> float:
    """When the last of some bins is done, if every slot that is free takes the next one."""
    free_at = [0.0] * n_slots
    for duration in seconds:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def _shares(bins_per_slot: int) -> list[float]:
    """Shares of a slot's work by bin: halves of what is left, and the last two alike."""
    halves = [0.5**number for number in range(1, bins_per_slot)]
    return [*halves, 1 - sum(halves)]
