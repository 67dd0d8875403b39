"""Tables of a RESULTS as whoever asks about them wants them: there, with all columns, or empty."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results import measurements
from imaging_pipeline.results.index import SERIES
from imaging_pipeline.results.layout import REVIEWS
from imaging_pipeline.results.tables import Form, Index, kind_of, open_table
from imaging_pipeline.stores import Store

_REVIEW_COLUMNS = ("series_key", "model_name", "verdict", "comment", "reviewer")

REVIEW_SCHEMA = pa.schema(
    [*(pa.field(name, pa.string()) for name in _REVIEW_COLUMNS), pa.field("reviewed_at", pa.timestamp("us", tz="UTC"))]
)
"""What a person said of a mask: accept or reject, and why."""


def read_series(out: Store, columns: Sequence[str] | None = None) -> pa.Table:
    """The index, with all columns or some: others may take several times their memory.

    Raises:
        PipelineError: `results-not-found`, `index-damaged` or `store-unreachable`.
    """
    return _completed(_series_table(out).read(columns), SERIES, columns)


def read_series_batches(out: Store, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of the index, some rows at a time.

    Raises:
        PipelineError: As `read_series`.
    """
    for batch in _series_table(out).batches(columns):
        yield from _completed(pa.Table.from_batches([batch]), SERIES, columns).to_batches()


def read_all_measurements(out: Store) -> pa.Table:
    """Measurements of all series; empty where there are none.

    Raises:
        PipelineError: `index-damaged` or `store-unreachable`.
    """
    return _read(out, measurements.form(out))


def read_reviews(out: Store) -> pa.Table:
    """Reviews; empty where nobody has written one.

    Raises:
        PipelineError: `index-damaged` or `store-unreachable`.
    """
    form = Form(
        name="reviews",
        folder=REVIEWS,
        description="what a person said of a mask",
        schema=REVIEW_SCHEMA,
        to_table=lambda _: REVIEW_SCHEMA.empty_table(),
    )
    return _read(out, form)


def _series_table(out: Store) -> Index:
    kind = kind_of(out, SERIES)
    if kind is None:
        message = f"{out} has no index: it is no RESULTS, or no run has ended there"
        raise PipelineError(Code.RESULTS_NOT_FOUND, message, "name the folder or URL that a run has written to")
    return open_table(out, SERIES, kind)


def _read(out: Store, form: Form) -> pa.Table:
    """All rows; none where there is no such table."""
    kind = kind_of(out, form)
    return form.schema.empty_table() if kind is None else _completed(open_table(out, form, kind).read(), form)


def _completed(table: pa.Table, form: Form, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows with columns of this version: those that an older table lacks are null."""
    for field in form.schema:
        is_wanted = columns is None or field.name in columns
        if is_wanted and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table if columns is None else table.select(list(columns))
