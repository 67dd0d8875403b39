"""The chain from one series task to its files and receipt, over an iterator; the one error boundary.

Runs in a Spark task or in the calling process: it knows of neither.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.host import host_name, now, peak_rss_mb, reset_peak_rss, versions
from imaging_pipeline.records import SeriesIdentity, SeriesResult, SeriesTask, SkippedSeries, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.measure import measure_volumes
from imaging_pipeline.results.nifti import write_nifti
from imaging_pipeline.results.receipt import fingerprint, read_receipt, write_receipt
from imaging_pipeline.results.sidecar import write_sidecar
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.settings import Settings
from imaging_pipeline.sources import Source, open_source
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.decode import decode

if TYPE_CHECKING:  # torch loads with the first series that needs it
    from imaging_pipeline.segment.engine import Engine

_REPORT_IT = "this is a fault of imaging_pipeline: please report it with the run's log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every series of a run has in common.

    Attributes:
        out: RESULTS.
        run_id: Names the run.
        settings: Resolved settings.
        bundle: The model; None makes volumes only.
    """

    out: Path
    run_id: str
    settings: Settings
    bundle: Bundle | None

    @property
    def model_name(self) -> str:
        """Name of the model in receipts and index."""
        return layout.VOLUMES_ONLY if self.bundle is None else self.bundle.name

    def fingerprint(self, identity: SeriesIdentity) -> str:
        """Digest of all that can change this series' result."""
        return fingerprint(identity, "" if self.bundle is None else self.bundle.digest, self.settings)

    def result(self, identity: SeriesIdentity, status: Status) -> SeriesResult:
        """A result with everything filled in that does not depend on the work."""
        return SeriesResult(
            identity=identity,
            status=status,
            model_name=self.model_name,
            model_version="" if self.bundle is None else self.bundle.version,
            model_digest="" if self.bundle is None else self.bundle.digest,
            settings_digest=self.settings.voxel_digest(),
            fingerprint=self.fingerprint(identity),
            host=host_name(),
            run_id=self.run_id,
            started_at=now(),
            versions=versions(),
        )


def process(
    tasks: Iterable[SeriesTask], job: Job, cores: int | None = None, source: Source = open_source
) -> Iterator[SeriesResult]:
    """Work through the series of one partition; each ends in a receipt and a result, whatever happens to it.

    A series that an earlier try of this same run has finished is not computed again.

    Args:
        tasks: Series of this partition.
        job: What they have in common.
        cores: CPU cores that this task owns; None: all of the process.
        source: Opens the files of a series.
    """
    chain = _Chain(job, cores, source)
    for task in tasks:
        earlier = read_receipt(job.out, task.identity.series_key, job.model_name)
        if earlier is not None and earlier.run_id == job.run_id and earlier.status is Status.DONE:
            yield earlier
            continue
        yield chain.run(task, attempt=1 + (earlier.attempt if earlier is not None else 0))


def check_model(job: Job, cores: int | None = None) -> tuple[str, ...]:
    """Open the model as the tasks of a run will, before any series is touched.

    Args:
        job: Names model, device and settings.
        cores: CPU cores that this task owns; None: all of the process.

    Returns:
        Lines that a user should read before the run.

    Raises:
        PipelineError: What `Engine` raises.
    """
    if job.bundle is None:
        return ()
    from imaging_pipeline.segment.engine import Engine

    foreign = Engine(job.bundle, job.settings, cores).foreign
    return (f"model {job.bundle.name}: {', '.join(foreign)} as MONAI's own objects",) if foreign else ()


def skipped_result(skipped: SkippedSeries, job: Job) -> SeriesResult:
    """The result of a series that intake or selection left out."""
    result = job.result(skipped.identity, Status.FAILED if skipped.code.is_failure else Status.SKIPPED)
    result = replace(result, geometry_verdict=skipped.verdict, findings=skipped.findings)
    return _closed(result, skipped.code, skipped.message, skipped.hint)


