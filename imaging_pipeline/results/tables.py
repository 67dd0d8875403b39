"""Tables of a RESULTS that follow its receipts, in Delta or Parquet; written by the driver alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imaging_pipeline.digests import digest
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesResult
from imaging_pipeline.settings import IndexSettings
from imaging_pipeline.stores import Store
from imaging_pipeline.stores.store import unreachable

KEY = ("series_key", "model_name")
Key = tuple[str, str]
Kind = Literal["delta", "parquet"]

ROWS_AT_A_TIME = 500
"""Rows of a table that are read at a time where all of them are gone through."""

_RESULTS_AT_A_TIME = 100
"""Results whose rows exist as dictionaries at a time: Python keeps most of the memory that it once took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a table holds: some rows for each series and model.

    Attributes:
        name: What it calls itself.
        folder: Where it lies, relative to RESULTS.
        description: What a row is.
        schema: Its columns; those of `KEY` come first.
        to_table: Rows of results; of several for one series and model, those of the last.
    """

    name: str
    folder: str
    description: str
    schema: pa.Schema
    to_table: Callable[[Sequence[SeriesResult]], pa.Table]

    def to_rows(self, results: Iterable[SeriesResult]) -> "Rows":
        """Rows of results, one for each series and model."""
        keys, batches = set[Key](), list[pa.RecordBatch]()
        remaining = iter(results)
        while part := list(islice(remaining, _RESULTS_AT_A_TIME)):
            keys |= keys_of(part)
            batches += self.to_table(part).to_batches()
        return Rows(table=pa.Table.from_batches(batches, self.schema), keys=keys)

    def to_batches(self, results: Iterable[SeriesResult]) -> Iterator[pa.RecordBatch]:
        """Rows of results, of some at a time."""
        remaining = iter(results)
        while part := list(islice(remaining, _RESULTS_AT_A_TIME)):
            yield from self.to_table(part).to_batches()

    @property
    def parquet(self) -> str:
        """Its one file, where it is kept as Parquet."""
        return f"{self.folder}/{self.folder}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is committed at once: a series of `keys` has the rows of `table` then, or none."""

    table: pa.Table
    keys: set[Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Which batch of which writer some rows are: a table takes each but once.

    Attributes:
        writer: Names the run.
        number: 1 for its first batch, then 2, and so on.
    """

    writer: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a table is made of.

    Attributes:
        version: Of a Delta table; None for Parquet.
        n_rows: Rows.
        n_files: Files that hold them.
        size_bytes: Of these files.
    """

    version: int | None
    n_rows: int
    n_files: int
    size_bytes: int


class Index(Protocol):
    """A table that takes the rows of results; they replace older ones of the same series and model."""

    def commit(self, results: Iterable[SeriesResult], batch: Batch | None = None) -> None:
        """Add or replace rows, all of them or none; nothing where the batch has arrived before.

        Args:
            results: One for each series and model; gone through once, a hundred at a time.
            batch: Which batch they are.
        """

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, with all columns or some; those that an older table lacks are left out."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The same, some rows at a time."""

    def keys(self) -> "Keys":
        """Series key and model name of every row; empty before the first commit."""

    def state(self) -> State | None:
        """What it is made of; None before the first commit."""

    def tidy(self) -> None:
        """Make few files of many, once there is nothing more to commit for now."""

    def rebuild(self, results: Callable[[], Iterable[SeriesResult]]) -> None:
        """Hold the rows of these results and no others from now on, whatever state it was in.

        They may be asked for twice.
        """


def open_table(out: Store, form: Form, kind: Kind, settings: IndexSettings | None = None) -> Index:
    """A table of a RESULTS.

    Args:
        out: RESULTS.
        form: What it holds.
        kind: delta or parquet.
        settings: How it is kept in order.
    """
    from imaging_pipeline.results.delta import DeltaIndex

    return ParquetIndex(out, form) if kind == "parquet" else DeltaIndex(out, settings or IndexSettings(), form)


def kind_of(out: Store, form: Form) -> Kind | None:
    """Which kind of table lies in a RESULTS; None where there is none.

    Raises:
        PipelineError: `store-unreachable`.
    """
    try:
        if out.exists(form.parquet):
            return "parquet"
        return "delta" if next(iter(out.list(form.folder)), None) is not None else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreachable(out, error) from None


class Keys:
    """Keys of many rows by 64 bits of a digest of each: as text they take thirty times the memory.

    A key may be taken for another one's once in a million tables of a million rows.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Hold some."""
        self._digests = np.zeros(0, np.int64)
        self.add(keys)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._digests)

    def __eq__(self, other: object) -> bool:
        """Whether the others are the same."""
        return isinstance(other, Keys) and np.array_equal(self._digests, other._digests)

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, key: Key) -> bool:
        """Whether a row has it."""
        wanted = _digest(key)
        place = int(np.searchsorted(self._digests, wanted))
        return place < len(self._digests) and int(self._digests[place]) == wanted

    def add(self, keys: Iterable[Key]) -> None:
        """Hold these too."""
        self._digests = np.union1d(self._digests, np.fromiter(map(_digest, keys), np.int64))

    def remove(self, keys: Iterable[Key]) -> None:
        """Hold none of these any more."""
        self._digests = np.setdiff1d(self._digests, np.fromiter(map(_digest, keys), np.int64))


