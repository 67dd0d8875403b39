"""Series of a partition are decoded, segmented and written beside each other, and none costs another its result."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging_pipeline import case as case_module
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.series import Grouped
from imaging_pipeline.job import Job
from imaging_pipeline.partition import check_model, process
from imaging_pipeline.records import SeriesResult, SeriesTask, Status
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.settings import ModelSettings, Settings
from imaging_pipeline.stores import LocalStore
from sample_data.phantom import CtSpec, write_ct
from tests.bundles import edit, write_bundle

Group = Callable[..., Grouped]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith(("ahead", "behind"))]


@pytest.fixture
def tasks(tmp_path: Path, grouped: Group) -> list[SeriesTask]:
    for number in range(4):
        write_ct(CtSpec(shape=(18, 20, 16 + number), seed=number), tmp_path / "in" / str(number))
    return list(grouped(tmp_path / "in").tasks)


@pytest.fixture
def job(tmp_path: Path, settings: Settings) -> Job:
    return job_with(tmp_path, settings)


def job_with(tmp_path: Path, settings: Settings, **output: bool) -> Job:
    path = write_bundle(tmp_path / "models" / "tiny")
    open_results(LocalStore(root=tmp_path / "out"))
    bundle = describe("tiny", ModelSettings(trusted_dirs=(path.parent,), backend="torch"))
    changed = settings.model_copy(update={"output": settings.output.model_copy(update=output)})
    return Job(out=LocalStore(root=tmp_path / "out"), run_id="r", settings=changed, bundle=bundle)


def by_depth(results: list[SeriesResult]) -> list[SeriesResult]:
    return sorted(results, key=lambda result: result.shape[-1] if result.shape else 0)


def test_every_series_ends_in_a_receipt_that_counts_its_windows(tasks: list[SeriesTask], job: Job) -> None:
    results = list(process(tasks, job))
    assert [result.status for result in results] == [Status.DONE] * 4
    assert len(list(read_receipts(job.out))) == 4
    for result in results:
        assert result.windows_total == 2 * 2 * (1 if result.shape[2] == 16 else 2)
        assert set(result.stage_seconds) >= {"decode", "preprocess", "network", "postprocess", "write"}
        assert result.device == "cpu"


def test_a_network_that_raises_leaves_no_thread_and_the_other_series_their_masks(
    tasks: list[SeriesTask], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tasks[1].n_voxels

    class Picky(Engine):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            inner = self._model.prepare

            def prepare(volume: object) -> object:
                if volume.array.size == bad:  # type: ignore[attr-defined]
                    raise RuntimeError("the network raises")
                return inner(volume)

            self._machine.model = type("M", (), {})()  # an object that passes everything else on
            self._machine.model.__class__.__getattr__ = lambda _, name: getattr(self._model, name)
            self._machine.model.prepare = prepare

    monkeypatch.setattr("imaging_pipeline.segment.engine.Engine", Picky)
    results = {result.identity.series_key: result for result in process(tasks, job)}
    states = [results[task.identity.series_key].status for task in tasks]
    assert states == [Status.DONE, Status.FAILED, Status.DONE, Status.DONE]
    assert results[tasks[1].identity.series_key].reason_code == Code.INTERNAL_ERROR


def test_a_decoder_that_raises_or_ends_its_thread_neither_hangs_nor_costs_what_was_done(
    tasks: list[SeriesTask], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = case_module.decode

    def failing(task: SeriesTask, source: object) -> object:
        if task is tasks[1]:
            raise ValueError("no pixels")
        if task is tasks[3]:
            raise SystemExit(1)
        return decode(task, source)  # type: ignore[arg-type]

    monkeypatch.setattr(case_module, "decode", failing)
    with pytest.raises(RuntimeError, match="SystemExit"):
        list(process(tasks, job))
    receipts = {receipt.identity.series_key: receipt for receipt in read_receipts(job.out)}
    assert receipts[tasks[0].identity.series_key].status is Status.DONE
    assert receipts[tasks[1].identity.series_key].reason_code == Code.INTERNAL_ERROR
    assert tasks[3].identity.series_key not in receipts


def test_whoever_stops_listening_keeps_what_is_finished(tasks: list[SeriesTask], job: Job) -> None:
    results = process(tasks, job)
    first = next(results)
    results.close()
    assert first.identity.series_key in {receipt.identity.series_key for receipt in read_receipts(job.out)}


def test_a_model_that_cannot_be_opened_fails_every_series_with_its_code(tasks: list[SeriesTask], job: Job) -> None:
    assert job.bundle is not None
    changed = dataclasses.replace(job, bundle=dataclasses.replace(job.bundle, digest="0" * 64))
    results = list(process(tasks, changed))
    assert {result.reason_code for result in results} == {Code.MODEL_DIGEST_MISMATCH}
    assert len(results) == 4


def test_probabilities_lie_beside_the_mask_in_half_precision(
    tmp_path: Path, tasks: list[SeriesTask], settings: Settings
) -> None:
    job = job_with(tmp_path, settings, save_probabilities=True)
    for result in process(tasks[:2], job):
        values = np.load(tmp_path / "out" / result.probabilities_path, mmap_mode="r")
        mask = nib.load(tmp_path / "out" / result.mask_path)
        assert (values.dtype, values.shape) == (np.float16, (3, *result.shape))
        np.testing.assert_allclose(values.astype(np.float32).sum(0), 1, atol=2e-3)
        assert (np.asarray(values).argmax(0) == np.asanyarray(mask.dataobj)).mean() > 0.99
        assert result.probabilities_path in result.output_digests


def test_probabilities_of_a_model_that_gives_none_are_refused_before_any_series(
    tmp_path: Path, settings: Settings
) -> None:
    path = write_bundle(tmp_path / "models" / "tiny")
    steps = [{"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x.argmax(0, keepdim=True)"}]
    edit(path / "configs" / "inference.json", postprocessing__transforms=steps)
    bundle = describe("tiny", ModelSettings(trusted_dirs=(path.parent,), backend="torch"))
    output = settings.output.model_copy(update={"save_probabilities": True})
    job = Job(
        out=LocalStore(root=tmp_path),
        run_id="r",
        settings=settings.model_copy(update={"output": output}),
        bundle=bundle,
    )
    with pytest.raises(PipelineError) as refused:
        check_model(job)
    assert refused.value.code is Code.SETTINGS_INVALID
    assert "gives no probabilities" in refused.value.message
