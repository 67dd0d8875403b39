"""Series that are still to be worked through, as metrics that are looked up when somebody asks."""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imaging_pipeline.intake.found import PackedTask
from imaging_pipeline.monitoring.metrics import NAMESPACE
from imaging_pipeline.stores import LocalStore, Store
from imaging_pipeline.workers.attempts import FOLDER

_MEANINGS = {
    "queue_series": "Series of the latest pass that have no result yet, those at work included.",
    "queue_bytes": "Bytes of their files.",
    "oldest_unprocessed_timestamp_seconds": "Modification time of the newest file of the series that has waited "
    "longest; absent where none waits.",
    "results_free_bytes": "Free bytes of the disk of RESULTS; absent where that is no folder.",
    "results_size_bytes": "Size of the disk of RESULTS; absent where that is no folder.",
    "series_in_flight": "Marks of series at work, those that a killed run left included; absent where RESULTS is no "
    "folder.",
    "updated_timestamp_seconds": "When these figures were made.",
}


class Backlog(Collector):
    """What is left of the latest pass, and the disk that it goes to."""

    def __init__(self, out: Store) -> None:
        """Know of nothing yet.

        Args:
            out: RESULTS.
        """
        self._out = out
        self._lock = threading.Lock()
        self._left: dict[str, PackedTask] = {}

    def fill(self, todo: Iterable[PackedTask]) -> None:
        """These are to be worked through, and no others."""
        with self._lock:
            self._left = {task.series_key: task for task in todo}

    def take(self, series_key: str) -> PackedTask | None:
        """One is finished; None for one that is not known."""
        with self._lock:
            return self._left.pop(series_key, None)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's `Collector`."""
        with self._lock:
            left = [(task.size_bytes, task.arrived_at) for task in self._left.values()]
        oldest = min((at for _, at in left if at), default=None)
        yield _gauge("queue_series", len(left))
        yield _gauge("queue_bytes", sum(n_bytes for n_bytes, _ in left))
        yield _gauge("oldest_unprocessed_timestamp_seconds", oldest)
        yield from self._of_folder()
        yield _gauge("updated_timestamp_seconds", time.time())

    def _of_folder(self) -> Iterator[Metric]:
        """What only a folder can tell."""
        free, size, n_at_work = None, None, None
        if isinstance(self._out, LocalStore):
            with suppress(OSError):
                usage = shutil.disk_usage(self._out.root)
                free, size = usage.free, usage.total
            with suppress(OSError):
                folder = self._out.root / FOLDER
                n_at_work = sum(path.suffix == ".json" for path in folder.iterdir()) if folder.is_dir() else 0
        yield _gauge("results_free_bytes", free)
        yield _gauge("results_size_bytes", size)
        yield _gauge("series_in_flight", n_at_work)


def _gauge(name: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"{NAMESPACE}_{name}", _MEANINGS[name])
    if value is not None:
        family.add_metric([], value)
    return family
