"""Series that are still to be worked through, as metrics that are looked up when somebody asks."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imaging_pipeline.intake.found import PackedTask, Tasks
from imaging_pipeline.intake.shelf import Remaining
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
        self._left: Remaining[PackedTask] | None = None
        self._n_bytes = self._arrived_at = np.zeros(0)

    def fill(self, todo: Tasks) -> None:
        """These are to be worked through, and no others."""
        with self._lock:
            self._left = todo.remaining()
            self._n_bytes, self._arrived_at = (np.array(todo.column(name)) for name in ("size_bytes", "arrived_at"))

    def take(self, series_key: str) -> int:
        """One is finished: bytes of its files; 0 for one that is not known."""
        with self._lock:
            if self._left is None or not self._left.discard(series_key):
                return 0
            return int(self._n_bytes[self._left.place_of(series_key)])

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's `Collector`."""
        with self._lock:
            is_left = np.zeros(0, np.bool_) if self._left is None else self._left.is_left.copy()
            n_bytes, arrived_at = self._n_bytes[is_left], self._arrived_at[is_left]
        known = arrived_at[arrived_at > 0]
        yield _gauge("queue_series", len(n_bytes))
        yield _gauge("queue_bytes", int(n_bytes.sum()))
        yield _gauge("oldest_unprocessed_timestamp_seconds", float(known.min()) if known.size else None)
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
