"""A researcher asks a RESULTS and holds two of them against each other, and can neither reach nor change more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import write_deltalake
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from imaging_pipeline import compare, query
from imaging_pipeline import index as index_command
from imaging_pipeline.comparison.distance import agreement
from imaging_pipeline.results import measurements
from imaging_pipeline.results.reading import REVIEW_SCHEMA
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.results.tables import Keys, open_table
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.verify import main as verify
from tests.bundles import write_bundle
from tests.conftest import Finished

Pipeline = Callable[..., Finished]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def two(pipeline: Pipeline, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sample study by two networks of random weights under one name: specks, and few voxels in common."""
    folder = tmp_path_factory.mktemp("two")
    for name, seed in (("a", 0), ("b", 3)):
        write_bundle(folder / name / "tiny", seed=seed)
        options = ("--model", "tiny", "--no-spark", "--set", f"models.trusted_dirs=[{folder / name}]")
        done = pipeline(sample, "--out", folder / f"out-{name}", *options, "--save-image")
        assert done.code == 0, done.err
        assert "to look at: 2 series" in done.out
    return folder / "out-a", folder / "out-b"


def asked(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = query.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_question_in_sql_is_answered_as_table_csv_json_and_parquet(
    two: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    sql = "SELECT name, count(*) AS n, sum(n_voxels) AS voxels FROM measurements GROUP BY name ORDER BY name"
    code, text, _ = asked(capsys, two[0], sql)
    assert (code, text.split()[:3]) == (0, ["name", "n", "voxels"])
    _, text, _ = asked(capsys, two[0], sql, "--json")
    rows = json.loads(text)
    assert [(row["name"], row["n"]) for row in rows] == [("core", 2), ("rim", 2)]
    _, text, _ = asked(capsys, two[0], sql, "--csv")
    assert text.splitlines()[1] == f"core,2,{rows[0]['voxels']}"
    code, text, _ = asked(capsys, two[0], sql, "--parquet", tmp_path / "rows.parquet")
    assert (code, text) == (0, "")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    masks = [np.asarray(nib.load(path).dataobj) for path in two[0].rglob("*_dseg.nii.gz")]
    assert rows[0]["voxels"] == sum(int((mask == 1).sum()) for mask in masks)


@pytest.mark.parametrize("question", ["--failed", "--slowest", "--volumes", "--flags"])
def test_ready_made_questions_have_answers(question: str, two: tuple[Path, Path], capsys: Capture) -> None:
    code, text, _ = asked(capsys, two[0], question, "--json")
    assert code == 0
    rows = json.loads(text)
    assert len(rows) == {"--failed": 0, "--slowest": 2, "--volumes": 2}.get(question, len(rows))
    if question == "--flags":
        assert "fragmented" in {row["code"] for row in rows}
        assert all(any(letter.isdigit() for letter in row["message"]) and row["hint"] for row in rows)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY series TO '/tmp/series.csv'",
        "ATTACH '/tmp/other.db'",
        "SET enable_external_access = true",
        "SELECT * FROM tables",
        "SELEC 1",
        "CREATE TABLE mine AS SELECT 1",
        "",
    ],
)
def test_a_query_reaches_no_file_and_says_in_one_line_why(sql: str, two: tuple[Path, Path], capsys: Capture) -> None:
    code, text, error = asked(capsys, two[0], sql)
    assert (code, text) == (2, "")
    assert error.startswith("imaging_pipeline: query-invalid: ")
    assert error.count("\n") == 1


