"""The series of one partition: decoded, segmented and written beside each other; the one error boundary.

Runs in a Spark task or in the calling process: it knows of neither. While the network works on one series, the next is
decoded and the one before is compressed and written.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from imaging_pipeline.case import Case, closed
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.events import about
from imaging_pipeline.job import Job
from imaging_pipeline.overlap import Behind, Done, ahead
from imaging_pipeline.records import SeriesResult, SeriesTask, SkippedSeries, Status
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.sources import Opener, Source

if TYPE_CHECKING:  # torch loads with the first series that needs it
    from imaging_pipeline.segment.engine import Engine

_DEPTH = 1
"""Series that are decoded ahead, and that wait to be written: each holds a volume or a mask."""

Decoded = Iterator[Done[SeriesTask, Case]]
Writer = Behind[Case, SeriesResult]


def process(
    tasks: Iterable[SeriesTask], job: Job, cores: int | None = None, source: Source | None = None
) -> Iterator[SeriesResult]:
    """Work through the series of one partition; each ends in a receipt and a result, whatever happens to it.

    A series that an earlier try of this same run has finished is not computed again; none is begun once the run is
    asked to stop.

    Args:
        tasks: Series of this partition.
        job: What they have in common.
        cores: CPU cores that this task owns; None: all of the process.
        source: Opens the files of a series; None: by their paths, or where the settings say that stores are.

    Yields:
        Results as they are finished.
    """
    source = source or Opener(job.settings.storage)
    decoded = ahead(_until_stopped(tasks, job), partial(_decoded, job=job, source=source), _DEPTH)
    writer: Writer = Behind(Case.finish, _DEPTH)
    with closing(decoded), writer:  # type: ignore[type-var]
        for _ in _segmented(decoded, writer, job, cores):
            yield from (done.value() for done in writer.done())
        yield from (done.value() for done in writer.close())


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
    foreign = _open_engine(job, job.bundle, cores).foreign
    return (f"model {job.bundle.name}: {', '.join(foreign)} as MONAI's own objects",) if foreign else ()


def skipped_result(skipped: SkippedSeries, job: Job) -> SeriesResult:
    """The result of a series that intake or selection left out."""
    result = job.result(skipped.identity, Status.FAILED if skipped.code.is_failure else Status.SKIPPED)
    result = replace(result, geometry_verdict=skipped.verdict, findings=skipped.findings)
    return closed(result, skipped.code, skipped.message, skipped.hint)


def _until_stopped(tasks: Iterable[SeriesTask], job: Job) -> Iterator[SeriesTask]:
    for task in tasks:
        if job.is_stopping:
            return
        yield task


def _decoded(task: SeriesTask, job: Job, source: Source) -> Case:
    case = Case(task, job)
    case.decode(source)
    return case


def _segmented(decoded: Decoded, writer: Writer, job: Job, cores: int | None) -> Iterator[None]:
    """Hand every case to the writer, with its mask where it has one."""
    if job.bundle is None:
        for plain in decoded:
            writer.put(plain.value())
            yield None
        return
    cases = _with_volume(decoded, writer)
    first = next(cases, None)
    if first is None:
        yield None
        return
    began = time.perf_counter()
    try:
        engine = _open_engine(job, job.bundle, cores)
    except Exception as error:
        for case in chain([first], cases):
            with about(stage="open_model"):
                case.fail(error)
            writer.put(case)
            yield None
        return
    first.opened_model(time.perf_counter() - began)
    for case, done in engine.segment_all(chain([first], cases)):
        if isinstance(done, Exception):
            with about(stage="segment"):
                case.fail(done)
        else:
            case.segmented(engine, done)
        del done
        writer.put(case)
        yield None


def _with_volume(decoded: Decoded, writer: Writer) -> Iterator[Case]:
    """Cases to segment; all others go to the writer as they are."""
    for done in decoded:
        case = done.value()
        if case.goes_on:
            yield case
        else:
            writer.put(case)


def _open_engine(job: Job, bundle: Bundle, cores: int | None) -> "Engine":
    from imaging_pipeline.segment.engine import Engine

    engine = Engine(bundle, job.settings, cores)
    if job.settings.output.save_probabilities and not engine.gives_probabilities:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"{bundle.name} gives no probabilities: its postprocessing does not begin with an activation, Invertd and "
            "AsDiscreted",
            "leave --save-probabilities away for this model",
        )
    return engine
