"""How files are listed, headers read and tasks worked through: in this process, or by Spark."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from imaging_pipeline.intake.finder import Finder
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.intake.packets import PLANES_A_PART, read_packets
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.job import Job
from imaging_pipeline.records import FileRef, SeriesResult
from imaging_pipeline.rows import to_table
from imaging_pipeline.schedule import Schedule, Slots
from imaging_pipeline.segment.seat import Place
from imaging_pipeline.sources import Opener
from imaging_pipeline.workers import Handover, Worker


class Runner(Protocol):
    """What a run needs of the machinery below it."""

    def slots(self, job: Job) -> Slots:
        """What partitions of series are worked through beside each other.

        Raises:
            PipelineError: Why the tasks of this job cannot be dealt out.
        """

    def list_files(self, studies: Path, exclude: Path | None) -> pa.Table:
        """Every file below a folder, another folder left out; rows of `FileRef`."""

    def read_headers(self, files: pa.Table, keywords: Collection[str], opener: Opener) -> Iterator[pa.Table]:
        """`PACKETS` of files that were listed here or in a store, part by part; further attributes by DICOM keyword."""

    def find_series(self, packets: Pile, finder: Finder) -> Iterator[pa.Table]:
        """What a finder makes of packets from `mark_copies`, part by part."""

    def check_model(self, job: Job) -> tuple[str, ...]:
        """Open the model where the tasks will run, before any series is touched; lines that a user should read.

        Raises:
            PipelineError: Why it cannot be used.
        """

    def results(self, schedule: Schedule, job: Job) -> Iterator[SeriesResult]:
        """Work through the series of a plan; results as they come, each with its receipt written."""


class LocalRunner:
    """One process for the series, one after the other, without Java; headers are read in this one."""

    def __init__(self, log: Path | None = None) -> None:
        """Start nothing yet.

        Args:
            log: File for what the process of the series has to say; None: standard error.
        """
        self._log = log
        self._stream: BinaryIO | None = None
        self._worker: Worker | None = None

    def prepare(self, job: Job) -> None:
        """Let the process of the series load its libraries while headers are read."""
        self._started().prepare(job)

    def slots(self, _: Job) -> Slots:
        """See `Runner`."""
        return Slots(n=1, bins_each=1)

    def list_files(self, studies: Path, exclude: Path | None) -> pa.Table:
        """See `Runner`."""
        return to_table(FileRef, list_files(studies, exclude=exclude))

    def read_headers(self, files: pa.Table, keywords: Collection[str], opener: Opener) -> Iterator[pa.Table]:
        """See `Runner`."""
        starts = range(0, files.num_rows, PLANES_A_PART)
        return (read_packets(files.slice(start, PLANES_A_PART), keywords, opener) for start in starts)

    def find_series(self, packets: Pile, finder: Finder) -> Iterator[pa.Table]:
        """See `Runner`."""
        return map(finder, packets.parts(1 + packets.n_planes // PLANES_A_PART))

    def check_model(self, job: Job) -> tuple[str, ...]:
        """See `Runner`."""
        return () if job.bundle is None else self._started().check(job, Place())

    def results(self, schedule: Schedule, job: Job) -> Iterator[SeriesResult]:
        """See `Runner`."""
        handovers = (Handover(task=task.unpack()) for members in schedule.bins for task in members)
        return self._started().results(handovers, job, Place())

    def close(self) -> None:
        """End the process of the series."""
        if self._worker is not None:
            self._worker.close()
        if self._stream is not None:
            self._stream.close()

    def _started(self) -> Worker:
        if self._worker is None:
            self._stream = None if self._log is None else self._log.open("ab")
            self._worker = Worker(self._stream)
        return self._worker
