"""RESULTS of older versions under today's code: read, verified, rebuilt, gone on with."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from imaging_pipeline import index, query, report, rerun, run, verify
from imaging_pipeline.records import RESULTS_SCHEMA, SeriesResult
from imaging_pipeline.results import measurements
from imaging_pipeline.results.index import SCHEMA, SERIES
from imaging_pipeline.results.reading import REVIEW_SCHEMA, read_series
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.results.tables import Kind, open_table
from imaging_pipeline.stores import LocalStore
from tests.conftest import Finished

ROOT = Path(__file__).resolve().parents[1]
OLDER = sorted((ROOT / "tests" / "data").glob("results-*"))


@pytest.fixture(params=OLDER, ids=[folder.name for folder in OLDER])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / "results"))


def codes_in(text: str) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def test_verify_finds_in_an_older_results_that_it_is_not_sealed_and_nothing_else(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main([str(older)]) == 1
    told = capsys.readouterr().out
    assert codes_in(told) == {"receipt-edited", "run-edited", "audit-broken"}
    assert told.count("carries no seal: older versions wrote none; run again") == 3
    assert "run.json carries no seal: a version before seals wrote it" in told
    assert "older versions kept no log: run again" in told


def test_an_older_results_is_asked_and_shown_with_the_columns_of_today_and_left_as_it_is(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    sql = "SELECT series_number, status, flags, seal, round(volumes_ml['anterior hippocampus'], 1) AS ml FROM series"
    assert query.main([str(older), f"{sql} ORDER BY 1", "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "skipped"], ["2", "done"], ["3", "done"]]
    assert all(float(row.split(",")[-1]) > 2 for row in rows[2:])
    assert set(SCHEMA.names) <= set(read_series(LocalStore(root=older)).column_names)
    assert report.main([str(older)]) == 0
    assert "Localizer" in (older / "report.html").read_text(encoding="utf-8")
    assert {path: path.read_bytes() for path in before} == before


def test_rebuild_makes_an_older_index_one_of_today(older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index.main(["rebuild", str(older)]) == 0
    assert "delta index: 3 rows in 1 files" in capsys.readouterr().out
    table = open_table(LocalStore(root=older), SERIES, "delta").read()
    assert table.schema.names == SCHEMA.names
    assert verify.main([str(older)]) == 1  # receipts have no seals still, and no row differs
    assert codes_in(capsys.readouterr().out) == {"receipt-edited", "run-edited", "audit-broken"}


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_an_older_table_takes_rows_of_today_in_place_of_its_own_and_beside_them(older: Path, kind: Kind) -> None:
    out = LocalStore(root=older)
    table = open_table(out, SERIES, "delta").read()
    if kind == "parquet":  # the same columns in the form that index.format=parquet gave them then
        shutil.rmtree(older / "index")
        (older / "index").mkdir()
        pq.write_table(table, older / SERIES.parquet)
    receipts = list(read_receipts(out))
    renewed = replace(receipts[0], message="renewed", seal="today")
    added = replace(receipts[0], identity=replace(receipts[0].identity, series_key="0" * 16), message="added")
    index_now = open_table(out, SERIES, kind)
    index_now.commit([renewed, added])
    found = index_now.read().to_pylist()
    by_key = {row["series_key"]: (row["message"], row["seal"]) for row in found}
    assert len(found) == 4
    assert by_key[renewed.identity.series_key] == ("renewed", "today")
    assert by_key["0" * 16][0] == "added"
    assert by_key[receipts[1].identity.series_key] == (receipts[1].message, None)


def test_rerun_does_not_go_by_settings_that_an_older_version_left_unsealed(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rerun.main([str(older), "--failed"]) == 2
    assert "run-edited" in capsys.readouterr().err


def test_a_dry_run_says_of_each_older_result_why_it_is_computed_again(
    older: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([str(sample), "--out", str(older), "--no-spark", "--dry-run"]) == 0
    assert "again: 2 x receipt without a seal" in capsys.readouterr().out


def test_a_run_computes_what_an_older_version_left_once_names_the_cause_and_everything_verifies(
    tmp_path: Path, sample: Path, pipeline: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    older = shutil.copytree(OLDER[0], tmp_path / "results")
    quick = ("--no-spark", "--set", "models.backend=torch", "--set", "output.preview=false")
    done = pipeline(sample, "--out", older, *quick)
    assert (done.code, "2 done, 0 already done, 1 skipped" in done.out) == (0, True), done.err
    rows = {row["series_number"]: row for row in read_series(LocalStore(root=older)).to_pylist()}
    assert [rows[number]["recomputed_because"] for number in (1, 2, 3)] == ["", *["receipt without a seal"] * 2]
    assert dict(rows[2]["versions"])["results_schema"] == str(RESULTS_SCHEMA)
    assert verify.main([str(older)]) == 0
    capsys.readouterr()
    assert run.main([str(sample), "--out", str(older), *quick, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("already done:") == 2


def test_every_result_says_by_which_versions_it_was_made() -> None:
    from imaging_pipeline.host import versions

    wanted = {"imaging_pipeline", "results_schema", "python", "torch", "monai", "pydicom", "pyspark", "deltalake"}
    assert wanted <= set(versions())
    assert {"versions", "model_version", "model_digest"} <= set(SCHEMA.names)


def test_the_upgrade_notes_name_every_column_that_came_after_the_first_schema() -> None:
    known = set(pq.read_schema(next((OLDER[0] / "index").glob("*.parquet"))).names)
    told = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "UPGRADING.md").read_text(encoding="utf-8")))
    assert set(SCHEMA.names) - known - told == set(), "name them, and raise RESULTS_SCHEMA if a release has the others"
    assert {measurements.form(LocalStore(root=OLDER[0])).folder, "reviews"} <= told
    assert REVIEW_SCHEMA.names[0] in known
    assert set(SeriesResult.__dataclass_fields__) - set(SCHEMA.names) == {"identity"}
