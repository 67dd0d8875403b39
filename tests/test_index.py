"""The index: each batch once, few files however many commits, made anew of the receipts whatever became of it."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from imaging_pipeline import index as command
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.identity import open_keys
from imaging_pipeline.job import Job
from imaging_pipeline.ledger import Ledger
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results import delta
from imaging_pipeline.results.index import SCHEMA, Batch, Index, open_index, to_table
from imaging_pipeline.results.receipt import read_receipts, write_receipt
from imaging_pipeline.results.tables import Keys
from imaging_pipeline.settings import IdentitySettings, IndexSettings, Settings
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.tally import Tally
from tests.test_results import result

FOLDER = "index"


def store_at(folder: Path) -> LocalStore:
    (folder / "receipts").mkdir(parents=True, exist_ok=True)
    return LocalStore(root=folder)


def rows_of(index: Index) -> dict[str, str]:
    table = index.read()
    return dict(zip(table.column("series_key").to_pylist(), table.column("status").to_pylist(), strict=True))


def with_receipts(folder: Path, n: int) -> tuple[LocalStore, list[SeriesResult]]:
    out = store_at(folder)
    key = open_keys(out, IdentitySettings()).seal_key
    return out, [write_receipt(out, result(f"k{number:03}"), key) for number in range(n)]


def test_a_batch_that_is_sent_again_changes_nothing(tmp_path: Path) -> None:
    index = open_index(store_at(tmp_path), "delta")
    for number in (1, 2):
        index.commit([result(f"k{number}")], Batch(writer="run", number=number))
    before = index.state()
    for again in (index, open_index(store_at(tmp_path), "delta")):
        again.commit([result("k2")], Batch(writer="run", number=2))
    assert index.state() == before
    index.commit([result("k2", status=Status.FAILED)], Batch(writer="another run", number=1))
    assert rows_of(index) == {"k1": "done", "k2": "failed"}


def test_a_run_that_loses_the_answer_to_a_commit_sends_the_batch_again_and_has_each_row_once(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has the rows, the run does not know: the connection broke, or the process was interrupted."""
    job = Job(out=store_at(tmp_path), run_id="run", settings=settings, bundle=None)
    ledger = Ledger(job, "studies", {})
    ledger._next_commit = 0
    commit = delta.DeltaIndex._commit

    def unanswered(index: delta.DeltaIndex, rows: pa.Table, batch: Batch | None) -> bool:
        commit(index, rows, batch)
        raise OSError("the connection broke")

    monkeypatch.setattr(delta.DeltaIndex, "_commit", unanswered)
    ledger.record(result("k1"))
    monkeypatch.setattr(delta.DeltaIndex, "_commit", commit)
    assert DeltaTable(str(tmp_path / FOLDER)).version() == 0, "the batch has arrived"
    ledger.record(result("k2"))
    ledger.close(Tally(), 0)
    index = open_index(job.out, "delta")
    assert sorted(index.read().column("series_key").to_pylist()) == ["k1", "k2"]
    assert DeltaTable(str(tmp_path / FOLDER)).transaction_version("run") == 2


