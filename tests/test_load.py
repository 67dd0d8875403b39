"""Hundreds of series go through one run, and neither its memory nor its index grows out of hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_load import run, write_series
from imaging_pipeline.results.index import open_index
from imaging_pipeline.stores import LocalStore

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
    assert (state.n_rows, state.n_files) == (N, 1)
    early, late = load.rss_at(0.4), load.rss_at(0.9)
    assert late[0] - early[0] < 60
    assert late[1] - early[1] < 60
