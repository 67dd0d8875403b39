"""How headers are read and tasks worked through: in this process, or by Spark."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from imaging_pipeline.intake.headers import read_file
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.job import Job
from imaging_pipeline.partition import check_model, process
from imaging_pipeline.records import HeaderRow, SeriesResult, SeriesTask


class Runner(Protocol):
    """What a run needs of the machinery below it."""

    def headers(self, studies: Path, exclude: Path, keywords: Collection[str] = ()) -> list[HeaderRow]:
        """Rows of every file below a folder, another folder left out; further attributes by DICOM keyword."""

    def check_model(self, job: Job) -> tuple[str, ...]:
        """Open the model where the tasks will run, before any series is touched; lines that a user should read.

        Raises:
            PipelineError: Why it cannot be used.
        """

    def results(self, tasks: list[SeriesTask], job: Job) -> Iterator[SeriesResult]:
        """Work through tasks; results as they come, each with its receipt written."""


class LocalRunner:
    """This process, one series after the other, without Java."""

    def headers(self, studies: Path, exclude: Path, keywords: Collection[str] = ()) -> list[HeaderRow]:
        """See `Runner`."""
        return [row for file in list_files(studies, exclude=exclude) for row in read_file(file, keywords)]

    def check_model(self, job: Job) -> tuple[str, ...]:
        """See `Runner`."""
        return check_model(job)

    def results(self, tasks: list[SeriesTask], job: Job) -> Iterator[SeriesResult]:
        """See `Runner`."""
        return process(tasks, job)
