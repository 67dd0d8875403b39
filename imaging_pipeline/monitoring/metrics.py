"""Every metric that a run counts itself, with its meaning.

Labels take few values, all of them words of this project: no name, key, path or identifier of a patient, study or
series is ever one.
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from imaging_pipeline.errors import Code, FlagCode
from imaging_pipeline.records import Status

NAMESPACE = "imaging_pipeline"

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
"""From a tiny series' decoding to an hour of network on the CPU; neighbours lie within a factor of 2.5."""

STAGES = ("decode", "open_model", "preprocess", "network", "postprocess", "measure", "write", "preview")

_FAILURES = (
    Code.UNSUPPORTED_TRANSFER_SYNTAX,
    Code.DECODE_FAILED,
    Code.TRUNCATED_PIXELS,
    Code.PRECISION_LOSS,
    Code.INPUT_VANISHED,
    Code.OUT_OF_MEMORY,
    Code.GRID_MISMATCH,
    Code.WRITE_FAILED,
    Code.WORKER_CRASH,
    Code.INTERNAL_ERROR,
)
"""There from the start with 0: `increase` does not see the first failure of a kind otherwise."""

_EVER = "Counted over all runs into this RESULTS."

_MEANINGS = {
    "run": "Version of the package; name and digest of the model. Of the run at work, else of the last.",
    "series_processed": f"Series worked through, by status and reason code, which is empty where done. {_EVER}",
    "stage_seconds": "Wall seconds of a stage of one series. A batch of windows that several series share counts for "
    f"each by its windows. {_EVER}",
    "series_seconds": f"Seconds of all stages of a series that is done, waiting left out. {_EVER}",
    "windows": f"Windows of series that are done; kind is run, or skipped for those that show air alone. {_EVER}",
    "input_bytes": f"Bytes of the files of series worked through. {_EVER}",
    "voxels": f"Voxels of series that are done. {_EVER}",
    "series_resumed": f"Series that a run found done and did not compute again. {_EVER}",
    "series_flagged": f"Series that are done and that somebody should look at, by flag. {_EVER}",
    "series_on_device": f"Series that are done, by kind of device (cpu, cuda) and backend. {_EVER}",
    "runs": f"Runs that worked, a pass of --watch with news being one, by exit code. {_EVER}",
    "series_found": "Series in STUDIES by fate (todo, already-done, skipped, given-up) and, of those that are skipped, "
    "reason code. Of the latest pass.",
    "worker_peak_rss_bytes": "Largest resident memory of a worker, by receipts. Of this process's series.",
    "worker_peak_device_bytes": "Largest device memory of a worker, by receipts. Of this process's series.",
    "last_pass_timestamp_seconds": "When a pass last saw all of STUDIES.",
    "last_series_timestamp_seconds": "When a series was last worked through.",
    "last_run_finished_timestamp_seconds": "When a run last ended, a pass of --watch with news being one.",
    "last_run_exit_code": "Exit code of that run; the README's table says what it means.",
}

_MOST = 5000
"""Samples of an earlier run that are looked at: a file that somebody else made is no reason for more."""

Labels = frozenset[tuple[str, str]]
Before = Mapping[tuple[str, Labels], float]
"""Values of samples by name and labels."""


class Metrics:
    """The metrics of one RESULTS; counters and histograms start at 0, see `Carried`.

    Attributes:
        registry: What holds them.
    """

    def __init__(self) -> None:
        """Count nothing yet."""
        self.registry = CollectorRegistry()
        self.run = Info("run", _MEANINGS["run"], namespace=NAMESPACE, registry=self.registry)
        self.processed = self._counter("series_processed", "status", "code")
        self.stage_seconds = self._histogram("stage_seconds", "stage")
        self.series_seconds = self._histogram("series_seconds")
        self.windows = self._counter("windows", "kind")
        self.input_bytes = self._counter("input_bytes")
        self.voxels = self._counter("voxels")
        self.resumed = self._counter("series_resumed")
        self.flagged = self._counter("series_flagged", "flag")
        self.on_device = self._counter("series_on_device", "device", "backend")
        self.runs = self._counter("runs", "exit_code")
        self.found = self._gauge("series_found", "fate", "code")
        self.peak_rss = self._gauge("worker_peak_rss_bytes")
        self.peak_device = self._gauge("worker_peak_device_bytes")
        self.last_pass = self._gauge("last_pass_timestamp_seconds")
        self.last_series = self._gauge("last_series_timestamp_seconds")
        self.last_run = self._gauge("last_run_finished_timestamp_seconds")
        self.last_exit_code = self._gauge("last_run_exit_code")
        self._start()

    def adopt(self, before: Before) -> None:
        """Have the labels and times of an earlier run; its counts are added in `Carried`."""
        labelled = (self.processed, self.stage_seconds, self.windows, self.flagged, self.on_device, self.runs)
        owners = {_sample_name(metric): metric for metric in labelled}
        for name, labels in islice(before, _MOST):
            if name in owners and labels:
                with suppress(ValueError):  # an earlier version had other labels
                    owners[name].labels(**dict(labels))
        for gauge in (self.last_pass, self.last_series, self.last_run, self.last_exit_code):
            gauge.set(before.get((_sample_name(gauge), frozenset()), 0.0))

    def _counter(self, name: str, *labels: str) -> Counter:
        return Counter(name, _MEANINGS[name], labels, namespace=NAMESPACE, registry=self.registry)

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(name, _MEANINGS[name], labels, namespace=NAMESPACE, registry=self.registry)

    def _histogram(self, name: str, *labels: str) -> Histogram:
        where: dict[str, Any] = {"namespace": NAMESPACE, "registry": self.registry}
        return Histogram(name, _MEANINGS[name], labels, buckets=SECONDS, **where)

    def _start(self) -> None:
        """What is there with 0 from the first."""
        self.processed.labels(Status.DONE.value, "")
        for code in _FAILURES:
            self.processed.labels(Status.FAILED.value, code.value)
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for flag in FlagCode:
            self.flagged.labels(flag.value)
        for kind in ("run", "skipped"):
            self.windows.labels(kind)


def _sample_name(metric: Counter | Gauge | Histogram) -> str:
    """Name of the sample that each child has."""
    (family,) = metric.describe()
    return family.name + {"counter": "_total", "histogram": "_count"}.get(family.type, "")
