"""The table of all series: one row for each series and model."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from imaging_pipeline.records import SeriesResult
from imaging_pipeline.results.layout import INDEX
from imaging_pipeline.results.tables import KEY, Batch, Form, Index, Kind, State, kind_of, open_table
from imaging_pipeline.rows import schema_of
from imaging_pipeline.settings import IndexSettings
from imaging_pipeline.stores import Store

__all__ = ["KEY", "SCHEMA", "SERIES", "Batch", "Index", "Kind", "State", "kind_in", "open_index", "to_table"]


def _index_schema() -> pa.Schema:
    """Fields of the identity, then those of the result."""
    result = schema_of(SeriesResult)
    identity = result.field("identity").type
    return pa.schema([*(identity.field(i) for i in range(identity.num_fields)), *list(result)[1:]])


SCHEMA = _index_schema()
"""Columns of the index."""


def to_table(results: Sequence[SeriesResult]) -> pa.Table:
    """Results as rows of the index; of several for one series and model, the last."""
    rows: list[dict[str, Any]] = []
    for result in {(result.identity.series_key, result.model_name): result for result in results}.values():
        row = asdict(result)
        rows.append({**row.pop("identity"), **row})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


SERIES = Form(
    name="series",
    folder=INDEX,
    description="one row for each series and model",
    schema=SCHEMA,
    to_table=to_table,
)
"""What the index holds."""


def open_index(out: Store, kind: Kind, settings: IndexSettings | None = None) -> Index:
    """The index of a RESULTS.

    Args:
        out: RESULTS.
        kind: delta or parquet.
        settings: How it is kept in order.
    """
    return open_table(out, SERIES, kind, settings)


def kind_in(out: Store) -> Kind | None:
    """Which kind of index lies in a RESULTS; None where there is none.

    Raises:
        PipelineError: `store-unreachable`.
    """
    return kind_of(out, SERIES)
