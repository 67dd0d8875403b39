"""Turns what happens in a run into metrics."""

import time
from collections import Counter
from math import prod

from imaging_pipeline import __version__
from imaging_pipeline.intake.found import Skips, Tasks
from imaging_pipeline.job import Job
from imaging_pipeline.monitoring.backlog import Backlog
from imaging_pipeline.monitoring.metrics import Metrics
from imaging_pipeline.monitoring.observer import Observer
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.tally import Tally

_MIB = 1 << 20


class Meter(Observer):
    """Counts what it is told."""

    def __init__(self, job: Job, metrics: Metrics, backlog: Backlog) -> None:
        """Say which run it is.

        Args:
            job: The run.
            metrics: What is counted.
            backlog: What is left to be done.
        """
        self._metrics = metrics
        self._backlog = backlog
        self._peak_rss_mb = self._peak_device_mb = 0.0
        self._has_ended = False
        digest = "" if job.bundle is None else job.bundle.digest
        metrics.run.info({"version": __version__, "model": job.model_name, "model_sha256": digest})

    def looked(self, todo: Tasks, n_done: int, skipped: Skips, n_given_up: int) -> None:
        """See `Observer`."""
        self._backlog.fill(todo)
        self._has_ended = False
        found = self._metrics.found
        found.clear()
        for fate, number in (("todo", len(todo)), ("already-done", n_done), ("given-up", n_given_up)):
            found.labels(fate, "").set(number)
        for code, number in Counter(skipped.column("code").to_pylist()).items():
            found.labels("skipped", code).set(number)
        self._metrics.last_pass.set(time.time())

    def finished(self, result: SeriesResult) -> None:
        """See `Observer`."""
        metrics, n_bytes = self._metrics, self._backlog.take(result.identity.series_key)
        metrics.processed.labels(result.status.value, result.reason_code).inc()
        metrics.last_series.set(time.time())
        metrics.input_bytes.inc(n_bytes)
        for stage, seconds in result.stage_seconds.items():
            metrics.stage_seconds.labels(stage).observe(seconds)
        if result.status is Status.DONE:
            self._count_done(result)

    def ended(self, tally: Tally, exit_code: int) -> None:
        """See `Observer`."""
        self._metrics.resumed.inc(tally.already_done)
        self._end(exit_code)

    def broke_off(self, exit_code: int) -> None:
        """See `Observer`."""
        self._end(exit_code)

    def _count_done(self, result: SeriesResult) -> None:
        metrics = self._metrics
        metrics.series_seconds.observe(sum(result.stage_seconds.values()))
        metrics.windows.labels("run").inc(result.windows_total - result.windows_skipped)
        metrics.windows.labels("skipped").inc(result.windows_skipped)
        metrics.voxels.inc(prod(result.shape))
        for code in {flag.code.value for flag in result.flags}:
            metrics.flagged.labels(code).inc()
        if result.device:
            metrics.on_device.labels(result.device.partition(":")[0], result.backend).inc()
        self._peak_rss_mb = max(self._peak_rss_mb, result.peak_rss_mb)
        self._peak_device_mb = max(self._peak_device_mb, result.peak_device_mb)
        metrics.peak_rss.set(self._peak_rss_mb * _MIB)
        metrics.peak_device.set(self._peak_device_mb * _MIB)

    def _end(self, exit_code: int) -> None:
        """Once a run: one that has ended may still break off, and that is its exit code then."""
        if not self._has_ended:
            self._metrics.runs.labels(str(int(exit_code))).inc()
        self._has_ended = True
        self._metrics.last_exit_code.set(int(exit_code))
        self._metrics.last_run.set(time.time())