def test_reviews_are_empty_until_somebody_writes_one(two: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    out = shutil.copytree(two[0], tmp_path / "out")
    count = (
        "SELECT count(*) AS n FROM reviews JOIN measurements USING (series_key, model_name) WHERE verdict = 'reject'"
    )
    assert json.loads(asked(capsys, out, count, "--json")[1]) == [{"n": 0}]
    (key,) = json.loads(
        asked(capsys, out, "SELECT min(series_key) AS key FROM series WHERE mask_path <> ''", "--json")[1]
    )
    row = {"series_key": key["key"], "model_name": "tiny", "verdict": "reject", "reviewer": "x"}
    write_deltalake(str(out / "reviews"), pa.Table.from_pylist([row], schema=REVIEW_SCHEMA))
    assert json.loads(asked(capsys, out, count, "--json")[1]) == [{"n": 2}]


def test_what_is_no_results_is_said(tmp_path: Path, capsys: Capture) -> None:
    code, _, error = asked(capsys, tmp_path, "--failed")
    assert (code, error.split()[1]) == (2, "results-not-found:")
    with pytest.raises(SystemExit) as ended:
        query.main([str(tmp_path), "SELECT 1", "--failed"])
    assert ended.value.code == 2


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_lost_measurements_are_made_anew_of_the_files_beside_the_masks(
    kind: str, two: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    out = shutil.copytree(two[0], tmp_path / "out")
    form = measurements.form(LocalStore(root=out))
    order = [("series_key", "ascending"), ("label", "ascending")]
    before = open_table(LocalStore(root=out), form, "delta").read().sort_by(order)
    assert before.num_rows == 4
    shutil.rmtree(out / "measurements")
    assert verify([str(out)]) == 1
    assert capsys.readouterr().out.count("row-missing: measurements of series") == 2
    assert index_command.main(["rebuild", str(out), "--set", f"index.format={kind}"]) == 0
    assert f"{kind} measurements: 4 rows" in capsys.readouterr().out
    assert open_table(LocalStore(root=out), form, kind).read().sort_by(order) == before  # type: ignore[arg-type]
    assert verify([str(out)]) == 0


def test_a_series_that_is_measured_again_has_the_rows_of_the_last_time_alone(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = LocalStore(root=Path(shutil.copytree(two[0], tmp_path / "out")))
    table = open_table(out, measurements.form(out), "delta")
    first, second = (receipt for receipt in read_receipts(out) if receipt.measurements_path)
    fewer = measurements.read_measurements(out, first.measurements_path)[:1]
    measurements.write_measurements(out, first.measurements_path, fewer)
    table.commit([first, replace(second, measurements_path="")])
    rows = table.read().select(["series_key", "label"]).to_pylist()
    assert rows == [{"series_key": first.identity.series_key, "label": 1}]
    assert table.keys() == Keys([(first.identity.series_key, "tiny")])


def test_two_runs_are_compared_by_label_with_page_plot_and_rows(
    two: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    files = {name: tmp_path / f"compared.{name}" for name in ("html", "plot", "csv", "parquet")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert compare.main([str(two[0]), str(two[1]), *options]) == 0
    said = capsys.readouterr().out
    assert "2 series with a mask on both sides" in said
    rows = pq.read_table(files["parquet"]).to_pylist()
    assert [row["name"] for row in rows] == ["core", "rim"] * 2
    numbers = {"core": 1, "rim": 2}
    for row in rows:
        first, second = (
            np.asarray(nib.load(next(out.rglob(f"*{row[key]}*_dseg.nii.gz"))).dataobj) == numbers[row["name"]]
            for out, key in zip(two, ("series_a", "series_b"), strict=True)
        )
        assert row["dice"] == pytest.approx(2 * (first & second).sum() / (first.sum() + second.sum()), abs=1e-6)
    assert len(files["csv"].read_text().splitlines()) == 5
    assert files["plot"].read_bytes().startswith(b"\x89PNG")
    page = files["html"].read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page, "nothing is loaded from elsewhere"


def test_a_run_against_itself_agrees_and_other_models_are_asked_for_by_name(
    two: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    csv = tmp_path / "rows.csv"
    assert compare.main([str(two[0]), str(two[0]), "--csv", str(csv)]) == 0
    assert {line.split(",", 6)[6] for line in csv.read_text().splitlines()[1:]} == {"0.0,1.0,0.0,0.0"}
    assert compare.main([str(two[0]), "--models", "tiny", "other"]) == 2
    assert "it has those of tiny" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare.main([str(two[0])])


def test_a_mask_that_is_lost_costs_its_own_series_alone(
    two: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    out = Path(shutil.copytree(two[0], tmp_path / "out"))
    next(out.rglob("*_dseg.nii.gz")).unlink()
    assert compare.main([str(out), str(two[1])]) == 1
    said = capsys.readouterr()
    assert "1 series with a mask on both sides" in said.out
    assert said.err.startswith("imaging_pipeline: output-missing: ")


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)])
def test_distances_of_surfaces_are_those_of_monai(spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(1)
    masks = [ndimage.gaussian_filter(rng.normal(size=(20, 18, 14)), 2) > 0.02 for _ in range(2)]
    found = agreement(masks[0], masks[1], np.diag([*spacing, 1.0]))
    first, second = (torch.from_numpy(mask)[None, None] for mask in masks)
    kind = {"include_background": True, "spacing": spacing}
    hausdorff = compute_hausdorff_distance(first, second, percentile=95, **kind)
    assert found.hausdorff95_mm == pytest.approx(float(hausdorff), rel=1e-4)
    mean = compute_average_surface_distance(first, second, symmetric=True, **kind)
    assert found.mean_mm == pytest.approx(float(mean), rel=1e-4)


def test_distances_are_those_in_the_patient_where_the_grid_is_sheared() -> None:
    first, second = np.zeros((5, 5, 9), bool), np.zeros((5, 5, 9), bool)
    first[2, 2, 1] = second[2, 2, 7] = True
    tilted = np.array([[1, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    found = agreement(first, second, tilted)
    assert (found.dice, found.mean_mm) == (0.0, pytest.approx(6 * np.hypot(0.5, 2)))
    nothing = np.zeros_like(first)
    assert agreement(first, nothing, tilted).mean_mm is None
    assert agreement(nothing, nothing, tilted).dice is None
