"""Headers and series tasks as Spark jobs."""

import logging
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark import TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.pandas.types import from_arrow_schema

from imaging_pipeline.bins import deal
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.headers import read_file, read_header
from imaging_pipeline.intake.listing import detours, list_passed_over
from imaging_pipeline.job import Job
from imaging_pipeline.partition import check_model, crashed_result, process
from imaging_pipeline.records import FileRef, HeaderRow, SeriesResult, SeriesTask
from imaging_pipeline.results.receipt import follow_receipts, write_receipt
from imaging_pipeline.rows import from_batch, schema_of, to_batch
from imaging_pipeline.settings import Settings
from imaging_pipeline.sources import MEMBER, Contents
from imaging_pipeline.spark.session import cause_of, spark_errors

Batches = Iterable[pa.RecordBatch]
Mapper = Callable[[Batches], Iterator[pa.RecordBatch]]

_POLL_SECONDS = 0.25
_FINISHED = pa.schema([pa.field("series_key", pa.string())])
_CHECKED = pa.schema([pa.field(name, pa.string()) for name in ("note", "code", "message", "hint")])


class SparkRunner:
    """Headers and series tasks by way of a Spark session."""

    def __init__(self, session: SparkSession, settings: Settings) -> None:
        """Take an open session.

        Args:
            session: The session.
            settings: How bytes reach the executors.
        """
        self._session = session
        self._by_content = settings.intake.transport == "content"
        self._studies = Path()
        self._passed_over: frozenset[str] = frozenset()

    def headers(self, studies: Path, exclude: Path, keywords: Collection[str] = ()) -> list[HeaderRow]:
        """List a folder through Spark's binaryFile source and read each header in the executors.

        Files that the source passes over by its own rules are listed beside it and opened by path.

        Raises:
            PipelineError: `spark-failed`.
        """
        passed_over = list(list_passed_over(studies, exclude=exclude, in_archives=self._by_content))
        self._studies, self._passed_over = studies, frozenset(file.path for file in passed_over)
        reader = _header_reader(studies, f"{exclude}{os.sep}", frozenset(keywords))
        schema = from_arrow_schema(schema_of(HeaderRow))
        listed = self._binary_files("length AS size_bytes", "unix_micros(modificationTime) / 1e6D AS modified_at")
        with spark_errors("reading headers"):
            rows = from_batch(HeaderRow, listed.mapInArrow(reader, schema).toArrow())
            if passed_over:
                beside = self._session.createDataFrame(pa.Table.from_batches([to_batch(FileRef, passed_over)]))
                rows += from_batch(HeaderRow, beside.mapInArrow(reader, schema).toArrow())
        return rows

    def check_model(self, job: Job) -> tuple[str, ...]:
        """Open the model in one task a slot, which also warms the workers up.

        Raises:
            PipelineError: Why it cannot be used, or `spark-failed`.
        """
        if job.bundle is None:
            return ()
        n_slots = self._session.sparkContext.defaultParallelism
        slots = self._session.range(0, n_slots, numPartitions=n_slots)
        with spark_errors("opening the model"):
            rows = slots.mapInArrow(_model_checker(job), from_arrow_schema(_CHECKED)).toArrow().to_pylist()
        for row in rows:
            if row["code"]:
                raise PipelineError(Code(row["code"]), row["message"], row["hint"])
        return tuple(dict.fromkeys(row["note"] for row in rows))

    def results(self, tasks: list[SeriesTask], job: Job) -> Iterator[SeriesResult]:
        """Work through tasks dealt into bins of even size; results as their receipts appear.

        Rows of a Spark job reach the driver only when its tasks end, so receipts tell the progress. A series without
        one when the job is over has lost its worker.
        """
        pending = {task.identity.series_key: task for task in tasks}
        followed = follow_receipts(job.out, job.run_id, pending, job.model_name)
        failures = []
        for frame in self._frames(tasks, job):
            thread = _SparkJob(frame)
            thread.start()
            while thread.is_alive():
                yield from next(followed)
                thread.join(_POLL_SECONDS)
            failures.append(thread.failure)
        yield from next(followed)
        for task in pending.values():
            result = crashed_result(task, job, " ".join(filter(None, failures)) or "no receipt was written")
            write_receipt(job.out, result)
            yield result

    def _frames(self, tasks: list[SeriesTask], job: Job) -> Iterator[DataFrame]:
        """One job for the series whose bytes Spark hands over, one for those that are opened by path."""
        schema = from_arrow_schema(_FINISHED)
        n_bins = self._session.sparkContext.defaultParallelism * job.settings.spark.bins_per_slot
        by_content = [task for task in tasks if self._by_content and not self._is_passed_over(task)]
        by_path = [task for task in tasks if not self._by_content or self._is_passed_over(task)]
        if by_content:
            bins = deal(by_content, n_bins)
            yield self._contents(bins).mapInArrow(_content_runner(bins, job), schema)
        if by_path:
            bins = deal(by_path, n_bins)
            frame = self._session.createDataFrame(_task_table(bins))
            yield frame.repartitionById(len(bins), frame.bin).drop("bin").mapInArrow(_path_runner(job), schema)

    def _is_passed_over(self, task: SeriesTask) -> bool:
        return all(ref.path in self._passed_over for ref in task.slices)

    def _contents(self, bins: list[list[SeriesTask]]) -> DataFrame:
        """Bytes of every file of the tasks, in the partition of their bin, series after series."""
        wanted = [
            (path, number, series)
            for number, members in enumerate(bins)
            for series, task in enumerate(members)
            for path in sorted({ref.path for ref in task.slices})
        ]
        names = ("path", "bin", "series")
        table = pa.table([pa.array(column) for column in zip(*wanted, strict=True)], names=names)
        files = self._binary_files().join(sql.broadcast(self._session.createDataFrame(table)), "path")
        return files.repartitionById(len(bins), files.bin.cast("int")).sortWithinPartitions("bin", "series")

    def _binary_files(self, *columns: str) -> DataFrame:
        """The listing; with the content of each file, members of archives as files, where contents are asked for."""
        reader = self._session.read.format("binaryFile").option("recursiveFileLookup", True)
        if self._by_content:
            # a damaged archive must not end the job; it is listed beside, and says itself what is wrong with it
            reader = reader.option("wholeFile", False).option("ignoreCorruptFiles", True)
            columns = (*columns, "content")
        path = "regexp_replace(path, '^file:/+', '/') AS path"
        return reader.load(_literal(self._studies)).selectExpr(path, *columns)


