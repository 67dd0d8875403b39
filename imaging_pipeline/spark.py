"""The only module that imports pyspark: session, listing and headers, series tasks in bins."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark import TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from imaging_pipeline.bins import deal
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.headers import read_file
from imaging_pipeline.intake.listing import list_passed_over
from imaging_pipeline.java import check_java
from imaging_pipeline.partition import Job, crashed_result, process
from imaging_pipeline.records import FileRef, HeaderRow, SeriesResult, SeriesTask
from imaging_pipeline.results.receipt import follow_receipts, write_receipt
from imaging_pipeline.rows import from_batch, schema_of, to_batch
from imaging_pipeline.settings import ROOT, Settings

_MAX_FILE_OPEN_BYTES = 1 << 20
_POLL_SECONDS = 0.25
_FINISHED = pa.schema([pa.field("series_key", pa.string())])

_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss}} %p %c{{1}}: %m%n%ex
"""


@contextlib.contextmanager
def open_session(settings: Settings, log: Path) -> Iterator[SparkSession]:
    """A session as the settings say; Spark's own output goes to a file.

    Args:
        settings: Master and further properties.
        log: File for the JVM's log and the workers' standard error.

    Raises:
        PipelineError: `java-missing`, or `spark-failed` where the session does not start.
    """
    check_java()
    session = _start(settings, log)
    try:
        yield session
    finally:
        session.stop()
        _log4j(log).unlink(missing_ok=True)


class SparkRunner:
    """Headers and series tasks by way of a Spark session."""

    def __init__(self, session: SparkSession) -> None:
        """Take an open session."""
        self._session = session

    def headers(self, studies: Path, exclude: Path, keywords: Collection[str] = ()) -> list[HeaderRow]:
        """List a folder through Spark's binaryFile source and read each header by path in the executors.

        Files that the source passes over by its own rules are listed beside it.

        Raises:
            PipelineError: `spark-failed`.
        """
        listed = (
            self._session.read.format("binaryFile")
            .option("recursiveFileLookup", True)
            .load(_literal(studies))
            .selectExpr("path", "length AS size_bytes", "unix_micros(modificationTime) / 1e6D AS modified_at")
        )
        passed_over = list(list_passed_over(studies, exclude=exclude))
        if passed_over:
            table = pa.Table.from_batches([to_batch(FileRef, passed_over)])
            listed = listed.unionByName(self._session.createDataFrame(table))
        reader = _header_reader(f"{exclude}{os.sep}", frozenset(keywords))
        rows = listed.mapInArrow(reader, from_arrow_schema(schema_of(HeaderRow)))
        with _spark_errors("reading headers"):
            return from_batch(HeaderRow, rows.toArrow())

    def results(self, tasks: list[SeriesTask], job: Job) -> Iterator[SeriesResult]:
        """Work through tasks dealt into bins of even size; results as their receipts appear.

        Rows of a Spark job reach the driver only when its tasks end, so receipts tell the progress. A series without
        one when the job is over has lost its worker.
        """
        slots = self._session.sparkContext.defaultParallelism
        bins = deal(tasks, slots * job.settings.spark.bins_per_slot)
        frame = self._session.createDataFrame(_task_table(bins))
        dealt = frame.repartitionById(len(bins), frame.bin).drop("bin")
        thread = _SparkJob(dealt.mapInArrow(_task_runner(job), from_arrow_schema(_FINISHED)))
        pending = {task.identity.series_key: task for task in tasks}
        followed = follow_receipts(job.out, job.run_id, pending, job.model_name)
        thread.start()
        while thread.is_alive():
            yield from next(followed)
            thread.join(_POLL_SECONDS)
        yield from next(followed)
        for task in pending.values():
            result = crashed_result(task, job, thread.failure or "no receipt was written")
            write_receipt(job.out, result)
            yield result


def _task_table(bins: list[list[SeriesTask]]) -> pa.Table:
    """One row a series, with the number of its bin."""
    tables = (pa.Table.from_batches([to_batch(SeriesTask, members)]) for members in bins)
    numbers = (pa.array([number] * len(members), pa.int32()) for number, members in enumerate(bins))
    return pa.concat_tables(table.append_column("bin", number) for table, number in zip(tables, numbers, strict=True))


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
        except (PySparkException, Py4JError) as error:
            self.failure = _first_lines(error)
            logging.getLogger(__name__).exception("Spark gave up")


