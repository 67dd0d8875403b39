"""Series into bins, longest first: large bins for the start of a run, small ones for its end."""

import heapq
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Named(Protocol):
    """A series, packed or not."""

    @property
    def series_key(self) -> str:
        """Its name."""


Task = TypeVar("Task", bound=Named)


def deal(tasks: Sequence[Task], n_slots: int, bins_per_slot: int, weigh: Callable[[Task], float]) -> list[list[Task]]:
    """Deal tasks into at most `n_slots` x `bins_per_slot` bins, the heaviest task first to the bin with most room.

    A slot that is free takes the next bin, heaviest first. The first bins of all slots are to hold half of the work,
    the next a quarter, and so on (factoring: Hummel, Schonberg and Flynn, 1992): what a prediction is off by is evened
    out by bins that are short when the end is near, while most series share a partition with many others. Within a
    bin the heaviest comes first.

    Args:
        tasks: Series.
        n_slots: Bins that are worked through beside each other.
        bins_per_slot: Bins for each slot at most.
        weigh: Predicted seconds of a series.

    Returns:
        The bins, the heaviest first; empty ones are left out.
    """
    weights = {task.series_key: weigh(task) for task in tasks}
    total = sum(weights.values())
    shares = [share / n_slots for share in _shares(bins_per_slot) for _ in range(n_slots)]
    bins: list[list[Task]] = [[] for _ in shares]
    heap = [(-share * total, number) for number, share in enumerate(shares)]
    heapq.heapify(heap)
    for task in sorted(tasks, key=lambda task: (-weights[task.series_key], task.series_key)):
        room, number = heapq.heappop(heap)
        bins[number].append(task)
        heapq.heappush(heap, (room + weights[task.series_key], number))
    filled = [members for members in bins if members]
    return sorted(filled, key=lambda members: -sum(weights[task.series_key] for task in members))


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
