"""Packets of headers to series: what runs in the executors, or in the one process that there is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.attributes import Candidate
from imaging_pipeline.intake.copies import LEFT_OUT
from imaging_pipeline.intake.found import FOUND, PackedSkip, PackedTask, packed_skip, packed_task, series_in
from imaging_pipeline.intake.packets import planes_in
from imaging_pipeline.intake.rules import SelectionRules
from imaging_pipeline.intake.selection import Contender, compare, enter, refuse
from imaging_pipeline.intake.series import group_series, series_of
from imaging_pipeline.records import SeriesTask, SkippedSeries, SliceHeader
from imaging_pipeline.rows import pack, unpack
from imaging_pipeline.settings import Settings

_ROWS_A_TIME, _PACKETS_A_TIME = 1000, 50

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
            packets: All packets of the series that are to be found, in the order of `by_bucket`, from `mark_copies`.
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


def choose(found: pa.Table, rules: SelectionRules) -> Iterator[PackedTask | PackedSkip]:
    """Series in the order of their names; volumes that another one of their study, or subject, beats are left out.

    Args:
        found: What finders with the same rules made, of all series.
        rules: What to take.
    """
    entered = found["contender"].drop_null()
    refusals = compare((one for content in entered for one in unpack(Contender, content.as_py())), rules)
    for item in series_in(found):
        if isinstance(item, PackedTask) and item.series_key in refusals:
            yield packed_skip(refusals[item.series_key].of(item.unpack()))
        else:
            yield item


def _left_out(skipped: SkippedSeries) -> Row:
    packed = packed_skip(skipped)
    return {
        "stack": skipped.identity.stack,
        "series_key": packed.series_key,
        "code": packed.code.value,
        "content": packed.content,
    }


def _opened(packets: pa.Table) -> Iterator[tuple[int, list[SliceHeader], frozenset[int]]]:
    """Bucket, planes, and places of those that are left out."""
    for batch in packets.select(["bucket", "content", LEFT_OUT]).to_batches(max_chunksize=_PACKETS_A_TIME):
        for bucket, content, left_out in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield bucket, planes_in(content), frozenset(left_out)