def _header_reader(
    left_out: str, keywords: frozenset[str]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            files = [_local(file) for file in from_batch(FileRef, batch)]
            files = [file for file in files if not file.path.startswith(left_out)]
            yield to_batch(HeaderRow, (row for file in files for row in read_file(file, keywords)))

    return read


def _task_runner(job: Job) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        cores = None if context is None else context.cpus()
        tasks = (task for batch in batches for task in from_batch(SeriesTask, batch))
        for result in process(tasks, job, cores):
            yield pa.RecordBatch.from_pydict({"series_key": [result.identity.series_key]}, schema=_FINISHED)

    return run


def _literal(folder: Path) -> str:
    """A local folder as Spark's sources take it: nothing percent-encoded, no character of a pattern left bare."""
    return "file:" + re.sub(r"([\\\[\]{}*?])", r"\\\1", str(folder))


def _local(file: FileRef) -> FileRef:
    """Spark names local files as file:/path."""
    path = re.sub(r"^file:/+", "/", file.path)
    return FileRef(path=path, size_bytes=file.size_bytes, modified_at=file.modified_at)


def _start(settings: Settings, log: Path) -> SparkSession:
    builder = SparkSession.builder
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_WORKER_DIR", tempfile.mkdtemp(prefix="imaging-pipeline-workers-"))
    os.environ.setdefault("LC_ALL", "C.UTF-8")  # else the JVM cannot name files beyond ASCII
    log4j = _log4j(log)
    log4j.write_text(_LOG4J.format(log=log), encoding="utf-8")
    for key, value in {**_properties(settings, log4j), **settings.spark.conf}.items():
        builder = builder.config(key, value)
    with _spark_errors("starting the session"), _standard_error_to(log):
        return builder.getOrCreate()


def _log4j(log: Path) -> Path:
    """The JVM reads from here where its log goes."""
    return log.with_suffix(".log4j2.properties")


def _properties(settings: Settings, log4j: Path) -> dict[str, str]:
    java_options = f"-Dlog4j2.configurationFile={log4j.as_uri()}"
    return {
        "spark.app.name": "imaging_pipeline",
        "spark.master": _with_retries(settings.spark.master, settings.spark.max_failures),
        "spark.driver.extraJavaOptions": java_options,
        "spark.executor.extraJavaOptions": java_options,
        "spark.executorEnv.PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.task.maxFailures": str(settings.spark.max_failures),
        "spark.speculation": "false",  # a second copy of a task would write the same files
        "spark.locality.wait": "0",
        "spark.python.worker.faulthandler.enabled": "true",
        "spark.sql.adaptive.enabled": "false",  # it would fold the few rows of series into one partition
        "spark.sql.execution.arrow.maxRecordsPerBatch": "200",
        "spark.sql.execution.pyspark.udf.tracebackWithLocals.enabled": "false",  # locals hold patient data
        # a header costs the same however large its file is: partitions by count, not by bytes
        "spark.sql.files.openCostInBytes": str(_MAX_FILE_OPEN_BYTES),
        "spark.sql.files.maxPartitionBytes": str(settings.intake.files_per_partition * _MAX_FILE_OPEN_BYTES),
    }


def _with_retries(master: str, max_failures: int) -> str:
    """local[N] never retries a task, local[N,F] does."""
    plain = re.fullmatch(r"local(?:\[(\d+|\*)\])?", master)
    return f"local[{plain.group(1) or 1},{max_failures}]" if plain else master


@contextlib.contextmanager
def _standard_error_to(log: Path) -> Iterator[None]:
    """The JVM inherits standard error when it starts: what it and its workers say goes to the log."""
    sys.stderr.flush()
    kept = os.dup(2)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _spark_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (PySparkException, Py4JError, RuntimeError) as error:
        raise PipelineError(
            Code.SPARK_FAILED, f"{doing}: {_first_lines(error)}", "see the run's Spark log; --no-spark works without"
        ) from None


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]
