"""The Spark session: its properties, each with its reason, and where its output goes."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.java import check_java
from imaging_pipeline.settings import ROOT, Settings

_MAX_FILE_OPEN_BYTES = 1 << 20

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
    with tempfile.TemporaryDirectory(prefix="imaging-pipeline-", ignore_cleanup_errors=True) as scratch:
        session = _start(settings, log, Path(scratch))
        try:
            yield session
        finally:
            session.stop()


def _start(settings: Settings, log: Path, scratch: Path) -> SparkSession:
    builder = SparkSession.builder
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_WORKER_DIR", str(scratch))  # else a local cluster works inside pyspark's own folder
    os.environ.setdefault("LC_ALL", "C.UTF-8")  # else the JVM cannot name files beyond ASCII
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_LOG4J.format(log=log), encoding="utf-8")
    for key, value in {**_properties(settings, log4j), **settings.spark.conf}.items():
        builder = builder.config(key, value)
    with spark_errors("starting the session"), _standard_error_to(log):
        return builder.getOrCreate()


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
        "spark.sql.files.archive.reader.enabled": "true",  # members of zip and tar, where contents are asked for
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
def spark_errors(doing: str) -> Iterator[None]:
    """Spark's errors as `spark-failed`."""
    try:
        yield
    except (PySparkException, Py4JError, RuntimeError) as error:
        raise PipelineError(
            Code.SPARK_FAILED, f"{doing}: {cause_of(error)}", "see the run's Spark log; --no-spark works without"
        ) from None


def cause_of(error: Exception) -> str:
    """What went wrong, out of a message of Spark's: a worker's end, else the innermost cause, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    workers = [line for line in lines if "Python worker" in line]
    causes = [line for line in lines if line.startswith("Caused by:")]
    telling = (workers[:1] or causes[-1:] or lines[:1] or [type(error).__name__])[0]
    return re.sub(r"^(Caused by: )?([a-z]+\.)+(?=[A-Z])", "", telling)[:400]
