"""Packed series in columns and a file: they come back as they went in, also where the disk takes nothing."""

import errno
import os
import tempfile
from itertools import cycle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_pipeline.contents import Contents
from imaging_pipeline.intake.copies import mark_copies
from imaging_pipeline.intake.found import PackedSkip, PackedTask, Tasks, packed_task
from imaging_pipeline.intake.packets import PACKETS
from imaging_pipeline.intake.pile import Pile
from imaging_pipeline.intake.shelf import Shelf
from imaging_pipeline.results.tables import Keys
from tests.test_schedule import task_of

N_MANY = 1203


def shelf_of(n: int) -> Tasks:
    return Shelf.of(PackedTask, (packed_task(task_of(number, 1 + number % 5)) for number in range(n)))


def test_series_come_back_as_they_went_in_whole_or_in_parts() -> None:
    shelf = shelf_of(N_MANY)
    assert [task.unpack() for task in shelf] == [task_of(number, 1 + number % 5) for number in range(N_MANY)]
    part = shelf.part(np.array([7, 3, 1200]))
    assert [task.series_key for task in part] == part.column("series_key").to_pylist() == ["0007", "0003", "1200"]
    assert part["0003"] == packed_task(task_of(3, 4))
    assert [len(piece) for piece in shelf.pieces(500)] == [500, 500, 203]
    assert not len(Shelf.of(PackedSkip, ()))


def test_what_remains_is_known_by_key_and_by_place() -> None:
    shelf = shelf_of(9)
    remaining = shelf.part(np.array([4, 2, 8])).remaining()
    assert (len(remaining), list(remaining), remaining.place_of("0008")) == (3, ["0004", "0002", "0008"], 2)
    assert "0003" not in remaining, "it is of the same table, and not of this part"
    assert [remaining.discard(key) for key in ("0002", "0002", "0003", "none")] == [True, False, False, False]
    assert (len(remaining), remaining.is_left.tolist()) == (2, [True, False, True])


def test_what_lies_on_the_disk_says_nothing() -> None:
    contents = Contents()
    (at,) = contents.add([b"DOE^JANE" * 100])
    assert contents._file is not None
    on_disk = os.pread(contents._file.fileno(), 10_000, 0)
    assert len(on_disk) >= 800
    assert b"DOE" not in on_disk
    assert contents.read(at, 800) == b"DOE^JANE" * 100


@pytest.mark.parametrize("fault", ["no room", "half a write", "no folder"])
def test_a_disk_that_takes_nothing_ends_no_run(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fault == "no folder":
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    contents, values = Contents(), [b"one", b"", b"three"]
    with monkeypatch.context() as patched:
        if fault != "no folder":
            patched.setattr(os, "pwrite", refuse if fault == "no room" else lambda *_: 1)
        places = contents.add(values)
    places += contents.add([b"later"])
    assert [contents.read(at, len(value)) for at, value in zip(places, [*values, b"later"], strict=True)] == [
        *values,
        b"later",
    ]


@given(
    buckets=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    cut=st.integers(1, 7),
    n_parts=st.integers(1, 5),
)
def test_packets_of_a_series_stay_together_and_in_order(buckets: list[int], cut: int, n_parts: int) -> None:
    rows = [
        {"bucket": bucket, "n_files": 1, "instances": [number], "content": bytes([number]), "files": files}
        for number, (bucket, files) in enumerate(zip(buckets, cycle([b"f", None, b""]), strict=False))
    ]
    table = pa.Table.from_pylist(rows, schema=PACKETS)
    pile = Pile.of(table.slice(start, cut) for start in range(0, len(buckets), cut))
    assert pa.concat_tables(pile.tables()) == table
    marked = mark_copies(pile)
    found = [(row["bucket"], row["content"]) for part in marked.parts(n_parts) for row in part.to_pylist()]
    assert found == sorted(((row["bucket"], row["content"]) for row in rows), key=lambda pair: pair[0])
    assert marked.n_planes == len(buckets)


def test_keys_are_known_again() -> None:
    keys = Keys([("a", "m"), ("b", "m")])
    keys.add([("b", "m"), ("a", "other")])
    assert len(keys) == 3
    assert ("a", "other") in keys
    assert ("b", "other") not in keys
    assert keys == Keys([("a", "other"), ("b", "m"), ("a", "m")])
    assert ("a", "m") not in Keys()
    keys.remove([("a", "m"), ("never", "m")])
    assert keys == Keys([("a", "other"), ("b", "m")])