def _digest(key: Key) -> int:
    return digest("\0".join(key))


def keys_in(batches: Iterable[pa.RecordBatch]) -> Iterator[Key]:
    """Series key and model name of every row."""
    for batch in batches:
        columns = (batch.column(name).to_pylist() for name in KEY)
        yield from zip(*columns, strict=True)


def keys_of(results: Iterable[SeriesResult]) -> set[Key]:
    """Series key and model name of every result."""
    return {(result.identity.series_key, result.model_name) for result in results}


def damaged(where: str, text: str) -> PipelineError:
    """A table that cannot be read, in one sentence."""
    hint = "python -m imaging_pipeline.index rebuild RESULTS makes it anew from the receipts"
    return PipelineError(Code.INDEX_DAMAGED, f"{where}: {text}", hint)


class ParquetIndex:
    """One file that each commit writes anew: for few series, and for stores that Delta cannot write to."""

    def __init__(self, out: Store, form: Form) -> None:
        """Open nothing yet."""
        self._out = out
        self._form = form

    def commit(self, results: Iterable[SeriesResult], batch: Batch | None = None) -> None:  # noqa: ARG002
        """See `Index`: rows replace their own kind, so that a batch that comes twice changes nothing."""
        found = self._form.to_rows(results)
        rows, new = found.table, found.keys
        if self._is_there():
            old = self.read()
            kept = [tuple(row[column] for column in KEY) not in new for row in old.select(KEY).to_pylist()]
            rows = pa.concat_tables([old.filter(pa.array(kept, pa.bool_())), rows], promote_options="default")
        elif not rows.num_rows:
            return
        self._write([rows])

    def keys(self) -> Keys:
        """See `Index`."""
        return Keys(keys_in(self.batches(KEY)) if self._is_there() else ())

    def state(self) -> State | None:
        """See `Index`."""
        if not self._is_there():
            return None
        entries = self._out.list(self._form.folder)
        n_bytes = next((entry.size_bytes for entry in entries if entry.path == self._form.parquet), 0)
        return State(version=None, n_rows=self.read(KEY).num_rows, n_files=1, size_bytes=n_bytes)

    def tidy(self) -> None:
        """See `Index`: there is nothing to do."""

    def rebuild(self, results: Callable[[], Iterable[SeriesResult]]) -> None:
        """See `Index`."""
        self._write(self._form.to_batches(results()))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """See `Index`."""
        with self._open() as file:
            return file.read(columns=None if columns is None else list(columns), use_threads=False)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `Index`."""
        with self._open() as file:
            names = [name for name in columns if name in file.schema_arrow.names]
            yield from file.iter_batches(ROWS_AT_A_TIME, columns=names, use_threads=False)

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        try:
            with self._out.fetched(self._form.parquet) as file, pq.ParquetFile(file) as opened:
                yield opened
        except (OSError, pa.ArrowException) as error:
            raise damaged(f"{self._out}/{self._form.parquet}", " ".join(str(error).split())[:300]) from None

    def _write(self, parts: Iterable[pa.Table | pa.RecordBatch]) -> None:
        content, writer = pa.BufferOutputStream(), None
        for part in parts:
            writer = writer or pq.ParquetWriter(content, part.schema)
            writer.write(part)
        with writer or pq.ParquetWriter(content, self._form.schema):
            pass
        self._out.publish(self._form.parquet, content.getvalue().to_pybytes())

    def _is_there(self) -> bool:
        try:
            return self._out.exists(self._form.parquet)
        except OSError as error:
            raise unreachable(self._out, error) from None
