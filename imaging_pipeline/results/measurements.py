"""Measurements as a table beside each mask (the truth), and as rows of one table of all series."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from functools import cache, partial
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from imaging_pipeline.records import SeriesIdentity, SeriesResult
from imaging_pipeline.results.layout import MEASUREMENTS
from imaging_pipeline.results.measure import PERCENTILES, Measurement
from imaging_pipeline.results.tables import KEY, Form
from imaging_pipeline.rows import schema_of
from imaging_pipeline.stores import Store, at_once
from imaging_pipeline.stores.store import unreachable

_NONE = "n/a"
"""What BIDS writes where there is no value."""

_IDENTITY = ("subject_key", "session_key", "series_uid", "modality")
"""What a row says of the series besides its key."""

COLUMNS = tuple(item.name for item in fields(Measurement))

SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in KEY),
        *(schema_of(SeriesIdentity).field(name) for name in _IDENTITY),
        *schema_of(Measurement),
    ]
)
"""Columns of the table of all series."""


def write_measurements(out: Store, path: str, measurements: Iterable[Measurement]) -> str:
    """Write a tab-separated table, one row for each label; SHA-256 of the file.

    Raises:
        PipelineError: `write-failed`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for measurement in measurements:
        writer.writerow({name: _NONE if value in (None, "") else value for name, value in asdict(measurement).items()})
    return out.publish(path, text.getvalue().encode())


def read_measurements(out: Store, path: str) -> tuple[Measurement, ...]:
    """What `write_measurements` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such table.
    """
    rows = csv.DictReader(io.StringIO(out.read(path).decode()), delimiter="\t")
    given = [{name: None if value == _NONE else value for name, value in row.items()} for row in rows]
    words = {item.name: "" for item in fields(Measurement) if item.default == ""}
    try:
        return _adapter().validate_python([{**row, **{name: row.get(name) or "" for name in words}} for row in given])
    except ValidationError as error:
        raise ValueError(f"{path}: {error.error_count()} values are not what they should be") from None


def form(out: Store) -> Form:
    """The table of all measurements of a RESULTS, its rows read from the files beside the masks."""
    return Form(
        name="measurements",
        folder=MEASUREMENTS,
        description="one row for each label of each series and model",
        schema=SCHEMA,
        to_table=partial(to_table, out),
    )


def to_table(out: Store, results: Sequence[SeriesResult]) -> pa.Table:
    """Measurements of results as rows; of several results for one series and model, those of the last.

    A file that is lost or damaged gives no rows: the next run finds that its digest is another and makes it anew.

    Raises:
        PipelineError: `store-unreachable`.
    """
    latest = {(result.identity.series_key, result.model_name): result for result in results}
    measured = [result for result in latest.values() if result.measurements_path]
    with at_once(out) as work:
        found = list(work(partial(_rows, out), measured))
    return pa.Table.from_pylist([row for rows in found for row in rows], schema=SCHEMA)


def describe_columns() -> dict[str, Any]:
    """What the columns mean, as the JSON that BIDS puts beside such tables."""
    ends, boxes = {"first": "Lowest", "last": "Highest"}, {"min": "Low", "max": "High"}
    lps = "patient space of DICOM (LPS: x to the left, y to the back, z to the head)"
    return {
        "label": {"Description": "Number in the mask"},
        "name": {"Description": "Its name"},
        "side": {"Description": "left or right, where name or code says so"},
        "n_voxels": {"Description": "Voxels"},
        "volume_ml": {"Description": "Volume", "Units": "mL"},
        "mean": {"Description": "Mean of the image's values, in the unit of the modality (HU for CT)"},
        "sd": {"Description": "Standard deviation of a population"},
        **{f"p{share}": {"Description": f"Percentile {share} of the values"} for share in PERCENTILES},
        **{
            f"centroid_{axis}_mm": {"Description": f"Centre of its voxels, {axis} in {lps}", "Units": "mm"}
            for axis in "xyz"
        },
        **{
            f"{end}_{axis}": {"Description": f"{text} voxel along written axis {axis}, counted from 0 (RAS+)"}
            for end, text in ends.items()
            for axis in "ijk"
        },
        **{
            f"box_{end}_{axis}_mm": {"Description": f"{text} end of these voxels, {axis} in {lps}", "Units": "mm"}
            for end, text in boxes.items()
            for axis in "xyz"
        },
        "borders": {"Description": "Faces of the volume that it touches"},
        "n_parts": {"Description": "Connected components (26 neighbours)"},
        "largest_share": {"Description": "Share of the voxels in the largest of them"},
        "agreement": {
            "Description": "Mean Dice coefficient over all pairs of networks and mirror images that were averaged "
            "(Roy et al., NeuroImage 195:11-22, 2019); n/a where one network looked once"
        },
    }


def _rows(out: Store, result: SeriesResult) -> list[dict[str, Any]]:
    try:
        measurements = read_measurements(out, result.measurements_path)
    except (FileNotFoundError, ValueError):
        return []
    except OSError as error:
        raise unreachable(out, error) from None
    identity = {name: getattr(result.identity, name) for name in _IDENTITY}
    key = dict(zip(KEY, (result.identity.series_key, result.model_name), strict=True))
    return [{**key, **identity, **asdict(measurement)} for measurement in measurements]


@cache
def _adapter() -> TypeAdapter[tuple[Measurement, ...]]:
    return TypeAdapter(tuple[Measurement, ...])
