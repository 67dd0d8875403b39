"""Series as the driver holds them: packed, but for what they are told apart, weighed and counted by."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from imaging_pipeline.errors import Code
from imaging_pipeline.intake.shelf import Shelf
from imaging_pipeline.records import SeriesIdentity, SeriesTask, SkippedSeries, Vector
from imaging_pipeline.rows import pack, unpack

_NUMBERS = pa.list_(pa.float64())

_IDENTITY = [
    pa.field("series_key", pa.string()),
    pa.field("inputs_digest", pa.string()),
    pa.field("n_slices", pa.int32()),
]
_VOLUME = [
    pa.field("rows", pa.int32()),
    pa.field("columns", pa.int32()),
    pa.field("depth", pa.int32()),
    pa.field("size_bytes", pa.int64()),
    pa.field("arrived_at", pa.float64()),
    pa.field("pixel_spacing_mm", _NUMBERS),
    pa.field("step_mm", _NUMBERS),
]
_CODE = pa.field("code", pa.string())

FOUND = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("stack", pa.int32()),
        *_IDENTITY,
        _CODE,
        pa.field("content", pa.binary()),
        *_VOLUME,
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
        inputs_digest: Of its identity, as `n_slices`.
        rows: See `SeriesTask`, as all that follow.
    """

    COLUMNS: ClassVar[pa.Schema] = pa.schema([*_IDENTITY, *_VOLUME])

    series_key: str
    content: bytes
    inputs_digest: str
    n_slices: int
    rows: int
    columns: int
    depth: int
    size_bytes: int
    arrived_at: float
    pixel_spacing_mm: tuple[float, float]
    step_mm: Vector

    @classmethod
    def of_row(cls, row: dict[str, Any], content: bytes) -> "PackedTask":
        """See `Packed`."""
        row["pixel_spacing_mm"], row["step_mm"] = tuple(row["pixel_spacing_mm"]), tuple(row["step_mm"])
        return cls(content=content, **row)

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
    """A `SkippedSeries`, packed; fields as those of `PackedTask`."""

    COLUMNS: ClassVar[pa.Schema] = pa.schema([*_IDENTITY, _CODE])

    series_key: str
    content: bytes
    inputs_digest: str
    n_slices: int
    code: Code

    @classmethod
    def of_row(cls, row: dict[str, Any], content: bytes) -> "PackedSkip":
        """See `Packed`."""
        return cls(content=content, **{**row, "code": Code(row["code"])})

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
        task.identity.n_slices,
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
    identity = skipped.identity
    return PackedSkip(identity.series_key, pack([skipped]), identity.inputs_digest, identity.n_slices, skipped.code)


Tasks = Shelf[PackedTask]
Skips = Shelf[PackedSkip]
