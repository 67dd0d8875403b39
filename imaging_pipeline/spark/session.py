"""The Spark session: its properties, each with its reason, and where its output goes."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.java import check_java
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.settings import CODE, LOCAL, Settings, SparkSettings, is_submitted
from imaging_pipeline.spark.archive import class_archive
from imaging_pipeline.spark.executors import (
    gpu_properties,
    is_local,
    is_on_this_machine,
    memory_overhead,
    start_properties,
)

_MAX_FILE_OPEN_BYTES = 1 << 20

_SQL = {
    "spark.sql.files.archive.reader.enabled": "true",  # members of zip and tar, where contents are asked for
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "64",  # else each folder is a task of its own
    "spark.sql.hive.filesourcePartitionFileCacheSize": "0",  # a listing is used once: a KB a file, kept for good
    "spark.sql.execution.arrow.localRelationThreshold": "0",  # rows of series stay as they came, not twice as Spark's
    "spark.sql.sources.ignoreDataLocality": "true",  # which blocks lie where: asked for each file, and never used
    "spark.sql.adaptive.enabled": "false",  # it would fold the few rows of series into one partition
    "spark.sql.execution.arrow.maxRecordsPerBatch": "200",  # headers in batches; files by content are cut at 64 MiB
    "spark.sql.execution.pyspark.udf.tracebackWithLocals.enabled": "false",  # locals hold patient data
}
"""What any session must have, whoever opened it."""

_DISCREET = {"spark.executorEnv.PYTHONWARNINGS": "ignore"}
"""Warnings of workers go to the log of Spark, and quote what they warn of."""

_QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""The JVM moves rows, never pixels: what its second compiler and parallel collectors cost is not earned back."""

_SMALL_HEAP = "-Xms96m -Xmn32m -XX:MinHeapFreeRatio=10 -XX:MaxHeapFreeRatio=30"
"""It would begin with a 64th of the machine's memory, and fill a third of that before it first cleans up."""

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
def open_session(settings: Settings, log: Path, bundle: Bundle | None = None) -> Iterator[SparkSession]:
    """A session as the settings say; Spark's own output goes to a file.

    Where the process has a session already, that one is used and left open. Under `spark-submit`, what it was given
    stands unless the settings say otherwise.

    Args:
        settings: Master and further properties.
        log: File for the JVM's log and the workers' standard error; spark-submit keeps its own.
        bundle: The model that executors will open; None: no memory is set aside for one.

    Raises:
        PipelineError: `settings-invalid` for Spark Connect, `java-missing`, or `spark-failed` where the session does
            not start.
    """
    _refuse_connect(settings.spark)
    running = SparkSession.getActiveSession()
    if running is not None:
        yield _beside(running, settings)
        return
    java = "" if is_submitted() else check_java()
    with tempfile.TemporaryDirectory(prefix="imaging-pipeline-", ignore_cleanup_errors=True) as scratch:
        session = _start(settings, java, log, Path(scratch), bundle)
        try:
            yield session
        finally:
            session.stop()


def _refuse_connect(settings: SparkSettings) -> None:
    """Remote sessions have no SparkContext: no environment for workers, no word on executors, no files of ours."""
    conf = settings.conf
    remote = [settings.master] if settings.master.startswith("sc://") else []
    remote += filter(None, (conf.get("spark.remote"), os.environ.get("SPARK_REMOTE")))
    by_mode = "connect" in (conf.get("spark.api.mode"), os.environ.get("SPARK_API_MODE"))
    if remote or by_mode:
        raise PipelineError(
            Code.SETTINGS_INVALID,
            f"Spark Connect is asked for ({remote[0] if remote else 'spark.api.mode=connect'}), which gives no "
            "SparkContext to deal cores and GPUs by",
            "unset SPARK_REMOTE and SPARK_API_MODE and name a master: --master spark://HOST:7077; or use --no-spark",
        )


def _beside(running: SparkSession, settings: Settings) -> SparkSession:
    """A session on the context of another one, with SQL properties of its own."""
    session = running.newSession()
    for key, value in {**_SQL, **_files(settings), **settings.spark.conf}.items():
        if session.conf.isModifiable(key):
            session.conf.set(key, value)
    return session


def _start(settings: Settings, java: str, log: Path, scratch: Path, bundle: Bundle | None) -> SparkSession:
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_LOG4J.format(log=log), encoding="utf-8")
    if is_submitted():
        with spark_errors("reading what spark-submit was given"):
            SparkContext._ensure_initialized()
            given = dict(SparkConf().getAll())
        return _built({**_properties(settings, given, bundle), **settings.spark.conf})
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if is_on_this_machine(settings.spark.master or LOCAL):
        os.environ["PYSPARK_PYTHON"] = sys.executable
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # no port of Spark, its UI's either, is open to others
    else:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # other machines may have theirs elsewhere
    os.environ.setdefault("SPARK_WORKER_DIR", str(scratch))  # else a local cluster works inside pyspark's own folder
    os.environ.setdefault("LC_ALL", "C.UTF-8")  # else the JVM cannot name files beyond ASCII
    properties = {**_properties(settings, {}, bundle), **_java_options(settings, java, log4j)}
    with _output_to(log):
        return _built({**properties, **settings.spark.conf})


