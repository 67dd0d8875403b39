"""Rows of a Delta table: delta-rs says which files it is made of, Arrow reads them."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow.dataset import Dataset
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from imaging_pipeline.results.tables import ROWS_AT_A_TIME
from imaging_pipeline.stores import is_url
from imaging_pipeline.stores.store import Table


def rows_of(table: DeltaTable, place: Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of a table, with all columns or those of some that it has."""
    files = _files_of(table, place)
    return files.to_table(columns=None if columns is None else _known(columns, files))


def batches_of(table: DeltaTable, place: Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The same, some rows at a time, file after file."""
    files = _files_of(table, place)
    wanted = pa.schema([files.schema.field(name) for name in _known(columns, files)])
    for fragment in files.get_fragments():  # a scan of the dataset would decode a file as a whole
        with files.filesystem.open_input_file(fragment.path) as file, pq.ParquetFile(file, pre_buffer=False) as opened:
            there = opened.schema_arrow.names
            names = [name for name in wanted.names if name in there]
            for batch in opened.iter_batches(ROWS_AT_A_TIME, columns=names, use_threads=False):
                yield _completed(batch, wanted)


def _completed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Columns in order, as the table has them today: a file may be older than some."""
    arrays = [
        batch.column(item.name).cast(item.type)
        if item.name in batch.schema.names
        else pa.nulls(batch.num_rows, item.type)
        for item in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _known(columns: Sequence[str], files: Dataset) -> list[str]:
    return [name for name in columns if name in files.schema.names]


def _files_of(table: DeltaTable, place: Table) -> Dataset:
    """Its files as Arrow sees them.

    Files on a disk are read by Arrow itself: its threads would come back to Python by delta-rs' file system, and end
    the process by abort() where that is about to exit.
    """
    on_disk = None if is_url(place.uri) else SubTreeFileSystem(place.uri, LocalFileSystem())
    return table.to_pyarrow_dataset(filesystem=on_disk)
