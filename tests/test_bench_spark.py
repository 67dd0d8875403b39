"""The benchmark of the Spark job says what Spark adds, how even the bins are, and who holds the memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.balance import Balance
from benchmarks.bench_spark import CASES, QUICK
from benchmarks.cohort import FEWEST_SLICES, LARGEST_MM, SMALLEST_MM, make_mixed, make_smallest
from benchmarks.harness import Options, report
from benchmarks.systems_spark import POOL, SPARK


def test_a_mixed_cohort_is_skewed_and_of_sizes_that_the_model_takes(tmp_path: Path, grouped) -> None:
    make_mixed(tmp_path, 12)
    found = grouped(tmp_path)
    edges = [edge for task in found.tasks for edge in (task.rows, task.columns, task.depth)]
    assert len(found.tasks) == 12
    assert not found.skipped
    assert SMALLEST_MM <= min(edges) < max(edges) == LARGEST_MM
    voxels = sorted(task.n_voxels for task in found.tasks)
    assert voxels[-1] > 5 * voxels[len(voxels) // 2]


def test_the_smallest_series_are_volumes_of_different_patients(tmp_path: Path, grouped) -> None:
    assert make_smallest(tmp_path, 4) == 4 * FEWEST_SLICES
    found = grouped(tmp_path)
    assert [task.depth for task in found.tasks] == [FEWEST_SLICES] * 4
    assert len({task.identity.subject_key for task in found.tasks}) == 4
    assert len({task.identity.session_key for task in found.tasks}) == 4


def test_slots_that_never_wait_are_ideal_and_waits_are_told_apart() -> None:
    even = Balance(spans_s=(4.0, 4.0, 2.0, 2.0), makespan_s=6.0, predicted_s=6.0, slots=2)
    assert even.to_ideal == 1
    assert even.between_s == 0
    uneven = Balance(spans_s=(8.0, 2.0), makespan_s=8.0, predicted_s=5.0, slots=2)
    assert uneven.to_ideal == pytest.approx(1.6)
    assert uneven.between_s == 0, "the wait for the longer bin is no overhead"
    late = Balance(spans_s=(4.0, 4.0, 2.0, 2.0), makespan_s=7.0, predicted_s=6.0, slots=2)
    assert late.between_s == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.spark
def test_a_few_mixed_series_are_measured_with_spark_and_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = CASES["mixed"](QUICK, tmp_path)
    report("bench_spark", rows, Options(quick=True, json=tmp_path / "figures.json", repeats=1))
    assert "bench_spark" in capsys.readouterr().out
    by_name = {row["system"]: row for row in json.loads((tmp_path / "figures.json").read_text())["rows"]}
    spark, pool = (by_name[system.name] for system in (SPARK, POOL))
    assert pool["ratio"] == 1
    assert spark["session_s"] > 0
    for row in (spark, pool):
        assert row["seconds"] >= row["headers_s"] + row["check_s"] + row["results_s"] > 0
        assert row["makespan_to_ideal"] >= 0.99
        assert row["makespan_s"] <= row["results_s"]
        assert row["workers_mb"] > row["driver_mb"] > 20
    assert spark["driver_jvm_mb"] > 100 > pool["driver_jvm_mb"] == 0
