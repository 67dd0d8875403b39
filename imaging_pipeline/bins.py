"""Series into bins of even cost, longest first."""

import heapq
from collections.abc import Sequence

from imaging_pipeline.records import SeriesTask


def deal(tasks: Sequence[SeriesTask], n_bins: int) -> list[list[SeriesTask]]:
    """Deal tasks into at most `n_bins` bins, each task to the bin that is emptiest so far (Graham, 1969: LPT).

    The cost of a series is its voxels. Bins that stay empty are left out; the heaviest bins come first.
    """
    bins: list[list[SeriesTask]] = [[] for _ in range(min(n_bins, len(tasks)))]
    heap = [(0, number) for number in range(len(bins))]
    for task in sorted(tasks, key=lambda task: (-task.n_voxels, task.identity.series_key)):
        load, number = heapq.heappop(heap)
        bins[number].append(task)
        heapq.heappush(heap, (load + task.n_voxels, number))
    return sorted(bins, key=lambda members: -sum(task.n_voxels for task in members))