def test_a_run_goes_on_while_its_index_cannot_be_written_to(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(Job(out=store_at(tmp_path), run_id="run", settings=settings, bundle=None), "studies", {})
    ledger._next_commit = 0
    commit = delta.DeltaIndex._commit

    def full(*_: object) -> bool:
        raise OSError("No space left on device")

    monkeypatch.setattr(delta.DeltaIndex, "_commit", full)
    for number in range(3):
        ledger.record(result(f"k{number}"))
    with pytest.raises(PipelineError, match="No space left"):
        ledger.close(Tally(), 0)
    assert json.loads((tmp_path / "run.json").read_text())["exit_code"] == 0, (
        "how the run ended is written all the same"
    )
    monkeypatch.setattr(delta.DeltaIndex, "_commit", commit)
    ledger.close(Tally(), 0)
    assert len(rows_of(open_index(LocalStore(root=tmp_path), "delta"))) == 3


def test_a_second_writer_is_noticed_and_no_row_is_there_twice(tmp_path: Path) -> None:
    mine, other = (open_index(store_at(tmp_path), "delta") for _ in range(2))
    mine.commit([result("k1")])
    other.commit([result("k2")])
    mine.commit([result("k2", status=Status.FAILED), result("k3")])
    other.commit([result("k3", status=Status.SKIPPED)])
    assert rows_of(mine) == {"k1": "done", "k2": "failed", "k3": "skipped"}
    assert mine.read().num_rows == 3


def test_many_commits_leave_few_files_and_a_reader_of_an_old_version_goes_on_reading(tmp_path: Path) -> None:
    index = open_index(store_at(tmp_path), "delta", IndexSettings(compact_commits=5))
    index.commit([result("first")])
    old = DeltaTable(str(tmp_path / FOLDER))
    n_files = []
    for number in range(23):
        index.commit([result(f"k{number}")])
        state = index.state()
        assert state is not None
        n_files.append(state.n_files)
    assert max(n_files) <= 6
    index.tidy()
    assert old.to_pyarrow_table().column("series_key").to_pylist() == ["first"]
    state = index.state()
    assert state is not None
    assert (state.n_rows, state.n_files) == (24, 1)
    assert list((tmp_path / FOLDER / "_delta_log").glob("*.checkpoint.parquet"))


def test_files_that_nobody_can_need_any_more_are_removed_at_the_end_of_a_run(tmp_path: Path) -> None:
    index = open_index(store_at(tmp_path), "delta", IndexSettings(keep_hours=0))
    for number in range(4):
        index.commit([result(f"k{number}")])
    index.tidy()
    left = list((tmp_path / FOLDER).glob("*.parquet"))
    assert len(left) == 1
    assert len(rows_of(index)) == 4


def test_an_index_of_an_older_version_takes_rows_of_this_one(tmp_path: Path) -> None:
    """A table that was written before receipts had seals and causes, as that version wrote it."""
    newer = {"voxel_settings", "recomputed_because", "seal", "memory_steps"}
    old = to_table([result("k1"), result("k2")]).drop_columns(sorted(newer))
    write_deltalake(str(tmp_path / FOLDER), old, name="series")
    index = open_index(store_at(tmp_path), "delta")
    assert index.keys() == Keys({("k1", "m"), ("k2", "m")})
    index.commit([result("k3", recomputed_because="model changed", voxel_settings={"segment.tta": "false"})])
    index.commit([result("k1", seal="s")])
    index.tidy()
    rows = {row["series_key"]: row for row in index.read().to_pylist(maps_as_pydicts="strict")}
    assert set(rows) == {"k1", "k2", "k3"}
    assert (rows["k1"]["seal"], rows["k2"]["seal"]) == ("s", None)
    assert rows["k3"]["voxel_settings"] == {"segment.tta": "false"}
    assert set(index.read().column_names) == set(SCHEMA.names)


def test_an_index_of_a_newer_version_takes_rows_of_this_one(tmp_path: Path) -> None:
    newer = to_table([result("k1")]).append_column("added_later", pa.array([7]))
    write_deltalake(str(tmp_path / FOLDER), newer)
    index = open_index(store_at(tmp_path), "delta")
    index.commit([result("k2")])
    index.commit([result("k1", status=Status.FAILED)])
    assert rows_of(index) == {"k1": "failed", "k2": "done"}


def spoil_log(folder: Path) -> None:
    for path in (folder / FOLDER / "_delta_log").glob("*.json"):
        path.write_text("{")


def remove_log(folder: Path) -> None:
    shutil.rmtree(folder / FOLDER / "_delta_log")


def remove_files(folder: Path) -> None:
    for path in (folder / FOLDER).glob("*.parquet"):
        path.unlink()


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder / FOLDER)


def forge_row(folder: Path) -> None:
    open_index(LocalStore(root=folder), "delta").commit([result("forged"), result("k001", status=Status.FAILED)])


def break_the_end_of_the_log(folder: Path) -> None:
    """It opens by its checkpoint, and takes no commit."""
    open_index(LocalStore(root=folder), "delta").commit([result("k000")])
    index = open_index(LocalStore(root=folder), "delta")
    index.commit([result("k000")])
    index.tidy()
    for path in (folder / FOLDER / "_delta_log").glob("*.json"):
        path.unlink()


