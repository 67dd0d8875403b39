"""Many packed series in little memory: what is asked of all of them as columns, the rest in a file without a name."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imaging_pipeline.contents import Contents
from imaging_pipeline.digests import digest

_ITEMS_A_TIME = 500
"""Items that exist as objects at a time while all of them are gone through."""

PLACE = ("at", "n_bytes")
"""Columns that say where in `Contents` the content of a row lies."""

Rows = NDArray[np.int64]


class Packed(Protocol):
    """A record, packed.

    Attributes:
        COLUMNS: Its fields without `content`, as Arrow.
    """

    COLUMNS: ClassVar[pa.Schema]

    @property
    def series_key(self) -> str:
        """Whose record it is."""

    @property
    def content(self) -> bytes:
        """What the record is made of again."""

    @classmethod
    def of_row(cls, row: dict[str, Any], content: bytes) -> Self:
        """The item whose columns have these values."""


Item = TypeVar("Item", bound=Packed)


class Shelf(Generic[Item]):
    """Items that are made anew each time one is looked at; parts of it share its columns and contents.

    Attributes:
        rows: Of the table that this part consists of, in its order.
    """

    def __init__(self, kind: type[Item], table: "Table", rows: Rows | None = None) -> None:
        """Take some rows of a table.

        Args:
            kind: Of the items.
            table: Their columns and contents.
            rows: Which; None: all.
        """
        self._kind = kind
        self._table = table
        self.rows = np.arange(len(table)) if rows is None else rows

    @classmethod
    def of(cls, kind: type[Item], items: Iterable[Item]) -> "Shelf[Item]":
        """Put items onto a shelf of their own."""
        contents, remaining, batches = Contents(), iter(items), []
        while part := list(islice(remaining, _ITEMS_A_TIME)):
            columns = {name: [getattr(item, name) for item in part] for name in kind.COLUMNS.names}
            values = [item.content for item in part]
            places = dict(zip(PLACE, (contents.add(values), list(map(len, values))), strict=True))
            batches.append(pa.RecordBatch.from_pydict({**columns, **places}, schema=placed(kind.COLUMNS)))
        return cls(kind, Table(pa.Table.from_batches(batches, placed(kind.COLUMNS)), contents))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows)

    def __getitem__(self, series_key: str) -> Item:
        """One of them."""
        row = self._table.row_of(series_key)
        if row is None:
            raise KeyError(series_key)
        return next(self._table.items(self._kind, np.array([row])))

    def __iter__(self) -> Iterator[Item]:
        """All of them, one after the other."""
        for start in range(0, len(self.rows), _ITEMS_A_TIME):
            yield from self._table.items(self._kind, self.rows[start : start + _ITEMS_A_TIME])

    def pieces(self, n_items: int) -> Iterator["Shelf[Item]"]:
        """All of them, so many at a time."""
        return (self.part(self.rows[start : start + n_items]) for start in range(0, len(self), n_items))

    def part(self, rows: Rows) -> "Shelf[Item]":
        """Other rows of the same table."""
        return Shelf(self._kind, self._table, rows)

    def column(self, name: str) -> pa.Array:
        """One value of each."""
        return self._table.columns[name].take(pa.array(self.rows))

    def remaining(self) -> "Remaining[Item]":
        """All of them, to be taken one by one."""
        return Remaining(self, self._table.row_of, len(self._table))


class Table:
    """Columns of items with the place of their contents; what parts of a shelf share."""

    def __init__(self, columns: pa.Table, contents: Contents) -> None:
        """Take them.

        Args:
            columns: With `PLACE`.
            contents: What these point into.
        """
        self.columns = {name: columns[name].combine_chunks() for name in columns.column_names}
        self._contents = contents

    def __len__(self) -> int:
        """Rows."""
        return len(self.columns[PLACE[0]])

    def row_of(self, series_key: str) -> int | None:
        """Row of a series; None where there is none."""
        digests, rows = self._by_digest
        wanted = digest(series_key)
        first, last = (int(np.searchsorted(digests, wanted, side)) for side in ("left", "right"))
        keys = self.columns["series_key"]
        return next((row for row in rows[first:last].tolist() if keys[row].as_py() == series_key), None)

    @cached_property
    def _by_digest(self) -> tuple[Rows, Rows]:
        """Digests of keys in ascending order, and the row of each: made when one is first looked for."""
        keys = self.columns["series_key"]
        digests = np.fromiter((digest(key.as_py()) for key in keys), np.int64, len(keys))
        rows = np.argsort(digests)
        return digests[rows], rows

    def items(self, kind: type[Item], rows: Rows) -> Iterator[Item]:
        """Items of some rows."""
        taken = pa.table(self.columns).take(pa.array(rows))
        for row in taken.to_pylist():
            at, n_bytes = (row.pop(name) for name in PLACE)
            yield kind.of_row(row, self._contents.read(at, n_bytes))


class Remaining(Generic[Item]):
    """Series of a shelf that are not through yet, by key; a bit each.

    Attributes:
        is_left: Of each, in the order of the shelf.
    """

    def __init__(self, shelf: Shelf[Item], row_of: Callable[[str], int | None], n_rows: int) -> None:
        """All of them remain.

        Args:
            shelf: The series.
            row_of: Gives the row of a key in the table of the shelf.
            n_rows: Of that table.
        """
        self._shelf = shelf
        self._row_of = row_of
        self._places = np.full(n_rows, -1)
        self._places[shelf.rows] = np.arange(len(shelf))
        self._n = len(shelf)
        self.is_left = np.ones(len(shelf), np.bool_)

    def __len__(self) -> int:
        """How many remain."""
        return self._n

    def __contains__(self, series_key: str) -> bool:
        """Whether one remains."""
        place = self.place_of(series_key)
        return place is not None and bool(self.is_left[place])

    def __iter__(self) -> Iterator[str]:
        """Keys of those that remain as this loop begins."""
        return iter(self._shelf.part(self._shelf.rows[self.is_left]).column("series_key").to_pylist())

    def discard(self, series_key: str) -> bool:
        """One is through; whether it was left until now."""
        place = self.place_of(series_key)
        if place is None or not self.is_left[place]:
            return False
        self.is_left[place] = False
        self._n -= 1
        return True

    def place_of(self, series_key: str) -> int | None:
        """Where in the shelf a series stands; None where it does not."""
        row = self._row_of(series_key)
        return None if row is None or self._places[row] < 0 else int(self._places[row])


def placed(schema: pa.Schema) -> pa.Schema:
    """Columns with those of `PLACE`."""
    return pa.schema([*schema, *(pa.field(name, pa.int64()) for name in PLACE)])
