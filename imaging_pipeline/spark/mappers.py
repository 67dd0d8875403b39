"""What runs in the executors: functions over Arrow batches, for `mapInArrow`."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import cast

import pyarrow as pa

from imaging_pipeline.errors import PipelineError
from imaging_pipeline.intake.found import PackedTask
from imaging_pipeline.intake.headers import read_header
from imaging_pipeline.intake.packets import file_refs, packets_of
from imaging_pipeline.job import Job
from imaging_pipeline.records import FileRef, HeaderRow, SeriesResult, SeriesTask
from imaging_pipeline.rows import schema_of, unpack
from imaging_pipeline.sources import Contents
from imaging_pipeline.spark.resources import Seating, seated
from imaging_pipeline.workers import Handover, Worker, logging_of

Batches = Iterable[pa.RecordBatch]
Bins = Sequence[Sequence[PackedTask]]
Mapper = Callable[[Batches], Iterator[pa.RecordBatch]]

TABLES = pa.schema([pa.field("table", pa.binary())])
TASKS = pa.schema([pa.field("tasks", pa.binary()), pa.field("bin", pa.int32())])
FINISHED = pa.schema([pa.field("series_key", pa.string())])
CHECKED = pa.schema([pa.field(name, pa.string()) for name in ("note", "code", "message", "hint")])


def table_mapper(work: Callable[[pa.Table], pa.Table]) -> Mapper:
    """One table after the other, each sealed in a row, to what becomes of it."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for content in batch.column(TABLES.names[0]):
                yield _one_row(work(opened(content.as_py())))
        _settle()

    return run


def content_reader(keywords: frozenset[str]) -> Mapper:
    """Files with their bytes to the packets of their headers."""

    def read(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _one_row(packets_of(_rows(batch)))
        _settle()

    def _rows(batch: pa.RecordBatch) -> Iterator[tuple[FileRef, list[HeaderRow]]]:
        contents = Contents()
        files = file_refs(pa.Table.from_batches([batch.select(schema_of(FileRef).names)]))
        for number, file in enumerate(files):
            contents.put(file.path, batch.column("content")[number].as_py())
            yield file, list(read_header(file, keywords, contents))
            contents.clear()

    return read


def sealed(table: pa.Table) -> bytes:
    """A table as a single value: whatever its columns, Spark sees bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table)
    return cast(bytes, sink.getvalue().to_pybytes())


def opened(content: bytes) -> pa.Table:
    """The table that was sealed."""
    return pa.ipc.open_stream(content).read_all()


def preparer(job: Job) -> Mapper:
    """Starts the process of the worker's series; does not wait for it."""

    def prepare(batches: Batches) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        _worker().prepare(job)
        return iter(())

    return prepare


def model_checker(job: Job, seating: Seating) -> Mapper:
    """Opens the model at the task's place; what a user should know, or why it cannot be used."""

    def check(batches: Batches) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        try:
            with seated(job, seating) as place:
                rows = [{"note": note} for note in _worker().check(job, place)]
        except PipelineError as error:
            rows = [{"code": error.code.value, "message": error.message, "hint": error.hint}]
        yield pa.RecordBatch.from_pylist(rows, schema=CHECKED)

    return check


def path_runner(job: Job, seating: Seating) -> Mapper:
    """Series of a partition, opened by path, to their keys; what came of them stands in receipts."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        packed = (value.as_py() for batch in batches for value in batch.column(TASKS.names[0]))
        handovers = (Handover(task=task) for content in packed for task in unpack(SeriesTask, content))
        with logging_of(job), seated(job, seating) as place:
            yield from map(_finished, _worker().results(handovers, job, place))

    return run


def content_runner(bins: Bins, job: Job, seating: Seating) -> Mapper:
    """The same for series whose bytes come along, file after file in the order of the bins."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        with logging_of(job), seated(job, seating) as place:
            yield from map(_finished, _worker().results(_arriving(batches, bins), job, place))

    return run


@cache
def _settle() -> None:
    """Hide what modules consist of from garbage collection, once a worker: Spark's worker collects after each task."""
    gc.collect()
    gc.freeze()


@cache
def _worker() -> Worker:
    """The process of this Spark worker's series: it keeps the model for the next task."""
    return Worker()


def _one_row(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({TABLES.names[0]: [sealed(table)]}, schema=TABLES)


def _arriving(batches: Batches, bins: Bins) -> Iterator[Handover]:
    """Series of a partition, each when all of its files have come."""
    current: PackedTask | None = None
    contents: dict[str, bytes] = {}
    for batch in batches:
        for number in range(batch.num_rows):
            path, content, bin_number, series = (
                batch.column(name)[number].as_py() for name in ("path", "content", "bin", "series")
            )
            task = bins[bin_number][series]
            if current is not None and task is not current:
                yield Handover(task=current.unpack(), contents=contents)
                contents = {}
            current = task
            contents[path] = content
    if current is not None:
        yield Handover(task=current.unpack(), contents=contents)


def _finished(result: SeriesResult) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"series_key": [result.identity.series_key]}, schema=FINISHED)
