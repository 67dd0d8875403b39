"""Hundreds of series go through one run, and neither its memory nor its index grows out of hand."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_load import run, write_series
from imaging_pipeline.results.index import open_index
from imaging_pipeline.stores import LocalStore
from tests.conftest import ROOT

N = 300


@pytest.mark.slow
def test_three_hundred_series_leave_a_sound_index_and_memory_as_it_was(tmp_path: Path) -> None:
    write_series(tmp_path / "in", N)
    load = run(
        tmp_path / "in", tmp_path / "out", "--set", "index.commit_seconds=0.2", "--set", "index.compact_commits=3"
    )
    assert load.code == (0, 0), load.said + load.verified
    assert f"{N} done" in load.said
    assert f"{N} receipts, {3 * N} outputs" in load.verified
    state = open_index(LocalStore(root=tmp_path / "out"), "delta").state()
    assert state is not None
    assert state.n_rows == N
    assert state.n_files <= 1 + state.size_bytes // (1 << 18), "files of 256 KiB, and one that is not full yet"
    early, late = load.rss_at(0.4), load.rss_at(0.9)
    assert late[0] - early[0] < 60
    assert late[1] - early[1] < 60


PIECES = """
import ctypes, sys
from imaging_pipeline.host import give_back_large_pieces

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

class Account(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "mapped_pieces", "mapped_bytes")]
    _fields_ += [(name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc.mallinfo2.restype = Account
if sys.argv[1] == "at once":
    give_back_large_pieces()
libc.free(libc.malloc(8 << 20))  # pieces of up to this size come from the heap from now on
before = libc.mallinfo2().mapped_pieces
held = [libc.malloc(1 << 20) for _ in range(4)]
print(libc.mallinfo2().mapped_pieces - before)
"""


@pytest.mark.parametrize(("how", "mapped"), [("as ever", "0"), ("at once", "4")])
def test_large_pieces_of_memory_go_back_at_once_where_that_is_wanted(how: str, mapped: str) -> None:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("needs glibc 2.33")
    found = subprocess.run([sys.executable, "-c", PIECES, how], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == mapped
