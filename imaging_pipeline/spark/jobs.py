"""Headers and series tasks as Spark jobs."""

import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial, reduce
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.pandas.types import from_arrow_schema

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.host import give_back_memory
from imaging_pipeline.intake.finder import Finder
from imaging_pipeline.intake.found import PackedTask, Tasks
from imaging_pipeline.intake.listing import detours, list_passed_over
from imaging_pipeline.intake.packets import PLANES_A_PART, read_packets
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.shelf import Remaining
from imaging_pipeline.job import Job
from imaging_pipeline.records import FileRef, SeriesResult
from imaging_pipeline.results.receipt import follow_receipts, read_receipt
from imaging_pipeline.rows import to_table
from imaging_pipeline.schedule import Schedule, Slots
from imaging_pipeline.settings import Settings
from imaging_pipeline.sources import MEMBER, Opener
from imaging_pipeline.spark.executors import is_local
from imaging_pipeline.spark.mappers import (
    CHECKED,
    FINISHED,
    TABLES,
    TASKS,
    Bins,
    Mapper,
    content_reader,
    content_runner,
    model_checker,
    opened,
    path_runner,
    preparer,
    sealed,
    table_mapper,
)
from imaging_pipeline.spark.resources import Stage, inference_stage, plain_stage
from imaging_pipeline.spark.session import gave_up, spark_errors
from imaging_pipeline.spark.waiting import SparkJob, run_unheard

_MOST_STUCK = 2
"""Jobs one after the other that bring no series further; a series that takes its executor down is given up in them."""

_REST = 10
"""A look at what is there is followed by this many times its length without one: folders of receipts grow long."""

_LONGEST_REST_SECONDS = 5.0
"""Stores that answer slowly must not keep progress from the screen."""

_LISTED = (
    "regexp_replace(path, '^file:/+', '/') AS path",
    "length AS size_bytes",
    "unix_micros(modificationTime) / 1e6D AS modified_at",
)

_FEW_PLANES = 2_000

_FILES_A_CORE = 5_000
"""Files whose headers are read by one job, some two seconds' work: what comes back at once is bounded."""

_PATHS_A_TIME = 1_000

_FEWEST_ROWS, _MOST_FRAMES = 2_000, 32
"""Series go to the JVM so many at a time, or more where there would be too many pieces."""


