"""Packets of all files: what is asked of all of them as columns, the rest in a file without a name.

Headers of a cohort of CT take some kilobytes a series even packed. The driver looks at few of them itself, and hands
the others on part by part.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaging_pipeline.contents import Contents
from imaging_pipeline.intake.packets import PACKETS, unpacked_files
from imaging_pipeline.records import SkippedFile

_PUT_AWAY = ("content", "files")
_PACKETS_A_TIME = 500

_PLACES = pa.schema([pa.field(f"{name}_{what}", pa.int64()) for name in _PUT_AWAY for what in ("at", "bytes")])
"""Where in the file a value begins and how long it is; null where there is none."""

_COLUMNS = pa.schema([*(item for item in PACKETS if item.name not in _PUT_AWAY), *_PLACES])

_Integers = NDArray[np.int64]


class Pile:
    """Packets, each to be had again whole; others of the same origin share its file.

    Attributes:
        columns: Those of `PACKETS` without `content` and `files`, and what was said of each packet later.
    """

    def __init__(self, columns: pa.Table, contents: Contents) -> None:
        """Take them.

        Args:
            columns: With the places of what is put away.
            contents: Where that is.
        """
        self.columns = columns
        self._contents = contents

    @classmethod
    def of(cls, tables: Iterable[pa.Table], beside: "Pile | None" = None) -> "Pile":
        """Put packets away, table by table as they come.

        Args:
            tables: Rows of `PACKETS`.
            beside: A pile that they will be put together with.
        """
        contents = Contents() if beside is None else beside._contents
        batches = (batch for table in tables for batch in table.to_batches(max_chunksize=_PACKETS_A_TIME))
        return cls(pa.Table.from_batches((_put_away(batch, contents) for batch in batches), _COLUMNS), contents)

    def __len__(self) -> int:
        """How many packets there are."""
        return int(self.columns.num_rows)

    @property
    def n_planes(self) -> int:
        """Planes of packets from `mark_copies`."""
        return pc.sum(self.columns["n_planes"]).as_py() or 0

    def plus(self, other: "Pile") -> "Pile":
        """These and those that were put beside them."""
        assert other._contents is self._contents, "they lie in different files"
        return Pile(pa.concat_tables([self.columns, other.columns]), self._contents)

    def where(self, mask: pa.ChunkedArray) -> "Pile":
        """Some of them."""
        return Pile(self.columns.filter(mask), self._contents)

    def told(self, columns: Mapping[str, pa.Array | pa.ChunkedArray], drop: str) -> "Pile":
        """These, with more said of each, and one column gone."""
        table = self.columns.drop_columns([drop])
        for name, values in columns.items():
            table = table.append_column(name, values)
        return Pile(table, self._contents)

    def instances(self) -> "Pile":
        """Packets of instances; the same ones where there are no others."""
        bucket = self.columns["bucket"]
        return self.where(bucket.is_valid()) if bucket.null_count else self

    def others(self) -> "Pile":
        """Packets of files that hold no instance."""
        return self.where(self.columns["bucket"].is_null())

    def skipped(self) -> Iterator[SkippedFile]:
        """Files of packets that hold no instance, packet by packet."""
        for table in self.tables():
            for content in table["content"]:
                yield from unpacked_files(content.as_py())

    def content(self, row: int) -> bytes:
        """Headers of one packet."""
        at, n_bytes = (self.columns[f"content_{what}"][row].as_py() for what in ("at", "bytes"))
        return self._contents.read(at, n_bytes)

    def tables(self) -> Iterator[pa.Table]:
        """Whole packets again, as rows of `PACKETS`, some at a time."""
        for batch in self.columns.to_batches(max_chunksize=_PACKETS_A_TIME):
            columns = pa.Table.from_batches([batch])
            for name in _PUT_AWAY:
                columns = columns.append_column(name, self._read(columns, name))
            yield columns.select(PACKETS.names)

    def parts(self, n_parts: int) -> Iterator[pa.Table]:
        """Packets from `mark_copies` in at most so many parts of about as many planes each; no series is cut.

        Packets of a series stand behind each other in a part, in the order in which they came. A part has the columns
        of the pile and `content`.
        """
        columns = self.columns.combine_chunks()  # or each part would begin with a copy of all
        buckets = columns["bucket"].to_numpy()
        order = np.argsort(buckets, kind="stable")
        planes = np.cumsum(columns["n_planes"].to_numpy().astype(np.int64)[order])
        buckets = buckets[order]
        starts = np.flatnonzero(np.diff(buckets, prepend=buckets[:1] - 1))
        wanted = (np.concatenate([[0], planes])[starts] * n_parts // planes[-1:]).astype(np.int64)
        cuts = [*starts[np.flatnonzero(np.diff(wanted, prepend=-1))].tolist(), len(self)]
        for start, end in pairwise(cuts):
            part = columns.take(pa.array(order[start:end]))
            yield part.append_column("content", self._read(part, "content")).drop_columns(_PLACES.names)

    def _read(self, columns: pa.Table, name: str) -> pa.Array:
        """What was put away of some packets."""
        places = (columns[f"{name}_{what}"].to_pylist() for what in ("at", "bytes"))
        values = [None if at is None else self._contents.read(at, n_bytes) for at, n_bytes in zip(*places, strict=True)]
        return pa.array(values, pa.binary())


def _put_away(batch: pa.RecordBatch, contents: Contents) -> pa.RecordBatch:
    columns = {name: batch.column(name) for name in batch.schema.names if name not in _PUT_AWAY}
    for name in _PUT_AWAY:
        values: Sequence[bytes | None] = batch.column(name).to_pylist()
        places = contents.add(value or b"" for value in values)
        is_there = [value is not None for value in values]
        columns[f"{name}_at"] = pa.array(places, pa.int64(), mask=~np.array(is_there, np.bool_))
        columns[f"{name}_bytes"] = pa.array([None if value is None else len(value) for value in values], pa.int64())
    return pa.RecordBatch.from_pydict(columns, schema=_COLUMNS)
