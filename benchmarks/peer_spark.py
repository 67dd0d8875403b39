"""The whole job by the real command, in a process of its own, with the seconds of its steps.

    python -m benchmarks.peer_spark SYSTEM ACCOUNT ARGUMENTS...

SYSTEM is spark, or pool:N for the same partitions in N processes of plain Python; ARGUMENTS are those of
`python -m imaging_pipeline.run`. ACCOUNT takes the seconds of the run's steps; its bins stand beside it.
"""

import json
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.balance import BINS
from benchmarks.peer_account import account
from benchmarks.pool import PoolRunner
from imaging_pipeline import execution, run
from imaging_pipeline.intake.finder import Finder
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.job import Job
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.runner import Runner
from imaging_pipeline.schedule import Schedule
from imaging_pipeline.sources import Opener

Seconds = dict[str, float]


def main() -> None:
    """Run once and leave the figures."""
    system, where, arguments = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    noted = _Noted()
    _watch(system, noted)
    figures, code = account(lambda: run.main(arguments))
    refusal = figures.refusal or ("" if code == execution.Exit.OK else f"the command ended with code {code}")
    replace(figures, refusal=refusal, parts=noted.seconds).write(where)
    (where.parent / BINS).write_text(json.dumps(noted.bins), encoding="utf-8")


class _Noted:
    """What was seen of a run."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self.bins: list[list[str]] = []


def _watch(system: str, noted: _Noted) -> None:
    """Put a watched runner into the command's hands."""
    started = execution._runner

    @contextmanager
    def runner(job: Job, *others: Any, **options: Any) -> Iterator[Runner]:
        begun = time.perf_counter()
        chosen = started(job, *others, **options) if system == "spark" else _pool(system, job)
        with chosen as inner:
            opened = time.perf_counter()
            noted.seconds["session_s"] = opened - begun
            yield _Watched(inner, noted)
            noted.seconds["job_s"] = time.perf_counter() - opened

    execution._runner = runner


@contextmanager
def _pool(system: str, job: Job) -> Iterator[Runner]:
    os.environ["OMP_NUM_THREADS"] = "1"  # as Spark sets it for a task of one core
    with closing(PoolRunner(int(system.partition(":")[2]), job.settings)) as pool:
        yield pool


class _Watched:
    """A runner, and the seconds of its steps: `plan_s` lies between headers and results, without the model."""

    def __init__(self, runner: Runner, noted: _Noted) -> None:
        self._runner = runner
        self._noted = noted
        self._seconds = noted.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def list_files(self, studies: Path, exclude: Path | None) -> pa.Table:
        with self._timed("listing_s"):
            return self._runner.list_files(studies, exclude)

    def read_headers(self, files: pa.Table, keywords: Collection[str], opener: Opener) -> Iterator[pa.Table]:
        with self._timed("reading_s"):
            yield from self._runner.read_headers(files, keywords, opener)

    def find_series(self, packets: Pile, finder: Finder) -> Iterator[pa.Table]:
        with self._timed("finding_s"):
            yield from self._runner.find_series(packets, finder)
        steps = ("listing_s", "reading_s", "finding_s")
        self._seconds["headers_s"] = sum(self._seconds.get(name, 0.0) for name in steps)
        self._headers_over = time.perf_counter()

    def check_model(self, job: Job) -> tuple[str, ...]:
        with self._timed("check_s"):
            return self._runner.check_model(job)

    def results(self, schedule: Schedule, job: Job) -> Iterator[SeriesResult]:
        self._noted.bins = [members.column("series_key").to_pylist() for members in schedule.bins]
        self._seconds["plan_s"] = time.perf_counter() - self._headers_over - self._seconds.get("check_s", 0.0)
        self._seconds["results_began_at"] = time.time()
        with self._timed("results_s"):
            yield from self._runner.results(schedule, job)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - begun


if __name__ == "__main__":
    main()
