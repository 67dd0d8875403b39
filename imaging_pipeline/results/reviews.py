"""What people said of results: a Delta table beside the index, one row for each verdict."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.delta_rows import rows_of
from imaging_pipeline.results.layout import REVIEWS
from imaging_pipeline.stores import Store

Verdict = Literal["accept", "reject"]

_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("series_key", "model_name", "verdict", "comment", "reviewer")),
        pa.field("reviewed_at", pa.timestamp("us", "UTC")),
    ]
)
_HINT = "see that nobody else changes the table, and that you may write to RESULTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A verdict on the mask of one series.

    Attributes:
        series_key: The series.
        model_name: The model that made the mask.
        verdict: accept or reject.
        comment: In the reviewer's own words.
        reviewer: Who it was.
        reviewed_at: When, in UTC.
    """

    series_key: str
    model_name: str
    verdict: Verdict
    comment: str
    reviewer: str
    reviewed_at: datetime


def add_review(out: Store, review: Review) -> None:
    """Append a verdict; earlier ones stay.

    Raises:
        PipelineError: `write-failed`.
    """
    try:
        place = out.table(REVIEWS)
        rows = pa.Table.from_pylist([asdict(review)], schema=_SCHEMA)
        write_deltalake(place.uri, rows, mode="append", storage_options=place.options, name="reviews")
    except (DeltaError, OSError) as error:
        raise PipelineError(Code.WRITE_FAILED, f"{out}/{REVIEWS}: {_line(error)}", _HINT) from None


def latest_reviews(out: Store) -> dict[tuple[str, str], Review]:
    """The last verdict on each series, by series key and model name.

    Raises:
        PipelineError: `index-damaged` for a table that cannot be read.
    """
    try:
        place = out.table(REVIEWS)
        if not DeltaTable.is_deltatable(place.uri, place.options):
            return {}
        table = rows_of(DeltaTable(place.uri, storage_options=place.options), place)
        rows = [Review(**row) for row in table.select(_SCHEMA.names).to_pylist()]
    except (DeltaError, OSError, pa.ArrowException, KeyError) as error:
        raise PipelineError(
            Code.INDEX_DAMAGED, f"{out}/{REVIEWS}: {_line(error)}", "restore it from a backup, or move it away"
        ) from None
    rows.sort(key=lambda review: review.reviewed_at)
    return {(review.series_key, review.model_name): review for review in rows}


def now_utc() -> datetime:
    """When a review is made."""
    return datetime.now(UTC)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
