"""Starts the process that works through series, listens to it, and goes on without a series that ends it.

A volume that crashes a codec, exhausts memory or hangs takes its process with it. What was at work then is tried again,
each series alone; one that ends its process a second time gets a receipt that says so.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.results.layout import LOGS
from imaging_pipeline.rows import pack, unpack
from imaging_pipeline.segment.seat import Place
from imaging_pipeline.workers.crash import Death
from imaging_pipeline.workers.messages import Answer, Check, End, Prepare, Series, Work
from imaging_pipeline.workers.process import EndedError, Process
from imaging_pipeline.workers.shift import Handover, Shift

_IDLE_DEATHS = 2
"""A process that ends so often with no series at work is not ended by one."""


class Worker:
    """A process of its own for series; started when it is needed, and again when it has ended."""

    def __init__(self, log: IO[bytes] | None = None) -> None:
        """Start nothing yet.

        Args:
            log: Where it writes what it has to say; None: standard error.
        """
        self._log = log
        self._process: Process | None = None

    def prepare(self, job: Job) -> None:
        """Start it, so that it loads its libraries while something else is done."""
        with suppress(EndedError):
            self._running().send(Prepare(with_network=job.bundle is not None))

    def check(self, job: Job, place: Place) -> tuple[str, ...]:
        """Open the model; lines that a user should read.

        Raises:
            PipelineError: Why it cannot be used.
        """
        try:
            self._running().send(Check(job=job, place=place))
            return tuple(content.decode() for answer, content in self._answers() if answer is Answer.NOTE)
        except EndedError:
            death = self._bury()
            raise PipelineError(
                Code.WORKER_CRASH,
                f"opening model {job.model_name} ended its process: {death.cause}",
                "see the run's log; give the task more memory, or --device cpu",
            ) from None

    def results(self, handovers: Iterable[Handover], job: Job, place: Place) -> Iterator[SeriesResult]:
        """Work through series, whatever becomes of the process; each ends in a receipt and a result.

        Args:
            handovers: Series in order.
            job: What they have in common.
            place: Cores and GPUs for them.

        Raises:
            PipelineError: Why no series can be worked on any more, such as a full disk.
        """
        shift, idle_deaths = Shift(handovers, job), 0
        try:
            while not shift.is_over and not job.is_stopping:
                try:
                    yield from self._stretch(shift, job, place)
                except EndedError:
                    death = self._bury()
                    idle_deaths = idle_deaths + 1 if not shift.n_at_work else 0
                    _check_idle(idle_deaths, death)
                    for result in shift.died(death.cause):
                        _keep_stack(job, result, death)
                        yield result
                yield from _taken(shift.refused)
            yield from _taken(shift.refused)
        finally:
            shift.release()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _stretch(self, shift: Shift, job: Job, place: Place) -> Iterator[SeriesResult]:
        shift.begin_stretch()
        self._running().send(Work(job=job, place=place))
        for answer, content in self._answers():
            if answer is Answer.NEXT:
                handover = shift.next()
                self._running().send(End() if handover is None else _series(handover))
            elif answer is Answer.RESULT:
                (result,) = unpack(SeriesResult, content)
                shift.finished(result.identity.series_key)
                yield result

    def _answers(self) -> Iterator[tuple[Answer, bytes]]:
        """What it says to a request, up to its end.

        Raises:
            PipelineError: It says so.
            RuntimeError: A fault of ours.
        """
        while True:
            said = self._running().receive()
            answer, content = Answer(said[:1]), said[1:]
            if answer is Answer.OVER:
                return
            if answer is Answer.ERROR:
                error = json.loads(content)
                raise PipelineError(Code(error["code"]), error["message"], error["hint"])
            if answer is Answer.FAULT:
                raise RuntimeError(content.decode())
            yield answer, content

    def _running(self) -> Process:
        if self._process is None:
            self._process = Process(self._log)
        return self._process

    def _bury(self) -> Death:
        """What is known of the end of the process; the next one is started when it is needed."""
        death = self._running().bury()
        self._process = None
        logging.getLogger(__name__).error("the process of the series ended: %s\n%s", death.cause, death.stack)
        return death


def _series(handover: Handover) -> Series:
    return Series(task=pack([handover.task]), contents=handover.contents)


def _taken(results: list[SeriesResult]) -> Iterator[SeriesResult]:
    while results:
        yield results.pop(0)


def _check_idle(n_deaths: int, death: Death) -> None:
    if n_deaths >= _IDLE_DEATHS:
        raise PipelineError(
            Code.WORKER_CRASH,
            f"a process for series ended {n_deaths} times before it had one: {death.cause}",
            "see the run's log for what it said",
        )


def _keep_stack(job: Job, result: SeriesResult, death: Death) -> None:
    """The whole stack, where the hint of the result says."""
    if death.stack:
        with suppress(PipelineError):
            path = f"{LOGS}/{job.run_id}.crash-{result.identity.series_key}.txt"
            job.out.publish(path, death.stack.encode())
