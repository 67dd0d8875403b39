"""Arrow tables as CSV, JSON and Parquet, for people and for other programs."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imaging_pipeline.errors import Code, PipelineError


def as_csv(table: pa.Table) -> str:
    """CSV with a heading; nested values as JSON, nothing for null."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows([shown(value) for value in row.values()] for row in table.to_pylist())
    return text.getvalue().rstrip("\n")


def as_json(table: pa.Table) -> str:
    """A list of objects; maps as lists of pairs."""
    return json.dumps(table.to_pylist(), indent=2, ensure_ascii=False, default=_plain)


def shown(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return ""
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a Parquet file.

    Raises:
        PipelineError: `write-failed`.
    """
    with writing(path):
        pq.write_table(table, path)


def write_text(text: str, path: Path) -> None:
    """Write a text file.

    Raises:
        PipelineError: `write-failed`.
    """
    with writing(path):
        path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> int | float | str:
    """What JSON has no form for: sums of whole numbers come as decimals."""
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    return str(value)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line why a file cannot be written.

    Raises:
        PipelineError: `write-failed`.
    """
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise PipelineError(Code.WRITE_FAILED, message, "name a file that you may write to") from None