class _SparkJob(threading.Thread):
    """Waits for a Spark job, so that the main thread can follow its receipts.

    Attributes:
        failure: Why the job gave up; empty while it runs and where it succeeded.
    """

    def __init__(self, frame: DataFrame) -> None:
        super().__init__(name="spark-job", daemon=True)
        self._frame = frame
        self.failure = ""

    def run(self) -> None:
        """Run the job to its end."""
        try:
            self._frame.toArrow()
        except (PySparkException, Py4JError, OSError, pa.ArrowException) as error:
            self.failure = cause_of(error)
            logging.getLogger(__name__).exception("Spark gave up")


def _task_table(bins: list[list[SeriesTask]]) -> pa.Table:
    """One row a series, with the number of its bin."""
    tables = (pa.Table.from_batches([to_batch(SeriesTask, members)]) for members in bins)
    numbers = (pa.array([number] * len(members), pa.int32()) for number, members in enumerate(bins))
    return pa.concat_tables(table.append_column("bin", number) for table, number in zip(tables, numbers, strict=True))


def _header_reader(studies: Path, left_out: str, keywords: frozenset[str]) -> Mapper:
    def read(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield to_batch(HeaderRow, _rows(batch))

    def _rows(batch: pa.RecordBatch) -> Iterator[HeaderRow]:
        contents = Contents()
        is_detour = detours(studies)
        for number, file in enumerate(from_batch(FileRef, batch.select(("path", "size_bytes", "modified_at")))):
            if file.path.startswith(left_out) or is_detour(os.path.dirname(file.path.partition(MEMBER)[0])):
                continue
            if "\ufffd" in file.path:  # the JVM's picture of a name that is no UTF-8; listed beside under its own
                continue
            if "content" not in batch.schema.names:
                yield from read_file(file, keywords)
                continue
            contents.put(file.path, batch.column("content")[number].as_py())
            yield from read_header(file, keywords, contents)
            contents.clear()

    return read


def _model_checker(job: Job) -> Mapper:
    def check(batches: Batches) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        try:
            rows = [{"note": note} for note in check_model(job, _cores())]
        except PipelineError as error:
            rows = [{"code": error.code.value, "message": error.message, "hint": error.hint}]
        yield pa.RecordBatch.from_pylist(rows, schema=_CHECKED)

    return check


def _path_runner(job: Job) -> Mapper:
    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        tasks = (task for batch in batches for task in from_batch(SeriesTask, batch))
        yield from map(_finished, process(tasks, job, _cores()))

    return run


def _content_runner(bins: list[list[SeriesTask]], job: Job) -> Mapper:
    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        contents = Contents()
        yield from map(_finished, process(_arriving(batches, bins, contents), job, _cores(), contents))

    return run


def _arriving(batches: Batches, bins: list[list[SeriesTask]], contents: Contents) -> Iterator[SeriesTask]:
    """Tasks of a partition, each when all of its files have come; the files of one series are held at a time."""
    current: SeriesTask | None = None
    for batch in batches:
        for number in range(batch.num_rows):
            path, content, bin_number, series = (
                batch.column(name)[number].as_py() for name in ("path", "content", "bin", "series")
            )
            task = bins[bin_number][series]
            if current is not None and task is not current:
                yield current
                contents.clear()
            current = task
            contents.put(path, content)
    if current is not None:
        yield current


def _finished(result: SeriesResult) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"series_key": [result.identity.series_key]}, schema=_FINISHED)


def _cores() -> int | None:
    context = TaskContext.get()
    return None if context is None else context.cpus()


def _literal(folder: Path) -> str:
    """A local folder as Spark's sources take it: nothing percent-encoded, no character of a pattern left bare."""
    return "file:" + re.sub(r"([\\\[\]{}*?])", r"\\\1", str(folder))
