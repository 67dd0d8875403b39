"""Headers as they travel and wait: packets of one series' planes that were read together, packed.

No process ever holds all headers as objects. A packet takes about twenty bytes a plane; what has to be known of it
without opening it stands beside it.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaging_pipeline.digests import digest
from imaging_pipeline.errors import Code
from imaging_pipeline.intake.objects import read_files
from imaging_pipeline.intake.series import instance_of, series_of
from imaging_pipeline.records import FileRef, HeaderRow, SkippedFile, SliceHeader
from imaging_pipeline.rows import pack, unpack, unpack_plain
from imaging_pipeline.sources import MEMBER, Opener

PACKETS = pa.schema(
    [
        pa.field("bucket", pa.int64()),
        pa.field("code", pa.string()),
        pa.field("n_files", pa.int32()),
        pa.field("instances", pa.list_(pa.int64())),
        pa.field("content", pa.binary()),
        pa.field("files", pa.binary()),
    ]
)
"""What a packet says without being opened.

bucket: a digest of the series that its planes belong to, the same in each of its packets; null where the files hold no
instance of a series. code: why they hold none. n_files: how many files it is about. instances: a digest of each plane's
instance. files: path, size and modification time in milliseconds of the listed files, packed; null where they are to
be read again the next time.
"""

PLANES_A_PART = 5_000
"""Planes whose series are found at a time, by one finder: what is on its way then is bounded."""

_Integers = NDArray[np.int64]
_STAMPS = pa.schema([("path", pa.string()), ("size_bytes", pa.int64()), ("ms", pa.int64())])

_ROWS_A_TIME = 500
"""Headers that are objects at a time while they are read; a series of more has several packets."""


@dataclass(slots=True)
class _Open:
    """A packet that is being filled."""

    rows: list[HeaderRow] = field(default_factory=list)
    files: dict[str, FileRef] = field(default_factory=dict)


_Key = tuple[str, Code | None, bool]
"""Series, or why there is none, and whether it will be true of the files the next time."""


def read_packets(files: pa.Table, keywords: Collection[str], opener: Opener) -> pa.Table:
    """Packets of listed files.

    Args:
        files: Rows of `FileRef`.
        keywords: See `read_header`.
        opener: Opens them.
    """
    return packets_of(read_files(file_refs(files), keywords, opener))


def packets_of(read: Iterable[tuple[FileRef, Sequence[HeaderRow]]]) -> pa.Table:
    """Packets of files and their rows."""
    return pa.Table.from_batches(_packed(read), PACKETS)


def file_refs(files: pa.Table) -> Iterator[FileRef]:
    """Listed files one by one."""
    for batch in files.to_batches(max_chunksize=_ROWS_A_TIME):
        paths, sizes, times = (batch.column(item.name).to_pylist() for item in files.schema)
        for path, size_bytes, modified_at in zip(paths, sizes, times, strict=True):
            yield FileRef(path=path, size_bytes=size_bytes, modified_at=modified_at)


def planes_in(content: bytes) -> list[SliceHeader]:
    """Planes of a packet of instances."""
    return unpack(SliceHeader, content)


def listed_in(packets: pa.Table) -> tuple[_Integers, pa.Array, _Integers, _Integers]:
    """Listed files of packets that last: how many each has; then path, size and time in milliseconds of all."""
    counts, parts = list[int](), [pa.RecordBatch.from_pylist([], schema=_STAMPS)]
    for batch in packets.select(["files"]).to_batches(max_chunksize=_ROWS_A_TIME):
        stamps = [unpack_plain(content) for content in batch.column(0).to_pylist()]
        counts += [len(paths) for paths, _, _ in stamps]
        columns = (list(chain.from_iterable(values)) for values in zip(*stamps, strict=True))
        arrays = [pa.array(column, item.type) for column, item in zip(columns, _STAMPS, strict=True)]
        parts.append(pa.RecordBatch.from_arrays(arrays, schema=_STAMPS))
    table = pa.Table.from_batches(parts)
    paths, sizes, times = (table[name].combine_chunks() for name in _STAMPS.names)
    return np.array(counts, np.int64), paths, sizes.to_numpy(), times.to_numpy()


def pruned(packet: pa.Table, wanted: Collection[str]) -> pa.RecordBatch:
    """A packet without what comes of files that are not wanted.

    Args:
        packet: Its one row.
        wanted: Listed files: an archive, for what comes of its members.
    """
    (row,) = packet.to_pylist()
    if row["code"] is None:
        rows = [HeaderRow(plane=plane) for plane in planes_in(row["content"])]
    else:
        rows = [HeaderRow(skipped=other) for other in unpacked_files(row["content"])]
    kept: dict[str, tuple[FileRef, list[HeaderRow]]] = {
        path: (FileRef(path=path, size_bytes=size, modified_at=time / 1000), [])
        for path, size, time in zip(*unpack_plain(row["files"]), strict=True)
        if path in wanted
    }
    for header in rows:
        path = header.path if header.path in kept else header.path.partition(MEMBER)[0]
        if path in kept:
            kept[path][1].append(header)
    return next(_packed(kept.values()))


def unpacked_files(content: bytes) -> list[SkippedFile]:
    """Files of a packet that holds no instance."""
    return unpack(SkippedFile, content)


def lengths(lists: pa.ChunkedArray) -> _Integers:
    """How many values each list has."""
    return cast(_Integers, pc.list_value_length(lists).to_numpy().astype(np.int64))


def milliseconds(seconds: NDArray[np.float64]) -> _Integers:
    """Times as the JVM has them, which knows no less; its numbers come as fractions of a second, a hair too low."""
    return np.floor(seconds * 1000 + 0.01).astype(np.int64)


def _packed(read: Iterable[tuple[FileRef, Sequence[HeaderRow]]]) -> Iterator[pa.RecordBatch]:
    groups: dict[_Key, _Open] = {}
    n_rows = 0
    for file, rows in read:
        lasts = all(row.skipped is None or row.skipped.code is not Code.UNREADABLE_FILE for row in rows)
        for row in rows:
            group = groups.setdefault(_key(row, lasts=lasts), _Open())
            group.rows.append(row)
            group.files[file.path] = file
        n_rows += len(rows)
        if n_rows >= _ROWS_A_TIME:
            yield _batch(groups)
            groups, n_rows = {}, 0
    if groups:
        yield _batch(groups)


def _key(row: HeaderRow, *, lasts: bool) -> _Key:
    """What could not be read may be readable the next time, and so may what lies in an archive beside it."""
    if row.plane is not None:
        return series_of(row.plane), None, lasts
    assert row.skipped is not None
    return "", row.skipped.code, lasts


def _batch(groups: dict[_Key, _Open]) -> pa.RecordBatch:
    columns = zip(*(_packet(key, group) for key, group in groups.items()), strict=True)
    arrays = [pa.array(column, item.type) for column, item in zip(columns, PACKETS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PACKETS)


def _packet(key: _Key, group: _Open) -> tuple[object, ...]:
    name, code, lasts = key
    planes = [row.plane for row in group.rows if row.plane is not None]
    others = [row.skipped for row in group.rows if row.skipped is not None]
    return (
        digest(name) if code is None else None,
        code,
        len({row.path for row in group.rows}),
        [digest("\0".join(map(str, instance_of(plane)))) for plane in planes],
        pack(planes or others),
        pack(_stamps(group.files.values())) if lasts else None,
    )


def _stamps(files: Collection[FileRef]) -> tuple[list[str], list[int], list[int]]:
    times = milliseconds(np.array([file.modified_at for file in files])).tolist()
    return [file.path for file in files], [file.size_bytes for file in files], times