@pytest.mark.parametrize(
    "spoil", [spoil_log, break_the_end_of_the_log, remove_log, remove_files, remove_all, forge_row]
)
def test_rebuild_brings_an_index_back_from_receipts_alone(
    spoil: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, receipts = with_receipts(tmp_path, 12)
    open_index(out, "delta").commit(receipts)
    expected = open_index(out, "delta").read().sort_by("series_key")
    spoil(tmp_path)  # type: ignore[operator]
    assert command.main(["rebuild", str(tmp_path)]) == 0
    assert "12 rows" in capsys.readouterr().out
    assert open_index(out, "delta").read().sort_by("series_key") == expected
    assert command.main(["status", str(tmp_path)]) == 0
    assert "12 rows in 1 files" in capsys.readouterr().out
    events = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["begun", "ended"]
    assert events[-1]["rows"] == 12


def test_rebuild_turns_delta_into_parquet_and_back(tmp_path: Path) -> None:
    out, receipts = with_receipts(tmp_path, 3)
    open_index(out, "delta").commit(receipts)
    for kind in ("parquet", "delta"):
        assert command.main(["rebuild", str(tmp_path), "--set", f"index.format={kind}"]) == 0
        assert rows_of(open_index(out, kind)) == dict.fromkeys(("k000", "k001", "k002"), "done")  # type: ignore[arg-type]
        other = "delta" if kind == "parquet" else "parquet"
        assert open_index(out, other).keys() == Keys()  # type: ignore[arg-type]


def test_a_run_that_finds_its_index_damaged_makes_it_anew_and_goes_on(tmp_path: Path, settings: Settings) -> None:
    out, receipts = with_receipts(tmp_path, 3)
    open_index(out, "delta").commit(receipts)
    spoil_log(tmp_path)
    ledger = Ledger(Job(out=out, run_id="run", settings=settings, bundle=None), "studies", {})
    ledger.record(result("k9"))
    ledger.close(Tally(), 0)
    assert set(rows_of(open_index(out, "delta"))) == {"k000", "k001", "k002", "k9"}
    assert (tmp_path / "index.damaged").is_dir(), "what was there is kept to look at"


def test_a_run_whose_index_opens_and_takes_no_commit_makes_it_anew_at_its_end(
    tmp_path: Path, settings: Settings
) -> None:
    out, receipts = with_receipts(tmp_path, 3)
    open_index(out, "delta").commit(receipts)
    break_the_end_of_the_log(tmp_path)
    ledger = Ledger(Job(out=out, run_id="run", settings=settings, bundle=None), "in", {})
    key = open_keys(out, IdentitySettings()).seal_key
    ledger.record(write_receipt(out, result("k9"), key))
    ledger.close(Tally(), 0)
    assert set(rows_of(open_index(out, "delta"))) == {"k000", "k001", "k002", "k9"}


def test_a_receipt_that_cannot_be_read_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_receipts(tmp_path, 3)
    (tmp_path / "receipts" / "k001_m.json").write_text("{")
    assert command.main(["rebuild", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "1 of 3 receipts cannot be read" in said.err
    assert len(said.err.splitlines()) == 1
    assert "2 rows" in said.out


@pytest.mark.parametrize("verb", ["rebuild", "status"])
def test_a_place_without_results_is_refused_in_one_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command.main([verb, str(tmp_path / "absent")])
    said = capsys.readouterr()
    assert (code, "no identity.key" in said.err) == (2, True) if verb == "rebuild" else code == 0
    assert not (tmp_path / "absent").exists()


def test_receipts_that_were_written_before_seals_existed_still_load(tmp_path: Path) -> None:
    out, (receipt,) = with_receipts(tmp_path, 1)
    path = tmp_path / "receipts" / "k000_m.json"
    content = json.loads(path.read_text())
    for name in ("seal", "voxel_settings", "recomputed_because"):
        del content[name]
    path.write_text(json.dumps(content))
    assert list(read_receipts(out)) == [replace(receipt, seal="")]


def test_a_long_commit_is_followed_by_a_long_pause(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows replace others, commits take at most a twentieth of the time."""
    ledger = Ledger(Job(out=store_at(tmp_path), run_id="run", settings=settings, bundle=None), "studies", {})
    clock = iter([100.0, 103.0])
    ledger._wait(result())
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    ledger._commit()
    assert ledger._next_commit == 103 + 60


def test_files_of_a_large_table_are_full_at_a_share_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each commit's file would be full from the first, and a table of a million rows have thousands."""
    monkeypatch.setattr(delta, "_FULL_BYTES", 1)
    monkeypatch.setattr(delta, "_FULL_FILES", 4)
    index = open_index(store_at(tmp_path), "delta", IndexSettings(compact_commits=5))
    for number in range(40):
        index.commit([result(f"k{number:02}")])
    index.tidy()
    state = index.state()
    assert state is not None
    assert state.n_rows == 40
    assert state.n_files <= 8


def test_rows_wait_packed_and_the_last_word_on_a_series_goes_in_as_it_was(tmp_path: Path, settings: Settings) -> None:
    out = store_at(tmp_path)
    ledger = Ledger(Job(out=out, run_id="run", settings=settings, bundle=None), "studies", {})
    many = [result(f"k{number:03}", stage_seconds={"decode": 0.1 + number}, peak_rss_mb=1 / 3) for number in range(250)]
    for one in (*many, failed := result("k007", status=Status.FAILED, message="wörter: \u2028")):
        ledger.record(one)
    ledger.catch_up()
    rows = open_index(out, "delta").read().sort_by("series_key")
    assert rows.equals(to_table([*many, failed]).sort_by("series_key").cast(rows.schema))
    assert rows["status"].to_pylist().count("failed") == 1


def test_two_writers_of_one_log_keep_each_line_whole(tmp_path: Path) -> None:
    out = store_at(tmp_path)
    (tmp_path / "log").write_bytes(b"one\ntw")  # a line that a crash broke off
    seen: list[bytes] = []

    def line(before: bytes) -> bytes:
        seen.append(before)
        return b"next"

    out.append("log", line)
    assert seen == [b"one"]
    assert list(out.lines("log")) == [b"one", b"next"]
    assert os.stat(tmp_path / "log").st_size == len(b"one\nnext\n")


def test_an_index_that_another_process_changes_all_the_time_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltalake.exceptions import CommitFailedError

    def taken(*_: object) -> bool:
        raise CommitFailedError("somebody was quicker")

    monkeypatch.setattr(delta, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(delta.DeltaIndex, "_commit", taken)
    with pytest.raises(PipelineError, match="at the same moment, 8 times") as refused:
        open_index(store_at(tmp_path), "delta").commit([result()])
    assert refused.value.code is Code.INDEX_BUSY
