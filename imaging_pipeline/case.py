"""One series from its files to its receipt, in three steps that different threads may take."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.events import about, event
from imaging_pipeline.host import now, peak_rss_mb, reset_peak_rss
from imaging_pipeline.job import Job
from imaging_pipeline.logs import name_of, trace_of
from imaging_pipeline.records import SeriesResult, SeriesTask, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.dicom.source import Origin, read_origin
from imaging_pipeline.results.dicom.stamp import Maker
from imaging_pipeline.results.flags import flag_geometry, flag_mask
from imaging_pipeline.results.measure import Measurement, measure
from imaging_pipeline.results.measurements import write_measurements
from imaging_pipeline.results.nifti import write_nifti
from imaging_pipeline.results.preview import Backdrop, backdrop_of, write_preview
from imaging_pipeline.results.probabilities import ProbabilityFile
from imaging_pipeline.results.receipt import read_receipt, write_receipt
from imaging_pipeline.results.sidecar import write_sidecar
from imaging_pipeline.segment.bundle import Bundle
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
            result = replace(result, geometry_verdict=task.verdict, findings=task.findings)
            self.result = replace(result, recomputed_because=task.recomputed_because)
        self._job = job
        self._volume: Volume | None = None
        self._image: Volume | None = None
        self._origin: Origin | None = None
        self._backdrop: Backdrop | None = None
        self._mask: Volume | None = None
        self._agreement: dict[int, float] = {}
        self._measurements: tuple[Measurement, ...] = ()
        self._probabilities: ProbabilityFile | None = None
        self._seconds: dict[str, float] = {}
        self._end_of_run: PipelineError | None = None

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
            if self._job.bundle is not None and self._job.settings.output.dicom_formats:
                self._origin = read_origin(self.task, source)
            if self._job.settings.output.preview:
                self._backdrop = backdrop_of(self._volume, self.result.identity.modality)
            if self._job.bundle is not None:
                self._keep_for_measuring(self._volume)
        if self._volume is not None and (self._job.bundle is None or self._job.settings.output.save_image):
            with self._stage("write"):
                path = layout.image_path(self.result.identity)
                self.result = replace(self.result, image_path=path)
                self._write(self._volume, path)
            if self._job.bundle is None:
                self._write_preview(None)

    def hand_over(self) -> Volume:
        """The volume; the case keeps nothing of it."""
        volume, self._volume = self._volume, None
        assert volume is not None
        return volume

    def _keep_for_measuring(self, volume: Volume) -> None:
        """Keep the values until there is a mask; nobody may prepare them for the network in their own place."""
        volume.array.flags.writeable = False
        self._image = volume

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
        self._mask, self._agreement = done.mask, done.agreement
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
        if isinstance(error, PipelineError) and error.code.ends_run:
            self._end_of_run = error
        self.result = _failed(self.result, error, self.task, details=self._job.settings.identity.error_details)
        event("a stage failed", series_key=self.task.identity.series_key, code=self.result.reason_code)
        self._let_go()

    def finish(self) -> SeriesResult:
        """Write mask and receipt; the receipt comes last.

        Raises:
            PipelineError: No file can be written any more: the series is as if it had not been begun.
        """
        if self.is_done:
            return self.result
        if self._mask is not None:
            with self._stage("measure"):
                self._measure(self._mask)
        if self._mask is not None:
            with self._stage("write"):
                self._write_mask(self._mask)
            self._write_preview(self._mask)
        if self._probabilities is not None:
            self._probabilities.abandon()
        if not self.result.reason_code:
            flags = (*flag_geometry(self.result), *self.result.flags)
            self.result = replace(self.result, status=Status.DONE, finished_at=now(), flags=flags)
        self._let_go()
        rounded = {stage: round(value, 6) for stage, value in self._seconds.items()}
        self.result = replace(self.result, stage_seconds=rounded, peak_rss_mb=round(peak_rss_mb(), 1))
        reset_peak_rss()
        try:
            if self._end_of_run is None:
                self.result = write_receipt(self._job.out, self.result, self._job.seal_key)
        except PipelineError as error:
            self.fail(error)
        if self._end_of_run is not None:
            raise self._end_of_run
        return self.result

    def _measure(self, mask: Volume) -> None:
        bundle, image = self._job.bundle, self._image
        assert bundle is not None
        assert image is not None
        self._image = None  # nobody needs it any longer
        self._measurements = measure(mask, image, bundle.labels, self._agreement)

    def _write_mask(self, mask: Volume) -> None:
        bundle = self._job.bundle
        assert bundle is not None
        path = layout.mask_path(self.result.identity, bundle.name)
        self._write_measurements(path, bundle)
        if self._probabilities is not None:
            digest = self._probabilities.publish()
            outputs = {**self.result.output_digests, self._probabilities.path: digest}
            self.result = replace(self.result, probabilities_path=self._probabilities.path, output_digests=outputs)
        self._write(mask, path)
        if self._origin is not None:
            self._write_dicom(mask, self._origin, bundle)

    def _write_measurements(self, mask_path: str, bundle: Bundle) -> None:
        measurements = self._measurements
        path, named = layout.measurements_path(mask_path), {label.index for label in bundle.labels}
        digest = write_measurements(self._job.out, path, measurements)
        self.result = replace(
            self.result,
            volumes_ml={item.name: item.volume_ml for item in measurements if item.label in named},
            agreement={item.name: item.agreement for item in measurements if item.agreement is not None},
            mask_path=mask_path,
            measurements_path=path,
            flags=tuple(flag_mask(measurements, bundle.labels, self._job.settings.qc)),
            output_digests={**self.result.output_digests, path: digest},
        )

    def _write_dicom(self, mask: Volume, origin: Origin, bundle: Bundle) -> None:
        from imaging_pipeline.results.dicom.write import DicomWriter  # highdicom takes a second to load

        formats, result = self._job.settings.output.dicom_formats, self.result
        writer = DicomWriter(
            out=self._job.out,
            path_of=partial(layout.dicom_path, result.identity, bundle.name),
            formats=formats,
            labels=bundle.labels,
            maker=Maker(
                model_name=bundle.name,
                model_version=bundle.version,
                model_digest=bundle.digest,
                fingerprint=result.fingerprint,
            ),
        )
        done = writer.write(mask, self._measurements, origin)
        self.result = replace(
            self.result,
            formats=formats,
            dicom_paths=done.paths,
            formats_refused=tuple(done.refused),
            output_digests={**self.result.output_digests, **done.digests},
        )

    def _write_preview(self, mask: Volume | None) -> None:
        if self._backdrop is None:  # not wanted, or the series has failed meanwhile
            return
        result, bundle = self.result, self._job.bundle
        path = layout.preview_path(result.identity, result.model_name)
        with self._stage("preview"):
            digest = write_preview(self._job.out, path, self._backdrop, mask, () if bundle is None else bundle.labels)
            self.result = replace(result, preview_path=path, output_digests={**result.output_digests, path: digest})

    def _let_go(self) -> None:
        """Of all that takes memory."""
        self._volume = self._mask = self._image = self._backdrop = None

    def _write(self, volume: Volume, path: str) -> None:
        job = self._job
        digests = {
            path: write_nifti(volume, job.out, path, job.settings.output.gzip_level),
            layout.sidecar_path(path): write_sidecar(job.out, path, self.result, job.bundle, volume.affine),
        }
        self.result = replace(self.result, output_digests={**self.result.output_digests, **digests})

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Measure a step; what it raises becomes the case's result."""
        began = time.perf_counter()
        with about(series_key=self.task.identity.series_key, stage=name):
            try:
                yield
            except Exception as error:
                self.fail(error)
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began


def closed(result: SeriesResult, code: Code, message: str, hint: str) -> SeriesResult:
    """A result that is not done, and why."""
    return replace(result, reason_code=code.value, message=message, hint=hint, finished_at=now())


def _failed(result: SeriesResult, error: Exception, task: SeriesTask, *, details: bool) -> SeriesResult:
    result = replace(result, status=Status.FAILED)
    if isinstance(error, PipelineError):
        return closed(result, error.code, error.message, error.hint)
    if isinstance(error, MemoryError):
        message = f"a volume of {task.n_voxels} voxels does not fit into this task's memory"
        return closed(result, Code.OUT_OF_MEMORY, message, "give the task more memory")
    key, fields = task.identity.series_key, {"series_key": task.identity.series_key, "code": Code.INTERNAL_ERROR.value}
    said = trace_of(error, details=details)
    logging.getLogger(__name__).error("series %s: %s", key, said, extra={"imaging": fields})
    return closed(result, Code.INTERNAL_ERROR, name_of(error) + f": {error}" * details, _REPORT_IT)
