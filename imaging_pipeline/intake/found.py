"""Series as the driver holds them: packed, but for what they are told apart, weighed and counted by."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from imaging_pipeline.errors import Code
from imaging_pipeline.records import SeriesIdentity, SeriesTask, SkippedSeries, Vector
from imaging_pipeline.rows import pack, unpack

_NUMBERS = pa.list_(pa.float64())

FOUND = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("stack", pa.int32()),
        pa.field("series_key", pa.string()),
        pa.field("code", pa.string()),
        pa.field("content", pa.binary()),
        pa.field("inputs_digest", pa.string()),
        pa.field("rows", pa.int32()),
        pa.field("columns", pa.int32()),
        pa.field("depth", pa.int32()),
        pa.field("size_bytes", pa.int64()),
        pa.field("arrived_at", pa.float64()),
        pa.field("pixel_spacing_mm", _NUMBERS),
        pa.field("step_mm", _NUMBERS),
        pa.field("contender", pa.binary()),
        pa.field("n_copies", pa.int32()),
    ]
)
"""A series as it comes back from where it was found.

name and stack: they sort. code: why it is left out; null for a volume. content: the record, packed. contender: how it
competes with others, packed; null where it does not. n_copies: files that hold second copies of instances, in rows
without a series.
"""


@dataclass(frozen=True, slots=True)
class PackedTask:
    """A `SeriesTask`, packed.

    Attributes:
        content: What `unpack` makes it of.
        inputs_digest: Of its identity.
        rows: See `SeriesTask`, as all that follow.
    """

    series_key: str
    content: bytes
    inputs_digest: str
    rows: int
    columns: int
    depth: int
    size_bytes: int
    arrived_at: float
    pixel_spacing_mm: tuple[float, float]
    step_mm: Vector

    @property
    def n_voxels(self) -> int:
        """Voxels of the volume."""
        return self.rows * self.columns * self.depth

    @property
    def identity(self) -> SeriesIdentity:
        """Who the series is; unpacked for the occasion."""
        return self.unpack().identity

    def unpack(self) -> SeriesTask:
        """The task itself."""
        (task,) = unpack(SeriesTask, self.content)
        return task


@dataclass(frozen=True, slots=True)
class PackedSkip:
    """A `SkippedSeries`, packed."""

    series_key: str
    code: Code
    content: bytes

    def unpack(self) -> SkippedSeries:
        """The series itself."""
        (skipped,) = unpack(SkippedSeries, self.content)
        return skipped


def packed_task(task: SeriesTask) -> PackedTask:
    """Pack a task."""
    return PackedTask(
        task.series_key,
        pack([task]),
        task.identity.inputs_digest,
        task.rows,
        task.columns,
        task.depth,
        task.size_bytes,
        task.arrived_at,
        task.pixel_spacing_mm,
        task.step_mm,
    )


def packed_skip(skipped: SkippedSeries) -> PackedSkip:
    """Pack a series that is left out."""
    return PackedSkip(skipped.identity.series_key, skipped.code, pack([skipped]))


def series_in(found: pa.Table) -> Iterator[PackedTask | PackedSkip]:
    """Series of a table of `FOUND`, in the order of their names."""
    present = found.filter(found["series_key"].is_valid()).sort_by([("name", "ascending"), ("stack", "ascending")])
    for batch in present.drop_columns(["name", "stack", "contender", "n_copies"]).to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            code = row.pop("code")
            if code is not None:
                yield PackedSkip(row["series_key"], Code(code), row["content"])
            else:
                row["pixel_spacing_mm"], row["step_mm"] = tuple(row["pixel_spacing_mm"]), tuple(row["step_mm"])
                yield PackedTask(**row)
