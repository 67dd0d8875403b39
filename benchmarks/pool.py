"""The partitions of a run in plain Python: processes that take bins from a shared queue, without Spark or Java."""

import multiprocessing
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import chain
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow as pa

from imaging_pipeline import partition
from imaging_pipeline.intake.finder import Finder
from imaging_pipeline.intake.found import PackedTask
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.intake.packets import read_packets
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.job import Job
from imaging_pipeline.records import FileRef, SeriesResult
from imaging_pipeline.rows import to_table
from imaging_pipeline.schedule import Schedule, Slots
from imaging_pipeline.settings import Settings
from imaging_pipeline.sources import Opener


class PoolRunner:
    """What Spark does for a run, by processes of one core each: what Spark's own part is measured against."""

    def __init__(self, n_processes: int, settings: Settings) -> None:
        """Start nothing yet.

        Args:
            n_processes: Processes, each of one core.
            settings: How many files make a piece of work, as for Spark.
        """
        self._n_processes = n_processes
        self._files_a_piece = settings.intake.files_per_partition
        # nothing that the driver has imported comes with a worker, as in Spark
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            n_processes, mp_context=context, initializer=_meet_at, initargs=(context.Barrier(n_processes),)
        )

    def slots(self, job: Job) -> Slots:
        """See `imaging_pipeline.runner.Runner`."""
        return Slots(n=self._n_processes, bins_each=job.settings.spark.bins_per_slot)

    def list_files(self, studies: Path, exclude: Path | None) -> pa.Table:
        """See `imaging_pipeline.runner.Runner`."""
        return to_table(FileRef, list_files(studies, exclude=exclude))

    def read_headers(self, files: pa.Table, keywords: Collection[str], opener: Opener) -> Iterator[pa.Table]:
        """See `imaging_pipeline.runner.Runner`."""
        starts = range(0, files.num_rows, self._files_a_piece)
        # cut, or pickle would send all of it with each
        pieces = [files.slice(start, self._files_a_piece).combine_chunks() for start in starts]
        work = partial(read_packets, keywords=frozenset(keywords), opener=opener)
        return self._pool.map(work, pieces)

    def find_series(self, packets: Pile, finder: Finder) -> Iterator[pa.Table]:
        """See `imaging_pipeline.runner.Runner`."""
        return self._pool.map(finder, packets.parts(self._n_processes))

    def check_model(self, job: Job) -> tuple[str, ...]:
        """See `imaging_pipeline.runner.Runner`."""
        futures = [self._pool.submit(_check_model, job) for _ in range(self._n_processes)]
        return tuple(dict.fromkeys(chain.from_iterable(future.result() for future in futures)))

    def results(self, schedule: Schedule, job: Job) -> Iterator[SeriesResult]:
        """See `imaging_pipeline.runner.Runner`."""
        futures = [self._pool.submit(_process, members, job) for members in map(list, schedule.bins)]
        for future in as_completed(futures):
            yield from future.result()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()


_BARRIER: list[Barrier] = []


def _meet_at(barrier: Barrier) -> None:
    _BARRIER[:] = [barrier]


def _check_model(job: Job) -> tuple[str, ...]:
    """Open the model; nobody is done before all have begun, so that each process opens it once."""
    _BARRIER[0].wait()
    return partition.check_model(job, 1)


def _process(members: Sequence[PackedTask], job: Job) -> list[SeriesResult]:
    return list(partition.process((task.unpack() for task in members), job, 1))