class SparkRunner:
    """Headers and series tasks by way of a Spark session."""

    def __init__(self, session: SparkSession, settings: Settings) -> None:
        """Take an open session.

        Args:
            session: The session.
            settings: How bytes reach the executors.
        """
        self._session = session
        self._stage: Stage | None = None
        self._by_content = settings.intake.transport == "content"
        self._files_per_partition = settings.intake.files_per_partition
        self._studies = Path()
        self._passed_over: pa.ChunkedArray = pa.chunked_array([], pa.string())

    def prepare(self, job: Job) -> None:
        """Let the workers of this machine start, and load what series need, while files are listed and headers read.

        A cluster's executors may not be there yet; they load when the model is opened.
        """
        if not is_local(str(self._session.sparkContext.master)):
            return
        with spark_errors("starting workers"):
            stage = self._inference(job)
            slots = self._session.range(0, stage.n_tasks, numPartitions=stage.n_tasks)
            frame = self._mapped(slots, preparer(job), FINISHED, stage)
        threading.Thread(target=run_unheard, args=(frame,), name="spark-prepare", daemon=True).start()

    def slots(self, job: Job) -> Slots:
        """See `Runner`."""
        with spark_errors("asking for executors"):
            stage = self._inference(job)
        return Slots(n=stage.n_tasks, bins_each=stage.bins_per_slot(job.settings.spark))

    def list_files(self, studies: Path, exclude: Path | None) -> pa.Table:
        """List a folder through Spark's binaryFile source.

        Files that the source passes over by its own rules are listed beside it. Where Spark hands over contents,
        members of archives are files.

        Raises:
            PipelineError: `spark-failed`.
        """
        beside = to_table(FileRef, list_passed_over(studies, exclude=exclude, in_archives=self._by_content))
        self._studies, self._passed_over = studies, beside["path"]
        with spark_errors("listing files"):
            listed = self._binary_files().toArrow().cast(beside.schema)
        return pa.concat_tables([listed.filter(_wanted(listed["path"], studies, exclude)), beside])

    def read_headers(self, files: pa.Table, keywords: Collection[str], opener: Opener) -> Iterator[pa.Table]:
        """Read headers in the executors, in partitions of even count; many files in several jobs.

        Raises:
            PipelineError: `spark-failed`.
        """
        by_path = pc.is_in(files["path"], self._passed_over) if self._by_content else pa.array([True] * files.num_rows)
        listed = files.filter(pc.invert(by_path)).select(["path"])
        if listed.num_rows:
            with spark_errors("reading headers"):
                contents = self._binary_files("content")
                handed_over = contents.join(sql.broadcast(self._session.createDataFrame(listed)), "path")
                packets = _collected(handed_over, content_reader(frozenset(keywords)))
            yield from packets
        files, work = files.filter(by_path), partial(read_packets, keywords=frozenset(keywords), opener=opener)
        n_files = _FILES_A_CORE * self._n_cores()
        for start in range(0, files.num_rows, n_files):
            with spark_errors("reading headers"):
                packets = self._spread(self._cut(files.slice(start, n_files)), work)
            yield from packets

    def find_series(self, packets: Pile, finder: Finder) -> Iterator[pa.Table]:
        """Group, check and choose in the executors; a few planes are done before a job would have begun.

        Many planes go there in several jobs, a part for each core at a time.

        Raises:
            PipelineError: `spark-failed`.
        """
        n_planes = packets.n_planes
        if n_planes <= _FEW_PLANES:
            yield from map(finder, packets.parts(1))
            return
        n_cores = self._n_cores()
        parts = packets.parts(max(n_cores, n_planes // PLANES_A_PART))
        while some := list(islice(parts, n_cores)):
            with spark_errors("grouping series"):
                found = self._spread(some, finder)
            del some
            yield from found

    def check_model(self, job: Job) -> tuple[str, ...]:
        """Open the model in as many tasks as will run at a time, which also warms the workers up.

        Raises:
            PipelineError: Why it cannot be used, or `spark-failed`.
        """
        if job.bundle is None:
            return ()
        with spark_errors("opening the model"):
            stage = self._inference(job)
            slots = self._session.range(0, stage.n_tasks, numPartitions=stage.n_tasks)
            rows = self._mapped(slots, model_checker(job, stage.seating), CHECKED, stage).toArrow().to_pylist()
        for row in rows:
            if row["code"]:
                raise PipelineError(Code(row["code"]), row["message"], row["hint"])
        return tuple(dict.fromkeys(row["note"] for row in rows))

    def results(self, schedule: Schedule, job: Job) -> Iterator[SeriesResult]:
        """Work through bins of series; results as their receipts appear.

        Rows of a Spark job reach the driver only when its tasks end, so receipts tell the progress. Executors that are
        lost take a job with them in the end: series that have no receipt then are dealt out again, as long as that
        brings any of them further.

        Raises:
            PipelineError: `spark-failed` where it does not; what stopped the tasks, where they say so.
        """
        pending = schedule.tasks.remaining()
        followed = follow_receipts(job.out, job.run_id, pending, job.model_name)
        n_stuck = 0
        while pending and not job.is_stopping:
            n_before, failures = len(pending), list[str]()
            for frame in self._frames(schedule.where(pending.is_left), job):
                thread = SparkJob(frame)
                thread.start()
                while thread.is_alive():
                    began = time.monotonic()
                    fresh = next(followed)
                    rest = min(_REST * (time.monotonic() - began), _LONGEST_REST_SECONDS)
                    yield from fresh
                    thread.join(max(job.out.poll_seconds, rest))
                failures += [thread.failure] * bool(thread.failure)
            yield from next(followed)
            yield from _unlisted(pending, job)
            n_stuck = n_stuck + 1 if len(pending) == n_before else 0
            if n_stuck == _MOST_STUCK and not job.is_stopping:
                raise gave_up(failures, len(pending))

    def _frames(self, schedule: Schedule, job: Job) -> Iterator[DataFrame]:
        """One job for the series whose bytes Spark hands over, one for those that are opened by path."""
        stage, comes_by_content = self._inference(job), self._comes_by_content(schedule.tasks)
        bins = [list(members) for members in schedule.where(comes_by_content).bins]
        if bins:
            yield self._mapped(self._contents(bins), content_runner(bins, job, stage.seating), FINISHED, stage)
        by_path = schedule.where(~comes_by_content).bins
        if by_path:
            frame = self._task_frame(by_path)
            frame = frame.repartitionById(len(by_path), frame.bin).drop("bin")
            yield self._mapped(frame, path_runner(job, stage.seating), FINISHED, stage)

    def _task_frame(self, bins: Sequence[Tasks]) -> DataFrame:
        """One row a series, with the number of its bin; handed to the JVM in pieces."""
        rows = ((task.content, number) for number, members in enumerate(bins) for task in members)
        n_rows = max(_FEWEST_ROWS, -(-sum(map(len, bins)) // _MOST_FRAMES))
        frames = []
        while some := list(islice(rows, n_rows)):
            columns = (pa.array(column, item.type) for column, item in zip(zip(*some, strict=True), TASKS, strict=True))
            frames.append(self._session.createDataFrame(pa.table(list(columns), schema=TASKS)))
        give_back_memory()
        return reduce(DataFrame.union, frames)

    def _spread(self, parts: Sequence[pa.Table], work: Callable[[pa.Table], pa.Table]) -> list[pa.Table]:
        """What becomes of tables, each in a task of its own."""
        if not parts:
            return []
        rows = pa.table({"table": [sealed(part) for part in parts], "number": pa.array(range(len(parts)), pa.int32())})
        frame = self._session.createDataFrame(rows)
        return _collected(frame.repartitionById(len(parts), frame.number).drop("number"), table_mapper(work))

    def _cut(self, files: pa.Table) -> list[pa.Table]:
        """Files in parts of even count, one for each core at least."""
        n_files = files.num_rows
        n_parts = max(min(n_files, self._n_cores()), -(-n_files // self._files_per_partition))
        cuts = [n_files * number // n_parts for number in range(n_parts + 1)]
        return [files.slice(start, end - start) for start, end in pairwise(cuts)]

    def _n_cores(self) -> int:
        return int(self._session.sparkContext.defaultParallelism)

    def _inference(self, job: Job) -> Stage:
        """How the tasks of a job are dealt out; asked for once executors have read headers."""
        if self._stage is None:
            context = self._session.sparkContext
            self._stage = plain_stage(context) if job.bundle is None else inference_stage(context, job.settings)
        return self._stage

    def _mapped(self, frame: DataFrame, mapper: Mapper, schema: pa.Schema, stage: Stage) -> DataFrame:
        """A frame whose rows are worked on in the stage of inference."""
        with stage.workers(self._session.sparkContext):
            return frame.mapInArrow(mapper, from_arrow_schema(schema), profile=stage.profile)

    def _comes_by_content(self, tasks: Tasks) -> NDArray[np.bool_]:
        """Which series have files whose bytes Spark hands over."""
        if not self._by_content:
            return np.zeros(len(tasks), np.bool_)

        def is_handed_over(task: PackedTask) -> bool:
            paths = pa.array({ref.path for ref in task.unpack().slices})
            return not pc.all(pc.is_in(paths, self._passed_over)).as_py()

        return np.fromiter(map(is_handed_over, tasks), np.bool_, len(tasks))

    def _contents(self, bins: Bins) -> DataFrame:
        """Bytes of every file of the tasks, in the partition of their bin, series after series."""
        wanted = [
            (path, number, series)
            for number, members in enumerate(bins)
            for series, task in enumerate(members)
            for path in sorted({ref.path for ref in task.unpack().slices})
        ]
        names = ("path", "bin", "series")
        table = pa.table([pa.array(column) for column in zip(*wanted, strict=True)], names=names)
        files = (
            self._binary_files("content")
            .select("path", "content")
            .join(sql.broadcast(self._session.createDataFrame(table)), "path")
        )
        return files.repartitionById(len(bins), files.bin.cast("int")).sortWithinPartitions("bin", "series")

    def _binary_files(self, *columns: str) -> DataFrame:
        """The listing; members of archives as files, where contents are asked for."""
        reader = self._session.read.format("binaryFile").option("recursiveFileLookup", True)
        if self._by_content:
            # a damaged archive must not end the job; it is listed beside, and says itself what is wrong with it
            reader = reader.option("wholeFile", False).option("ignoreCorruptFiles", True)
        return reader.load(_literal(self._studies)).selectExpr(*_LISTED, *columns)


def _unlisted(pending: Remaining[PackedTask], job: Job) -> Iterator[SeriesResult]:
    """Results whose receipts are there, though a store failed to list them."""
    for key in pending:
        receipt = read_receipt(job.out, key, job.model_name)
        if receipt is not None and receipt.run_id == job.run_id:
            pending.discard(key)
            yield receipt


def _collected(frame: DataFrame, mapper: Mapper) -> list[pa.Table]:
    rows = frame.mapInArrow(mapper, from_arrow_schema(TABLES)).toArrow()
    return [opened(content.as_py()) for content in rows.column(0)]


def _wanted(paths: pa.ChunkedArray, studies: Path, exclude: Path | None) -> pa.ChunkedArray:
    """Tells files of a listing by the JVM from those that are left out, or listed beside it under their own names."""
    is_detour, left_out = detours(studies), f"{exclude}{os.sep}" if exclude is not None else "\0"

    def is_wanted(path: str) -> bool:
        is_elsewhere = path.startswith(left_out) or is_detour(os.path.dirname(path.partition(MEMBER)[0]))
        return not is_elsewhere and "\ufffd" not in path  # the JVM's picture of a name that is no UTF-8

    starts = range(0, len(paths), _PATHS_A_TIME)
    parts = (paths.slice(start, _PATHS_A_TIME).to_pylist() for start in starts)
    return pa.chunked_array([pa.array(map(is_wanted, part), pa.bool_()) for part in parts], pa.bool_())


def _literal(folder: Path) -> str:
    """A local folder as Spark's sources take it: nothing percent-encoded, no character of a pattern left bare."""
    return "file:" + re.sub(r"([\\\[\]{}*?])", r"\\\1", str(folder))
