"""A Spark job that tells what its tasks were dealt: `python -m tests.dealt_probe SCRATCH SETTINGS`, as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame

from imaging_pipeline.settings import resolve
from imaging_pipeline.spark import open_session
from imaging_pipeline.spark.broker import take_seat
from imaging_pipeline.spark.resources import Seating, assigned, inference_stage

SCHEMA = "address string, begin double, end double, cpus bigint, pid bigint, omp string"


def watched(marks: Path, expected: int, seating: Seating) -> Callable[..., Any]:
    """Tasks wait for as many others as are expected, so that all that can run at once do."""
    names = [field.split()[0] for field in SCHEMA.split(", ")]

    @contextmanager
    def address() -> Iterator[str]:
        if seating.seats:
            with take_seat(seating.folder, seating.seats, 60) as seat:
                yield ",".join(seat.addresses)
        else:
            yield ",".join(assigned(TaskContext.get()))

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        context = TaskContext.get()
        assert context is not None
        with address() as found:
            begin = time.time()
            (marks / str(context.partitionId())).touch()
            while len(list(marks.iterdir())) < expected and time.time() < begin + 60:
                time.sleep(0.05)
            time.sleep(0.5)
            row = [found, begin, time.time(), context.cpus(), os.getpid(), os.environ.get("OMP_NUM_THREADS")]
        yield pa.RecordBatch.from_arrays([pa.array([value]) for value in row], names)

    return run


def main(scratch: Path, options: dict[str, Any]) -> None:
    def marks(name: str) -> Path:
        (scratch / name).mkdir()
        return scratch / name

    settings = resolve(options=options)
    with open_session(settings, scratch / "spark.log") as session:

        def tasks(number: int) -> DataFrame:
            return session.range(0, number, numPartitions=number)

        context = session.sparkContext
        tasks(1).count()  # waits for the executors, as the listing does
        n = context.defaultParallelism
        headers = tasks(n).mapInArrow(watched(marks("headers"), n, Seating()), SCHEMA).toArrow().to_pylist()
        stage = inference_stage(context, settings)
        rows = []
        for name in ("first", "second"):
            number = stage.n_tasks if stage.seating.seats else 2 * stage.n_tasks
            mapper = watched(marks(name), stage.n_tasks, stage.seating)
            with stage.workers(context):
                mapped = tasks(number).mapInArrow(mapper, SCHEMA, profile=stage.profile)
            rows += mapped.toArrow().to_pylist()
        print("FOUND", json.dumps({"n": n, "n_tasks": stage.n_tasks, "headers": headers, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
