"""Where networks or mirror images are averaged, each label says how far they agree, and the mask is the same."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deltalake import write_deltalake
from monai.inferers import SlidingWindowInferer

from imaging_pipeline.errors import FlagCode
from imaging_pipeline.intake.series import Grouped
from imaging_pipeline.job import Job
from imaging_pipeline.partition import process
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results import measurements
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.results.measure import Measurement
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.results.tables import open_table
from imaging_pipeline.segment.agreement import Agreement
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.segment.memory import Rung
from imaging_pipeline.segment.nnunet.postprocess import _regions
from imaging_pipeline.segment.stream import Keeping
from imaging_pipeline.segment.transforms import gathered
from imaging_pipeline.segment.windows import plan_windows
from imaging_pipeline.settings import ModelSettings, Settings
from imaging_pipeline.stores import LocalStore
from sample_data.phantom import CtSpec, write_ct
from tests.bundles import WINDOW, edit, random_network, write_bundle
from tests.test_nnunet import REGIONS, blobs, configuration, plans_of, write_model
from tests.test_results import result
from tests.test_stream import volume_of

CPU = torch.device("cpu")


def bundle_of(path: Path, *seeds: int, **how: Any) -> Path:
    """A bundle whose folds are drawn from these seeds."""
    write_bundle(path, **how)
    for fold, seed in enumerate(seeds):
        torch.save(random_network(seed).state_dict(), path / "models" / f"fold_{fold}.pt")
    return path


def engine_of(path: Path, settings: Settings, *, device: str = "cpu", ensemble: bool = True, **segment: Any) -> Engine:
    models = ModelSettings(trusted_dirs=(path.parent,), ensemble=ensemble, backend="torch")
    changed = {"models": models, "device": device, "segment": settings.segment.model_copy(update=segment)}
    return Engine(describe(str(path), models), settings.model_copy(update=changed), cores=1)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def mean_dice(members: list[np.ndarray], label: int) -> float:
    """Over all pairs of full volumes."""
    return float(np.mean([dice(one == label, other == label) for one, other in combinations(members, 2)]))


def test_members_that_draw_the_same_agree_wholly(tmp_path: Path, settings: Settings) -> None:
    done = engine_of(bundle_of(tmp_path / "tiny", 1, 1), settings).segment(volume_of((20, 16, 30)))
    assert done.agreement == {1: 1.0, 2: 1.0}


def test_one_network_that_looks_once_has_nobody_to_agree_with(tmp_path: Path, settings: Settings) -> None:
    path = bundle_of(tmp_path / "tiny", 1, 2)
    assert engine_of(path, settings, ensemble=False).segment(volume_of(WINDOW)).agreement == {}


def test_in_one_window_the_number_is_that_of_the_members_own_masks(tmp_path: Path, settings: Settings) -> None:
    """Three networks: each runs by itself, as a model of its own, and whole masks are compared."""
    volume, seeds = volume_of(WINDOW), (1, 2, 3)
    alone = [
        engine_of(bundle_of(tmp_path / f"alone{seed}", seed), settings).segment(volume).mask.array for seed in seeds
    ]
    done = engine_of(bundle_of(tmp_path / "tiny", *seeds), settings).segment(volume)
    expected = {label: pytest.approx(mean_dice(alone, label), abs=1e-6) for label in (1, 2)}
    assert done.agreement == expected
    assert all(0 < value < 0.95 for value in done.agreement.values())


def test_a_network_that_takes_whole_volumes_is_compared_over_all_of_it(tmp_path: Path, settings: Settings) -> None:
    volume, masks = volume_of((20, 18, 24)), []
    for name, seeds in (("one", (1,)), ("two", (2,)), ("both", (1, 2))):
        path = bundle_of(tmp_path / name, *seeds)
        edit(path / "configs" / "inference.json", inferer={"_target_": "SimpleInferer"})
        masks.append(engine_of(path, settings).segment(volume))
    one, two, both = masks
    assert both.n_windows == 0
    members = [one.mask.array, two.mask.array]
    assert both.agreement == {label: pytest.approx(mean_dice(members, label), abs=1e-6) for label in (1, 2)}


def test_over_many_windows_each_voxel_counts_as_the_window_sees_it_that_has_it_nearest_its_middle(
    tmp_path: Path, settings: Settings
) -> None:
    volume = volume_of((20, 37, 29))
    path = bundle_of(tmp_path / "tiny", 1, 2, mirror_axes=[1])
    done = engine_of(path, settings, tta=True).segment(volume)
    image = torch.from_numpy(volume.array.astype(np.float32))
    image = ((image - image.mean()) / image.std(unbiased=False))[None, None]
    plan = plan_windows(volume.shape, SlidingWindowInferer(roi_size=WINDOW, overlap=0.25))
    members, nearest = np.zeros((4, *volume.shape), int), np.full((3, *volume.shape), np.inf)
    networks = [random_network(seed).eval() for seed in (1, 2)]
    for start in product(*plan.starts):
        place = tuple(slice(first, first + n) for first, n in zip(start, WINDOW, strict=True))
        grid = np.abs(np.mgrid[place] - np.array([first + 7.5 for first in start]).reshape(3, 1, 1, 1))
        closer = (grid < nearest[(slice(None), *place)]) | (nearest[(slice(None), *place)] == grid)
        mine = closer.all(axis=0)
        nearest[(slice(None), *place)] = np.where(mine, grid, nearest[(slice(None), *place)])
        with torch.inference_mode():
            window = image[(..., *place)]
            views = [net(window.flip(flip)).flip(flip) for net in networks for flip in ((), (3,))]
        for member, scores in zip(members, views, strict=True):
            member[place][mine] = scores[0].argmax(0).numpy()[mine]
    expected = {label: pytest.approx(mean_dice(list(members), label), abs=2e-3) for label in (1, 2)}
    assert done.agreement == expected  # where two windows are as near, either may have the voxel


@pytest.mark.parametrize(
    "inferer",
    [
        {"roi_size": (16, 12, 20), "overlap": (0.0, 0.25, 0.6)},
        {"roi_size": (40, 24, 24), "overlap": 0.5},
        {"roi_size": (-1, 16, -1), "overlap": 0.9},
    ],
)
def test_every_voxel_belongs_to_one_window(inferer: dict[str, Any]) -> None:
    for shape in ((37, 29, 33), (9, 41, 16)):
        plan = plan_windows(shape, SlidingWindowInferer(**inferer))
        owners = np.zeros(shape, int)
        for start in product(*plan.starts):
            part = [slice(n + own.start, n + own.stop) for n, own in zip(start, plan.owned(start), strict=True)]
            assert all(place.start >= 0 for place in part)
            owners[tuple(part)] += 1
        assert (owners == 1).all()


def test_neither_memory_nor_batches_nor_devices_change_the_number_and_counting_changes_no_voxel(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, path = volume_of((20, 18, 34)), bundle_of(tmp_path / "tiny", 1, 2)
    truth = engine_of(path, settings).segment(volume)
    silent = engine_of(path, settings, agreement=False).segment(volume)
    np.testing.assert_array_equal(silent.mask.array, truth.mask.array)
    assert (silent.agreement, set(truth.agreement)) == ({}, {1, 2})
    assert engine_of(path, settings, window_batch=5).segment(volume).agreement == truth.agreement
    assert engine_of(path, settings, device="cpu,cpu").segment(volume).agreement == truth.agreement
    thin = Rung(name="thin", device=CPU, batch=2, sums_device=CPU, sums_dtype=torch.float32, share=4)
    monkeypatch.setattr("imaging_pipeline.segment.attempt.rungs", lambda *_: iter([thin]))  # windows run anew
    assert engine_of(path, settings).segment(volume).agreement == truth.agreement


def test_channels_that_may_overlap_are_compared_one_by_one_at_the_bundles_threshold(
    tmp_path: Path, settings: Settings
) -> None:
    path = bundle_of(tmp_path / "tiny", 1, 2, activation="sigmoid")
    config = path / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"threshold": 0.5', '"threshold": 0.6'))
    engine = engine_of(path, settings)
    prepared = engine._model.prepare(volume_of(WINDOW))
    plan = engine._model.plan(prepared)
    assert plan is not None
    keeping = Keeping(device=CPU, dtype=torch.float32)
    stream = engine._model.stream(prepared, plan, keeping, engine._machine.shared.advance, mean=True)
    with torch.inference_mode():
        gathered(stream.scores())
        one, other = (
            (random_network(seed).eval()(prepared.image.as_tensor()[None])[0].sigmoid() >= 0.6).numpy()
            for seed in (1, 2)
        )
    assert (one[1] & one[2]).any(), "labels do overlap"
    assert stream.agreement.by_label() == {n: pytest.approx(dice(one[n], other[n]), abs=1e-6) for n in (1, 2)}


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
def test_folds_and_mirror_images_of_an_nnunet_are_compared_too(
    regions: bool, tmp_path: Path, settings: Settings
) -> None:
    how = {"patch_size": [16, 16, 16], "spacing": [1.5, 1.5, 1.5]}
    heads = (REGIONS, [2, 3, 1]) if regions else (None, None)
    path = write_model(tmp_path, plans_of(configuration(**how)), *heads, mirror_axes=(1,), folds=2)
    engine = engine_of(path, settings, tta=True)
    model, volume = engine._model, blobs(WINDOW, (1.5, 1.5, 1.5))
    done = engine.segment(volume)
    with torch.inference_mode():
        window = model.prepare(volume).image[None]
        scores = [net(window.flip(flip)).flip(flip)[0] for net in model.inner.networks for flip in ((), (3,))]
    written = model.inner.plans.regions
    members = [
        (_regions(one, written, torch.uint8) if regions else one.argmax(0)).numpy().astype(np.uint8) for one in scores
    ]
    found = {label for label in (1, 2, 3) if any((member == label).any() for member in members)}
    assert done.agreement == {label: pytest.approx(mean_dice(members, label), abs=1e-6) for label in found}
    assert len(found) > 1
    assert engine_of(path, settings, ensemble=False).segment(volume).agreement == {}


def test_pairs_of_which_neither_has_a_label_do_not_count() -> None:
    numbers = torch.zeros(3, 1, 4, 4, 4, dtype=torch.uint8)
    numbers[0, 0, 0] = 1  # seen by one of three: two pairs, both 0
    numbers[0, 0, 1] = numbers[1, 0, 1, :2] = 2  # 2/3 for the first pair, and nothing of the third member
    agreement = Agreement()
    agreement.add(numbers, (7, 8, 9))
    assert agreement.by_label() == {7: 0.0, 8: pytest.approx(2 / 9, abs=1e-6)}


@pytest.fixture
def worked(
    tmp_path: Path, settings: Settings, grouped: Callable[..., Grouped]
) -> Callable[..., tuple[LocalStore, SeriesResult]]:
    """Works on one small series with a model of so many folds."""

    def work(*seeds: int) -> tuple[LocalStore, SeriesResult]:
        folder = tmp_path / "-".join(map(str, seeds))
        write_ct(CtSpec(shape=(18, 20, 16), seed=1), folder / "in")
        path, out = bundle_of(folder / "models" / "tiny", *seeds), LocalStore(root=folder / "out")
        open_results(out)
        models = ModelSettings(trusted_dirs=(path.parent,), backend="torch", ensemble=len(seeds) > 1)
        job = Job(out=out, run_id="r", settings=settings, bundle=describe("tiny", models))
        [done] = process(grouped(folder / "in").tasks, job)
        assert done.status is Status.DONE
        return out, done

    return work


def test_members_that_differ_flag_the_series_with_labels_and_numbers_and_all_tables_have_them(
    worked: Callable[..., tuple[LocalStore, SeriesResult]],
) -> None:
    out, done = worked(1, 2)
    assert set(done.agreement) == {"core", "rim"}
    [flag] = [flag for flag in done.flags if flag.code is FlagCode.LOW_MEMBER_AGREEMENT]
    low = [name for name, value in done.agreement.items() if value < 0.8]
    assert sorted(flag.labels) == sorted(low)
    assert low
    assert all(f"{name} {done.agreement[name]:.2f}" in flag.message for name in low)
    assert "slice by slice" in flag.hint
    assert next(read_receipts(out)).agreement == done.agreement
    rows = csv.DictReader(out.read(done.measurements_path).decode().splitlines(), delimiter="\t")
    assert {row["name"]: float(row["agreement"]) for row in rows} == done.agreement
    table = open_table(out, measurements.form(out), "delta")
    table.commit([done])
    told = table.read(["name", "agreement"]).to_pylist()
    assert {row["name"]: row["agreement"] for row in told} == done.agreement


@pytest.mark.parametrize(("seeds", "column"), [((1, 1), {1.0}), ((1,), {None})], ids=["alike", "alone"])
def test_members_that_agree_and_a_model_alone_flag_nothing(
    seeds: tuple[int, ...], column: set[float | None], worked: Callable[..., tuple[LocalStore, SeriesResult]]
) -> None:
    out, done = worked(*seeds)
    assert FlagCode.LOW_MEMBER_AGREEMENT not in {flag.code for flag in done.flags}
    assert {item.agreement for item in measurements.read_measurements(out, done.measurements_path)} == column
    assert set(done.agreement.values()) == column - {None}


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_a_table_of_measurements_without_the_column_takes_rows_that_have_it(kind: str, tmp_path: Path) -> None:
    """Both the table of all series, and the files beside masks, as an older version wrote them."""
    out = LocalStore(root=tmp_path)
    old, new = (replace(result(name), measurements_path=f"{name}.tsv") for name in ("old", "new"))
    for each in (old, new):
        item = Measurement(label=1, name="core", n_voxels=3, agreement=0.75 if each is new else None)
        measurements.write_measurements(out, each.measurements_path, [item])
    without = [line.rpartition("\t")[0] for line in out.read("old.tsv").decode().splitlines()]
    out.publish("old.tsv", "\n".join(without).encode())
    form = measurements.form(out)
    rows = form.to_table([old]).drop_columns(["agreement"])
    if kind == "delta":
        write_deltalake(str(tmp_path / form.folder), rows)
    else:
        open_table(out, replace(form, schema=rows.schema, to_table=lambda _: rows), "parquet").commit([old])
    table = open_table(out, form, kind)  # type: ignore[arg-type]
    table.commit([new])
    told = {row["series_key"]: row["agreement"] for row in table.read().to_pylist()}
    assert told == {"old": None, "new": 0.75}
