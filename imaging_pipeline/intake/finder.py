"""Packets of headers to series: what runs in the executors, or in the one process that there is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imaging_pipeline.contents import Contents
from imaging_pipeline.host import give_back_memory
from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.attributes import Candidate
from imaging_pipeline.intake.copies import LEFT_OUT
from imaging_pipeline.intake.found import FOUND, PackedSkip, PackedTask, Skips, Tasks, packed_skip, packed_task
from imaging_pipeline.intake.packets import planes_in
from imaging_pipeline.intake.rules import SelectionRules
from imaging_pipeline.intake.selection import Contender, compare, enter, refuse
from imaging_pipeline.intake.series import group_series, series_of
from imaging_pipeline.intake.shelf import PLACE, Rows, Shelf, Table, placed
from imaging_pipeline.records import SeriesTask, SkippedSeries, SliceHeader
from imaging_pipeline.rows import pack, unpack
from imaging_pipeline.settings import Settings

_ROWS_A_TIME, _PACKETS_A_TIME = 1000, 50
_CONTENT = "content"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finder:
    """Groups and checks planes, and asks the selection rules about each volume; the planes of one series at a time.

    Attributes:
        keys: Names for subjects, studies and series.
        settings: Limits of intake and geometry.
        rules: Which volumes are taken.
        model: Name of the model that the rules belong to.
    """

    keys: Keys
    settings: Settings
    rules: SelectionRules
    model: str

    def __call__(self, packets: pa.Table) -> pa.Table:
        """Rows of `FOUND`.

        Args:
            packets: All packets of the series that are to be found: a part of `parts_of`.
        """
        batches, rows = [], list[Row]()
        for row in self._rows(packets):
            rows.append(row)
            if len(rows) >= _ROWS_A_TIME:
                batches.append(pa.RecordBatch.from_pylist(rows, schema=FOUND))
                rows = []
        return pa.Table.from_batches([*batches, pa.RecordBatch.from_pylist(rows, schema=FOUND)])

    def _rows(self, packets: pa.Table) -> Iterator[Row]:
        for _, opened in groupby(_opened(packets), key=lambda item: item[0]):
            planes: list[SliceHeader] = []
            all_paths: set[str] = set()
            for _, members, left_out in opened:
                all_paths.update(plane.path for plane in members)
                planes += [plane for place, plane in enumerate(members) if place not in left_out]
            yield from self._bucket(planes, n_left_out=len(all_paths - {plane.path for plane in planes}))

    def _bucket(self, planes: Sequence[SliceHeader], n_left_out: int) -> Iterator[Row]:
        grouped = group_series(planes, self.keys, self.settings)
        name = series_of(planes[0]) if planes else ""
        for task in grouped.tasks:
            yield {"name": name, **self._chosen(task, grouped.heads[task.series_key])}
        for skipped in grouped.skipped:
            yield {"name": name, **_left_out(skipped)}
        if grouped.n_duplicates + n_left_out:
            yield {"n_copies": grouped.n_duplicates + n_left_out}

    def _chosen(self, task: SeriesTask, head: SliceHeader) -> Row:
        candidate = Candidate(task=task, head=head)
        refusal = refuse(candidate, self.rules, self.model)
        if refusal is not None:
            return _left_out(refusal.of(task))
        packed, contender = packed_task(task), enter(candidate, self.rules)
        return {
            "stack": task.identity.stack,
            **{name: getattr(packed, name) for name in PackedTask.__slots__},
            "contender": None if contender is None else pack([contender]),
        }


@dataclass(frozen=True, slots=True)
class Gathered:
    """Series that finders made, their contents put away.

    Attributes:
        columns: Rows of `FOUND` with `PLACE` instead of the content.
        contents: Where that is.
        n_copies: Files that hold second copies of instances.
    """

    columns: pa.Table
    contents: Contents
    n_copies: int


def gather(parts: Iterable[pa.Table]) -> Gathered:
    """Put series away, part by part as they are found.

    Args:
        parts: Rows of `FOUND`.
    """
    contents, n_copies = Contents(), 0
    tables = [placed(FOUND.remove(FOUND.get_field_index(_CONTENT))).empty_table()]
    for part in parts:
        n_copies += pc.sum(part["n_copies"]).as_py() or 0
        series = part.filter(part["series_key"].is_valid())
        columns = series.drop_columns([_CONTENT])
        values = [value.as_py() for value in series[_CONTENT]]
        for name, numbers in zip(PLACE, (contents.add(values), map(len, values)), strict=True):
            columns = columns.append_column(name, pa.array(numbers, pa.int64()))
        tables.append(columns)
        give_back_memory()
    return Gathered(pa.concat_tables(tables), contents, n_copies)


def choose(found: Gathered, rules: SelectionRules) -> tuple[Tasks, Skips]:
    """Volumes that are taken and series that are left out, in the order of their names.

    A volume that another one of its study, or subject, beats is left out.

    Args:
        found: What finders with the same rules made, of all series.
        rules: What to take.
    """
    columns = found.columns.sort_by([("name", "ascending"), ("stack", "ascending")]).drop_columns(["name", "stack"])
    entered = columns["contender"].drop_null()
    refusals = compare((one for content in entered for one in unpack(Contender, content.as_py())), rules)
    is_volume = columns["code"].is_null()
    has_lost = pc.and_(is_volume, pc.is_in(columns["series_key"], value_set=pa.array(refusals, pa.string())))
    volumes = Shelf(PackedTask, Table(columns.select(placed(PackedTask.COLUMNS).names), found.contents))
    losers = volumes.part(np.flatnonzero(has_lost))
    lost = (packed_skip(refusals[task.series_key].of(task.unpack())) for task in losers)
    skips = _replaced(columns.select(placed(PackedSkip.COLUMNS).names), losers.rows, lost, found.contents)
    is_taken = np.array(is_volume) & ~np.array(has_lost)
    taken = columns.filter(pa.array(is_taken)).select(placed(PackedTask.COLUMNS).names)
    left_out = skips.filter(pa.array(~is_taken))
    return Shelf(PackedTask, Table(taken, found.contents)), Shelf(PackedSkip, Table(left_out, found.contents))


def _replaced(columns: pa.Table, rows: Rows, skips: Iterable[PackedSkip], contents: Contents) -> pa.Table:
    """Columns of series with these in place of some rows."""
    codes, places, lengths = columns["code"].to_pylist(), *(columns[name].to_pylist() for name in PLACE)
    for row, skip in zip(rows.tolist(), skips, strict=True):
        codes[row], (places[row],), lengths[row] = skip.code.value, contents.add([skip.content]), len(skip.content)
    names = ("code", *PLACE)
    for name, values in zip(names, (codes, places, lengths), strict=True):
        number = columns.column_names.index(name)
        columns = columns.set_column(number, name, pa.array(values, columns.schema.field(number).type))
    return columns


def _left_out(skipped: SkippedSeries) -> Row:
    packed = packed_skip(skipped)
    return {
        "stack": skipped.identity.stack,
        **{name: getattr(packed, name) for name in PackedSkip.__slots__},
    }


def _opened(packets: pa.Table) -> Iterator[tuple[int, list[SliceHeader], frozenset[int]]]:
    """Bucket, planes, and places of those that are left out."""
    for batch in packets.select(["bucket", "content", LEFT_OUT]).to_batches(max_chunksize=_PACKETS_A_TIME):
        for bucket, content, left_out in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield bucket, planes_in(content), frozenset(left_out)
