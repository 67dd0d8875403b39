"""Tables of a RESULTS as whoever asks about them wants them: there, with all columns, or empty."""

from collections.abc import Sequence

import pyarrow as pa

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results import measurements
from imaging_pipeline.results.index import SERIES
from imaging_pipeline.results.layout import REVIEWS
from imaging_pipeline.results.tables import Form, kind_of, open_table
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
    if kind_of(out, SERIES) is None:
        message = f"{out} has no index: it is no RESULTS, or no run has ended there"
        raise PipelineError(Code.RESULTS_NOT_FOUND, message, "name the folder or URL that a run has written to")
    return _read(out, SERIES, columns)


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


def _read(out: Store, form: Form, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows, with columns of this version: those that an older table lacks are null."""
    kind = kind_of(out, form)
    if kind is None:
        return form.schema.empty_table()
    table = open_table(out, form, kind).read(columns)
    for field in form.schema:
        is_wanted = columns is None or field.name in columns
        if is_wanted and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table if columns is None else table.select(list(columns))
