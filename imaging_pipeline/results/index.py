"""The table of all series: one row for each series and model, in Delta or Parquet; written by the driver alone."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.results.layout import INDEX
from imaging_pipeline.results.publish import TEMPORARY_PREFIX
from imaging_pipeline.rows import schema_of

_KEY = ("series_key", "model_name")


def _index_schema() -> pa.Schema:
    """Fields of the identity, then those of the result."""
    result = schema_of(SeriesResult)
    identity = result.field("identity").type
    return pa.schema([*(identity.field(i) for i in range(identity.num_fields)), *list(result)[1:]])


SCHEMA = _index_schema()
"""Columns of the index."""


class Index(Protocol):
    """A table that takes rows; a row replaces an older one of the same series and model."""

    def commit(self, results: Sequence[SeriesResult]) -> None:
        """Add or replace rows, all of them or none."""

    def read(self) -> pa.Table:
        """All rows."""

    def keys(self) -> set[tuple[str, str]]:
        """Series key and model name of every row; empty before the first commit."""


def open_index(out: Path, kind: str) -> Index:
    """The index of a RESULTS.

    Args:
        out: The RESULTS folder.
        kind: delta or parquet.
    """
    folder = out / INDEX
    return _ParquetIndex(folder) if kind == "parquet" else _DeltaIndex(folder)


def to_table(results: Sequence[SeriesResult]) -> pa.Table:
    """Results as rows of the index."""
    rows: list[dict[str, Any]] = []
    for result in results:
        row = asdict(result)
        rows.append({**row.pop("identity"), **row})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


class _DeltaIndex:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def commit(self, results: Sequence[SeriesResult]) -> None:
        rows = to_table(results)
        try:
            if not DeltaTable.is_deltatable(str(self._folder)):
                write_deltalake(str(self._folder), rows, name="series", description="one row for each series and model")
                return
            table = DeltaTable(str(self._folder))
            match = " AND ".join(f"old.{column} = new.{column}" for column in _KEY)
            merge = table.merge(rows, match, source_alias="new", target_alias="old", merge_schema=True)
            merge.when_matched_update_all().when_not_matched_insert_all().execute()
        except CommitFailedError:
            raise PipelineError(
                Code.INDEX_BUSY,
                f"{self._folder}: another process has changed it at the same moment",
                "let one run at a time work on a RESULTS; run again and the rows follow from the receipts",
            ) from None
        except (DeltaError, OSError) as error:
            raise _damaged(self._folder, error) from None

    def keys(self) -> set[tuple[str, str]]:
        return _keys(self.read()) if DeltaTable.is_deltatable(str(self._folder)) else set()

    def read(self) -> pa.Table:
        try:
            return pa.table(DeltaTable(str(self._folder)).to_pyarrow_table())
        except (DeltaError, OSError) as error:
            raise _damaged(self._folder, error) from None


class _ParquetIndex:
    def __init__(self, folder: Path) -> None:
        self._file = folder / "index.parquet"

    def commit(self, results: Sequence[SeriesResult]) -> None:
        rows = to_table(results)
        if self._file.exists():
            old, new = self.read(), _keys(rows)
            kept = [tuple(row[column] for column in _KEY) not in new for row in old.select(_KEY).to_pylist()]
            rows = pa.concat_tables([old.filter(pa.array(kept, pa.bool_())), rows], promote_options="default")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}")
        pq.write_table(rows, temporary)
        temporary.replace(self._file)

    def keys(self) -> set[tuple[str, str]]:
        return _keys(self.read()) if self._file.exists() else set()

    def read(self) -> pa.Table:
        try:
            return pq.read_table(self._file)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self._file, error) from None


def _keys(table: pa.Table) -> set[tuple[str, str]]:
    columns = (table.column(name).to_pylist() for name in _KEY)
    return set(zip(*columns, strict=True))


def _damaged(where: Path, error: Exception) -> PipelineError:
    return PipelineError(
        Code.INDEX_DAMAGED,
        f"{where}: {' '.join(str(error).split())[:300]}",
        "move the folder away and run again: the index is rebuilt from the receipts",
    )
