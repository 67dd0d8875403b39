"""One series from its files to its receipt, in three steps that different threads may take."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.host import now, peak_rss_mb, reset_peak_rss
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesResult, SeriesTask, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.measure import measure_volumes
from imaging_pipeline.results.nifti import write_nifti
from imaging_pipeline.results.probabilities import ProbabilityFile
from imaging_pipeline.results.receipt import read_receipt, write_receipt
from imaging_pipeline.results.sidecar import write_sidecar
from imaging_pipeline.sources import Source
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.decode import decode

if TYPE_CHECKING:  # torch loads with the first series that needs it
    from imaging_pipeline.segment.engine import Engine, Segmentation

_REPORT_IT = "this is a fault of imaging_pipeline: please report it with the run's log"


class Case:
    """A series at work. Errors of any step are kept: the steps behind it do nothing, and the receipt says why.

    Attributes:
        task: The series.
        result: What is known so far; final once the case is finished.
    """

    def __init__(self, task: SeriesTask, job: Job) -> None:
        """Look for the receipt of an earlier try of the same run.

        Args:
            task: The series.
            job: What it has in common with others.
        """
        earlier = read_receipt(job.out, task.identity.series_key, job.model_name)
        self.task = task
        self.is_done = earlier is not None and earlier.run_id == job.run_id and earlier.status is Status.DONE
        if earlier is not None and self.is_done:
            self.result = earlier
        else:
            attempt = 1 + (earlier.attempt if earlier is not None else 0)
            result = replace(job.result(task.identity, Status.FAILED), attempt=attempt)
            self.result = replace(result, geometry_verdict=task.verdict, findings=task.findings)
        self._job = job
        self._volume: Volume | None = None
        self._mask: Volume | None = None
        self._probabilities: ProbabilityFile | None = None
        self._seconds: dict[str, float] = {}

    @property
    def goes_on(self) -> bool:
        """Whether there is a volume to segment."""
        return self._volume is not None and self._job.bundle is not None

    def decode(self, source: Source) -> None:
        """Read the volume, and write it where the settings say so."""
        if self.is_done:
            return
        with self._stage("decode"):
            self._volume = decode(self.task, source)
            self.result = replace(self.result, shape=self._volume.shape, spacing_mm=self._volume.spacing_mm)
        if self._volume is not None and (self._job.bundle is None or self._job.settings.output.save_image):
            with self._stage("write"):
                path = layout.image_path(self.result.identity)
                self.result = replace(self.result, image_path=path)
                self._write(self._volume, path)

    def hand_over(self) -> Volume:
        """The volume; the case keeps nothing of it."""
        volume, self._volume = self._volume, None
        assert volume is not None
        return volume

    def sink(self) -> ProbabilityFile | None:
        """Where probabilities go, if they are wanted."""
        bundle = self._job.bundle
        if bundle is not None and self._job.settings.output.save_probabilities:
            path = layout.probabilities_path(self.result.identity, bundle.name)
            self._probabilities = ProbabilityFile(self._job.out, path, self.result.shape)
        return self._probabilities

    def opened_model(self, seconds: float) -> None:
        """Time that opening the model took, for the series that had to wait for it."""
        self._seconds["open_model"] = seconds

    def segmented(self, engine: "Engine", done: "Segmentation") -> None:
        """Take the mask."""
        bundle = self._job.bundle
        assert bundle is not None
        self._seconds.update(done.stage_seconds)
        self._mask = done.mask
        self.result = replace(
            self.result,
            device=done.device,
            backend=engine.backend,
            n_networks=len(bundle.weights),
            mirror_axes=engine.mirror_axes,
            peak_device_mb=round(done.peak_device_mb, 1),
            windows_total=done.n_windows,
            windows_skipped=done.n_skipped,
            memory_steps=done.memory_steps,
        )

    def fail(self, error: Exception) -> None:
        """Note why nothing comes of it."""
        self.result = _failed(self.result, error, self.task)
        self._volume = self._mask = None

    def finish(self) -> SeriesResult:
        """Write mask and receipt; the receipt comes last."""
        if self.is_done:
            return self.result
        if self._mask is not None:
            with self._stage("write"):
                self._write_mask(self._mask)
        if self._probabilities is not None:
            self._probabilities.abandon()
        if not self.result.reason_code:
            self.result = replace(self.result, status=Status.DONE, finished_at=now())
        self._volume = self._mask = None
        rounded = {stage: round(value, 6) for stage, value in self._seconds.items()}
        self.result = replace(self.result, stage_seconds=rounded, peak_rss_mb=round(peak_rss_mb(), 1))
        reset_peak_rss()
        try:
            write_receipt(self._job.out, self.result)
        except PipelineError as error:
            self.fail(error)
        return self.result

    def _write_mask(self, mask: Volume) -> None:
        bundle = self._job.bundle
        assert bundle is not None
        labels = {label.index: label.name for label in bundle.labels}
        path = layout.mask_path(self.result.identity, bundle.name)
        self.result = replace(self.result, volumes_ml=measure_volumes(mask, labels), mask_path=path)
        if self._probabilities is not None:
            digest = self._probabilities.publish()
            outputs = {**self.result.output_digests, self._probabilities.path: digest}
            self.result = replace(self.result, probabilities_path=self._probabilities.path, output_digests=outputs)
        self._write(mask, path)

    def _write(self, volume: Volume, path: str) -> None:
        job = self._job
        digests = {
            path: write_nifti(volume, job.out / path, job.settings.output.gzip_level),
            layout.sidecar_path(path): write_sidecar(job.out, path, self.result, job.bundle, volume.affine),
        }
        self.result = replace(self.result, output_digests={**self.result.output_digests, **digests})

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Measure a step; what it raises becomes the case's result."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.fail(error)
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began


def closed(result: SeriesResult, code: Code, message: str, hint: str) -> SeriesResult:
    """A result that is not done, and why."""
    return replace(result, reason_code=code.value, message=message, hint=hint, finished_at=now())


def _failed(result: SeriesResult, error: Exception, task: SeriesTask) -> SeriesResult:
    result = replace(result, status=Status.FAILED)
    if isinstance(error, PipelineError):
        return closed(result, error.code, error.message, error.hint)
    if isinstance(error, MemoryError):
        message = f"a volume of {task.n_voxels} voxels does not fit into this task's memory"
        return closed(result, Code.OUT_OF_MEMORY, message, "give the task more memory")
    logging.getLogger(__name__).error("series %s", task.identity.series_key, exc_info=error)
    return closed(result, Code.INTERNAL_ERROR, f"{type(error).__name__}: {error}", _REPORT_IT)