def crashed_result(task: SeriesTask, job: Job, cause: str) -> SeriesResult:
    """The result of a series whose worker never came back."""
    result = replace(job.result(task.identity, Status.FAILED), geometry_verdict=task.verdict, findings=task.findings)
    hint = "see the run's log; more memory for the task or --device cpu may help"
    return _closed(result, Code.WORKER_CRASH, f"the process that worked on it ended: {cause}", hint)


def _closed(result: SeriesResult, code: Code, message: str, hint: str) -> SeriesResult:
    return replace(result, reason_code=code.value, message=message, hint=hint, finished_at=now())


@dataclass(slots=True)
class _Chain:
    """decode → segment → write, for one series after the other."""

    job: Job
    cores: int | None
    source: Source
    engine: "Engine | None" = None
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, task: SeriesTask, attempt: int) -> SeriesResult:
        """One series to its receipt."""
        reset_peak_rss()
        self.seconds = {}
        result = replace(self.job.result(task.identity, Status.FAILED), attempt=attempt)
        result = replace(result, geometry_verdict=task.verdict, findings=task.findings)
        try:
            result = self._work(task, result)
        except PipelineError as error:
            result = _closed(result, error.code, error.message, error.hint)
        except MemoryError:
            message = f"a volume of {task.n_voxels} voxels does not fit into this task's memory"
            result = _closed(result, Code.OUT_OF_MEMORY, message, "give the task more memory")
        except Exception as error:
            logging.getLogger(__name__).exception("series %s", task.identity.series_key)
            result = _closed(result, Code.INTERNAL_ERROR, f"{type(error).__name__}: {error}", _REPORT_IT)
        rounded = {stage: round(value, 6) for stage, value in self.seconds.items()}
        result = replace(result, stage_seconds=rounded, peak_rss_mb=round(peak_rss_mb(), 1))
        return self._commit(result)

    def _work(self, task: SeriesTask, result: SeriesResult) -> SeriesResult:
        start = time.perf_counter()
        volume = decode(task, self.source)
        self._mark("decode", start)
        result = replace(result, shape=volume.shape, spacing_mm=volume.spacing_mm)
        if self.job.bundle is None or self.job.settings.output.save_image:
            result = self._write(volume, layout.image_path(task.identity), result)
        if self.job.bundle is not None:
            result = self._segment(volume, self.job.bundle, result)
        return replace(result, status=Status.DONE, finished_at=now())

    def _segment(self, volume: Volume, bundle: Bundle, result: SeriesResult) -> SeriesResult:
        start = time.perf_counter()
        engine = self._engine(bundle)
        self._mark("open_model", start)
        segmentation = engine.segment(volume)
        self.seconds.update(segmentation.stage_seconds)
        labels = {label.index: label.name for label in bundle.labels}
        result = replace(
            result,
            device=str(engine.device),
            backend=bundle.weights[0].backend,
            n_networks=len(bundle.weights),
            mirror_axes=engine.mirror_axes,
            peak_device_mb=round(segmentation.peak_device_mb, 1),
            volumes_ml=measure_volumes(segmentation.mask, labels),
        )
        path = layout.mask_path(result.identity, bundle.name)
        return self._write(segmentation.mask, path, replace(result, mask_path=path))

    def _write(self, volume: Volume, path: str, result: SeriesResult) -> SeriesResult:
        start = time.perf_counter()
        if path != result.mask_path:
            result = replace(result, image_path=path)
        digests = {
            path: write_nifti(volume, self.job.out / path, self.job.settings.output.gzip_level),
            layout.sidecar_path(path): write_sidecar(self.job.out, path, result, self.job.bundle),
        }
        self._mark("write", start)
        return replace(result, output_digests={**result.output_digests, **digests})

    def _engine(self, bundle: Bundle) -> "Engine":
        if self.engine is None:
            from imaging_pipeline.segment.engine import Engine

            self.engine = Engine(bundle, self.job.settings, self.cores)
        return self.engine

    def _mark(self, stage: str, start: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _commit(self, result: SeriesResult) -> SeriesResult:
        try:
            write_receipt(self.job.out, result)
        except PipelineError as error:
            return _closed(replace(result, status=Status.FAILED), error.code, error.message, error.hint)
        return result