def _built(properties: Mapping[str, str]) -> SparkSession:
    builder = SparkSession.builder
    for key, value in properties.items():
        builder = builder.config(key, value)
    with spark_errors("starting the session"):
        return builder.getOrCreate()


def _properties(settings: Settings, given: Mapping[str, str], bundle: Bundle | None) -> dict[str, str]:
    """Properties of a session; what spark-submit was given stands, but for the retries of local masters."""
    master = settings.spark.master or given.get("spark.master") or LOCAL
    properties = {
        "spark.executorEnv.PYTHONPATH": os.pathsep.join(filter(None, (str(CODE), os.environ.get("PYTHONPATH")))),
        # for headers; workers of inference have an environment of their own, which stands because this is set
        "spark.executorEnv.OMP_NUM_THREADS": settings.spark.conf.get("spark.task.cpus", "1"),
        "spark.ui.enabled": "false",  # it shows settings and paths to whoever reaches the port
        "spark.ui.showConsoleProgress": "false",
        "spark.task.maxFailures": str(settings.spark.max_failures),
        "spark.speculation": "false",  # a second copy of a task would write the same files
        "spark.locality.wait": "0",  # rows are paths and numbers: no place is nearer to them than another
        "spark.python.worker.faulthandler.enabled": "true",  # a crash of native code leaves a Python stack
        **_SQL,
        **_files(settings),
        **({} if settings.identity.error_details else _DISCREET),
        **start_properties(master),
        **gpu_properties(master, settings),
    }
    properties = {key: value for key, value in properties.items() if key not in given}
    properties["spark.master"] = _with_retries(master, settings.spark.max_failures)
    if "spark.app.name" not in given:
        properties["spark.app.name"] = "imaging_pipeline"
    if bundle is not None and not is_local(master):
        properties |= memory_overhead(master, settings, bundle, {**given, **settings.spark.conf})
    return properties


def _files(settings: Settings) -> dict[str, str]:
    """A header costs the same however large its file is: partitions by count, not by bytes."""
    return {
        "spark.sql.files.openCostInBytes": str(_MAX_FILE_OPEN_BYTES),
        "spark.sql.files.maxPartitionBytes": str(settings.intake.files_per_partition * _MAX_FILE_OPEN_BYTES),
    }


def _java_options(settings: Settings, java: str, log4j: Path) -> dict[str, str]:
    """The JVM's log to our file, and a quick start of JVMs on this machine.

    Other machines do not have the file, and log as their cluster says; their JVMs run for long.
    """
    log = f"-Dlog4j2.configurationFile={log4j.as_uri()}"
    if not is_on_this_machine(settings.spark.master or LOCAL):
        return {"spark.driver.extraJavaOptions": log}
    driver, executor = class_archive(java, settings.models.cache_dir, settings.spark.class_archive)
    return {
        "spark.driver.extraJavaOptions": f"{log} {_QUICK_START} {_SMALL_HEAP} {driver}".rstrip(),
        "spark.executor.extraJavaOptions": f"{log} {_QUICK_START} {_SMALL_HEAP} {executor}".rstrip(),
    }


def _with_retries(master: str, max_failures: int) -> str:
    """local[N] never retries a task, local[N,F] does."""
    plain = re.fullmatch(r"local(?:\[(\d+|\*)\])?", master)
    return f"local[{plain.group(1) or 1},{max_failures}]" if plain else master


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """The JVM inherits what this process writes to when it starts: what it and its workers say goes to the log.

    It may outlive the command by some seconds, and whoever reads the command's output is not to wait for it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    try:
        with open(kept[0], "w", encoding="utf-8", closefd=False) as screen, contextlib.redirect_stdout(screen):
            yield  # the display of this process stays where it was
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


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
    """What went wrong, out of a message of Spark's.

    An error of ours, else a worker's end, else the innermost cause, else the first line.
    """
    lines = [line.strip(" \t") for line in str(error).splitlines() if line.strip()]
    if lines[1:] and lines[0].startswith("An error occurred while calling"):  # of py4j's, and says nothing
        lines = [lines[1].lstrip(": "), *lines[2:]]
    ours = [line.partition("PipelineError: ")[2] for line in lines if "PipelineError: " in line]
    workers = [line for line in lines if "Python worker" in line and not line.endswith(":")]
    raised = [match[1] for line in lines if (match := re.match(r"([\w.]+(?:Error|Exception)): ", line))]
    causes = [line for line in lines if line.startswith("Caused by:")]
    said = [f"a task raised {raised[-1]}"] if raised and lines[0].endswith("Python worker:") else []
    telling = (ours[:1] or workers[:1] or said or causes[-1:] or lines[:1] or [type(error).__name__])[0]
    telling = re.sub(r"\b[a-z0-9]+:/\S+", "...", telling)  # folders are named after patients
    return re.sub(r"^(Caused by: )?([a-z]+\.)+(?=[A-Z])", "", telling)[:400]


def gave_up(failures: Sequence[str], n_left: int) -> PipelineError:
    """Why Spark's tasks bring no series further; what an error of ours says in them comes first."""
    said = " ".join(dict.fromkeys(failures)) or "no receipt was written"
    code = next((code for code in Code if code.ends_run and f"{code}: " in said), Code.SPARK_FAILED)
    hint = "see the run's Spark log, mend the cause and run again: what is done stays done"
    return PipelineError(code, f"{n_left} series are left: {said}", hint)
