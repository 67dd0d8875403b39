"""Which series share a partition, how long a run will take, and what it learns for the next one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_pipeline.bins import deal, makespan
from imaging_pipeline.cost import Estimate, Lesson, Rates
from imaging_pipeline.intake.found import PackedTask, Tasks, packed_task
from imaging_pipeline.intake.shelf import Shelf
from imaging_pipeline.job import Job
from imaging_pipeline.ledger import Ledger
from imaging_pipeline.records import SeriesResult, SeriesTask, SliceRef, Status
from imaging_pipeline.results import layout
from imaging_pipeline.schedule import KEY, Slots, plan
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.outline import Outline, outline_of
from imaging_pipeline.settings import ModelSettings, Settings
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.tally import Tally
from tests.bundles import WINDOW, edit, write_bundle
from tests.test_nnunet import configuration, plans_of, write_model
from tests.test_results import identity, result

REF = SliceRef(path="", frame=None, position_mm=(0, 0, 0), slope=1, intercept=0)


def task_of(number: int, n_slices: int = 10, edge: int = 64, spacing_mm: float = 1.0) -> SeriesTask:
    return SeriesTask(
        identity=identity(f"{number:04}"), slices=(REF,) * n_slices, rows=edge, columns=edge, orientation=(),
        step_mm=(0, 0, spacing_mm), pixel_spacing_mm=(spacing_mm, spacing_mm), photometric="",
        size_bytes=2 * edge * edge * n_slices,
    )  # fmt: skip


def shelf_of(*tasks: SeriesTask) -> Tasks:
    return Shelf.of(PackedTask, map(packed_task, tasks))


ONE, TWO = (Slots(n=n, bins_each=4) for n in (1, 2))


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60), n_slots=st.integers(1, 6), per_slot=st.integers(1, 6)
)
def test_every_series_is_in_one_bin_and_slots_are_never_idle_for_longer_than_the_last_bin(
    lengths: list[int], n_slots: int, per_slot: int
) -> None:
    seconds = np.array(lengths, float)
    bins = deal(seconds, n_slots, per_slot)
    assert sorted(np.concatenate(bins).tolist()) == list(range(len(lengths)))
    assert all(members.size for members in bins)
    assert len(bins) <= n_slots * per_slot
    loads = [float(seconds[members].sum()) for members in bins]
    assert loads == sorted(loads, reverse=True)
    ideal = max(sum(lengths) / n_slots, max(lengths))
    assert makespan(loads, n_slots) <= ideal + (1 - 1 / n_slots) * max(lengths) + 1e-9, "Graham's bound"


def test_skewed_sizes_are_balanced_to_a_few_percent_also_where_predictions_are_off() -> None:
    rng = np.random.default_rng(0)
    for n_slots in (2, 8, 40):
        predicted = np.maximum(rng.lognormal(4, 1, 50 * n_slots), 3)
        bins = deal(predicted, n_slots, 4)
        real = predicted * rng.lognormal(0, 0.3, predicted.size)
        ideal = max(real.sum() / n_slots, real.max())
        assert makespan([float(real[members].sum()) for members in bins], n_slots) <= 1.15 * ideal


def test_bins_get_shorter_towards_the_end() -> None:
    assert [members.size for members in deal(np.ones(800), 2, 4)] == [200, 200, 100, 100, 50, 50, 50, 50]


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "inputs"),
    [
        ((512, 512, 400), (1.0, 1.0, 1.0), 100 * 96**3),  # 1.5 mm: 5 x 5 x 4 windows of 96 by steps of 72
        ((40, 40, 40), (1.0, 1.0, 1.0), 96**3),  # smaller than a window: padded to one
    ],
)
def test_work_is_counted_in_voxels_of_windows_on_the_model_grid(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], inputs: int
) -> None:
    outline = Outline(spacing_mm=(1.5, 1.5, 1.5), window=(96, 96, 96), overlap=0.25)
    assert outline.n_inputs(shape, spacing_mm) == inputs
    assert Outline().n_inputs(shape, spacing_mm) == math.prod(shape)


def test_grid_and_windows_are_read_from_a_bundle_and_from_an_nnunet_folder(tmp_path: Path) -> None:
    assert outline_of(None) == Outline()
    shipped = outline_of(describe("hippocampus_mr", ModelSettings()))
    assert shipped == Outline(spacing_mm=(1.0, 1.0, 1.0), window=(40, 56, 40), overlap=0.5)
    path = write_bundle(tmp_path / "tiny")
    assert outline_of(describe(str(path), ModelSettings(trusted_dirs=(tmp_path,)))).window == WINDOW
    edit(path / "configs" / "inference.json", inferer__roi_size="@edge", edge=32)
    assert outline_of(describe(str(path), ModelSettings(trusted_dirs=(tmp_path,)))).window == (32, 32, 32)
    edit(path / "configs" / "inference.json", inferer__roi_size="$[1 + 1] * 3")
    assert outline_of(describe(str(path), ModelSettings(trusted_dirs=(tmp_path,)))).window is None
    folder = write_model(tmp_path / "nnunet", plans_of(configuration()))
    nnunet = outline_of(describe(str(folder), ModelSettings(trusted_dirs=(folder.parent,))))
    assert nnunet == Outline(spacing_mm=(1.2, 1.2, 1.5), window=(32, 24, 16), overlap=0.5), "columns first, not slices"


def test_a_run_teaches_the_next_one_what_series_take(tmp_path: Path, settings: Settings) -> None:
    out = LocalStore(root=tmp_path)
    layout.open_results(out)
    job = Job(out=out, run_id="r", settings=settings, bundle=None)
    tasks = shelf_of(*(task_of(number, 10 * (number + 1), 512) for number in range(4)))
    first = plan(tasks, job, TWO)
    assert not first.estimate.is_learned
    took = {
        task.series_key: {"decode": 0.5 * task.size_bytes / 1e6, "write": 0.25 * task.n_voxels / 1e6} for task in tasks
    }
    results = [result(key, stage_seconds=seconds) for key, seconds in took.items()]
    ledger = Ledger(job, "studies", first.forecast())
    lesson = first.lesson()
    for one in results:
        lesson.add(one)
    ledger.close(Tally(), 0, first.outcome(lesson, 12.5))
    kept = json.loads((tmp_path / "run.json").read_text())[KEY]
    assert (kept["series"], kept["slots"], kept["real_seconds"]) == (4, 2, 12.5)
    second = plan(tasks, job, TWO)
    assert second.estimate.is_learned
    assert second.estimate.rates.read == pytest.approx(0.5)
    assert second.estimate.rates.voxels == pytest.approx(0.25)
    expected = sum(sum(seconds.values()) for seconds in took.values()) + 4 * Rates().series
    assert sum(map(second.estimate, tasks)) == pytest.approx(expected)
    nothing = plan(shelf_of(), job, TWO)  # a night without new studies forgets nothing
    ledger.close(Tally(), 0, nothing.outcome(nothing.lesson(), 0.0))
    assert plan(tasks, job, TWO).estimate.rates == second.estimate.rates
    assert "in 4 bins on 2 slots, predicted" in second.in_words()


def test_rates_of_another_model_or_of_a_damaged_account_are_not_used(tmp_path: Path, settings: Settings) -> None:
    job = Job(out=LocalStore(root=tmp_path), run_id="r", settings=settings, bundle=None)
    good = {"model": {"digest": ""}, KEY: {"rates": {"series": 1, "read": 1, "voxels": 1, "network": 1}}}
    other = {**good, "model": {"digest": "other"}}
    negative = {**good, KEY: {"rates": {"series": 1, "read": -1, "voxels": 1, "network": 1}}}
    for content, is_learned in [(good, True), (other, False), (negative, False), ({}, False), ([], False)]:
        (tmp_path / "run.json").write_text(json.dumps(content))
        assert plan(shelf_of(task_of(0)), job, ONE).estimate.is_learned is is_learned
    (tmp_path / "run.json").write_text("{half")
    assert not plan(shelf_of(task_of(0)), job, ONE).estimate.is_learned


def test_series_that_failed_teach_nothing() -> None:
    failed = SeriesResult(identity=identity("0000"), status=Status.FAILED, stage_seconds={"decode": 9.0})
    estimate = Estimate(outline=None)
    lesson = Lesson(estimate, shelf_of(task_of(0)))
    lesson.add(failed)
    assert lesson.rates() == estimate.rates
