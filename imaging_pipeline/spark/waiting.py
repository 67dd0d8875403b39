"""Threads that wait for Spark jobs."""

import logging
import threading
from contextlib import suppress

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from imaging_pipeline.spark.session import cause_of


class SparkJob(threading.Thread):
    """Waits for a Spark job, so that the main thread can follow its receipts.

    Attributes:
        failure: Why the job gave up; empty while it runs and where it succeeded.
    """

    def __init__(self, frame: DataFrame) -> None:
        """Take what is to be run."""
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


def run_unheard(frame: DataFrame) -> None:
    """Whatever is wrong here the next job says again, or nothing comes of the session any more."""
    with suppress(PySparkException, Py4JError, OSError, pa.ArrowException):
        frame.toArrow()
