"""Windows in, planes out: the same scores as MONAI's inferer, whatever the shape, the batch and the memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer, SlidingWindowInfererAdapt, sliding_window_inference

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.background import background
from imaging_pipeline.segment.batcher import Batcher
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.device import autocast
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.segment.memory import Rung, rungs
from imaging_pipeline.segment.stream import Keeping, ScoreOverflowError, WindowStream
from imaging_pipeline.segment.transforms import gathered
from imaging_pipeline.segment.windows import plan_windows
from imaging_pipeline.settings import ModelSettings, SegmentSettings, Settings
from imaging_pipeline.volume import Volume
from tests.bundles import edit, random_network, write_bundle

CPU = torch.device("cpu")
KEEPING = Keeping(device=CPU, dtype=torch.float32)

INFERERS: dict[str, dict[str, Any]] = {
    "constant": {"roi_size": (16, 16, 16), "overlap": 0.25},
    "gaussian": {"roi_size": (16, 16, 16), "overlap": 0.5, "mode": "gaussian"},
    "overlap by axis": {"roi_size": (16, 12, 20), "overlap": (0.0, 0.25, 0.6), "mode": "gaussian"},
    "as large as the volume": {"roi_size": (-1, 16, -1), "overlap": 0.25},
    "reflected border": {"roi_size": (24, 24, 24), "overlap": 0.5, "padding_mode": "reflect"},
    "other border": {"roi_size": (40, 24, 24), "overlap": 0.5, "cval": -1.0, "mode": "gaussian", "sigma_scale": 0.2},
}
SHAPES = [(37, 29, 33), (16, 16, 16), (30, 9, 31), (13, 40, 14), (22, 21, 60)]


def volume_of(shape: tuple[int, ...], seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 300, (1, 1, *(n // 4 + 2 for n in shape))).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0].numpy()
    return Volume(array=(smooth + rng.normal(0, 20, shape)).astype(np.int16), affine=np.diag([1.0, 1.0, 1.0, 1.0]))


def streamed(
    network: Any, image: torch.Tensor, inferer: SlidingWindowInferer, keeping: Keeping = KEEPING, batch: int = 2
) -> torch.Tensor:
    batcher = Batcher(network, batch, CPU, lambda: autocast(CPU, SegmentSettings()))
    plan = plan_windows(image.shape[1:], inferer)
    stream = WindowStream(image, plan, keeping, batcher.advance, fill=background(""))
    batcher.add(stream)
    return gathered(stream.scores())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", INFERERS)
def test_scores_are_those_of_monais_sliding_window(name: str, shape: tuple[int, int, int]) -> None:
    options = INFERERS[name]
    if "reflect" in options.get("padding_mode", "") and min(shape) < 10:
        pytest.skip("torch reflects no more than the volume has")
    if -1 in options["roi_size"] and any(n % 2 for n in (shape[0], shape[2])):
        pytest.skip("the network halves its windows")
    network = random_network(0).eval()
    image = torch.from_numpy(volume_of(shape).array).float()[None] / 300
    inferer = SlidingWindowInferer(sw_batch_size=1, **options)
    with torch.inference_mode():
        expected = inferer(image[None], network)[0]

    def classes_last(windows: torch.Tensor) -> torch.Tensor:
        return network(windows).contiguous(memory_format=torch.channels_last_3d)

    for batch, form in ((1, network), (2, network), (5, network), (2, classes_last)):
        found = streamed(form, image, inferer, batch=batch)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert float((found.argmax(0) == expected.argmax(0)).float().mean()) >= 0.9999


def test_an_adaptive_inferer_is_the_same_contract() -> None:
    network = random_network(1).eval()
    image = torch.randn(1, 30, 20, 25)
    inferer = SlidingWindowInfererAdapt(roi_size=(16, 16, 16), sw_batch_size=4, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        expected = sliding_window_inference(image[None], (16, 16, 16), 4, network, overlap=0.5, mode="gaussian")[0]
    torch.testing.assert_close(streamed(network, image, inferer), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 4, 11, 16])
def test_slabs_thinner_than_a_window_give_the_same_scores(depth: int) -> None:
    network = random_network(0).eval()
    image = torch.randn(1, 25, 41, 19)
    inferer = SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5, mode="gaussian")
    thin = Keeping(device=CPU, dtype=torch.float32, depth=depth)
    torch.testing.assert_close(
        streamed(network, image, inferer, thin), streamed(network, image, inferer), rtol=1e-5, atol=1e-5
    )


def test_half_precision_sums_are_close_and_an_overflow_is_noticed() -> None:
    network = random_network(0).eval()
    image = torch.randn(1, 25, 41, 19)
    inferer = SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5, mode="gaussian")
    half = Keeping(device=CPU, dtype=torch.float16)
    exact, rounded = streamed(network, image, inferer), streamed(network, image, inferer, half)
    assert float((exact - rounded).abs().max()) < 0.02 * float(exact.abs().max())
    assert float((exact.argmax(0) == rounded.argmax(0)).float().mean()) > 0.99
    with pytest.raises(ScoreOverflowError):
        streamed(lambda windows: network(windows) * 1e5, image, inferer, half)


def test_windows_are_spread_evenly_on_request() -> None:
    inferer = SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.25)
    clamped, even = plan_windows((41, 16, 30), inferer), plan_windows((41, 16, 30), inferer, even=True)
    assert clamped.starts == ((0, 12, 24, 25), (0,), (0, 12, 14))
    assert even.starts == ((0, 8, 17, 25), (0,), (0, 7, 14))


def test_sums_take_no_more_planes_than_a_window() -> None:
    network = random_network(0).eval()
    image = torch.randn(1, 20, 20, 200)
    inferer = SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5)
    batcher = Batcher(network, 2, CPU, lambda: autocast(CPU, SegmentSettings()))
    stream = WindowStream(image, plan_windows((20, 20, 200), inferer), KEEPING, batcher.advance)
    scores, depths = stream.scores(), []
    for start in range(0, 199, 3):
        scores.source(2, start, min(start + 4, 200))
        depths.append(stream._accumulator._sums.shape[3])
    assert max(depths) <= 16 + 8


def test_a_slab_that_was_given_up_cannot_be_asked_for_again() -> None:
    stream_axis_only = WindowStream(
        torch.randn(1, 16, 16, 40), plan_windows((16, 16, 40), SlidingWindowInferer((16, 16, 16))), KEEPING,
        lambda _: None, n_channels=3,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="axis 2"):
        stream_axis_only.scores().source(0, 0, 1)


def engine_of(path: Path, settings: Settings, **segment: Any) -> Engine:
    changed = settings.model_copy(update={"segment": settings.segment.model_copy(update=segment)})
    return Engine(describe(str(path), ModelSettings(trusted_dirs=(path.parent,), backend="torch")), changed)


class Counted:
    """A network that notes the shapes that it is given, and may refuse some."""

    def __init__(self, inner: Any, refuse: Any = None) -> None:
        self.inner, self.refuse, self.shapes = inner, refuse, []

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(windows.shape))
        error = self.refuse(windows) if self.refuse is not None else None
        if error is not None:
            raise error
        return self.inner(windows)


class Held:
    def __init__(self, volume: Volume) -> None:
        self.volume = volume

    def hand_over(self) -> Volume:
        return self.volume

    def sink(self) -> None:
        return None


def test_three_volumes_of_other_sizes_share_batches_and_get_the_masks_that_they_get_alone(
    tmp_path: Path, settings: Settings
) -> None:
    engine = engine_of(write_bundle(tmp_path / "tiny"), settings, window_batch=4)
    volumes = [volume_of(shape, seed) for seed, shape in enumerate([(12, 16, 15), (30, 20, 17), (16, 16, 16)])]
    counted = Counted(engine._machine.shared.network)
    engine._machine.shared.network = counted
    together = [done for _, done in engine.segment_all(map(Held, volumes))]
    n_windows = [done.n_windows for done in together]
    assert (n_windows, len(counted.shapes)) == ([1, 12, 1], 4)
    assert set(counted.shapes) == {(4, 1, 16, 16, 16)}
    for volume, shared in zip(volumes, together, strict=True):
        np.testing.assert_array_equal(shared.mask.array, engine.segment(volume).mask.array)


def test_batches_are_shared_no_further_than_the_memory_for_waiting_volumes(tmp_path: Path, settings: Settings) -> None:
    engine = engine_of(write_bundle(tmp_path / "tiny"), settings, window_batch=8, sharing_limit_mb=0)
    taken: list[int] = []

    def volumes() -> Any:
        for number in range(6):
            taken.append(number)
            yield Held(volume_of((16, 16, 16), number))

    flow = engine.segment_all(volumes())
    next(flow)
    assert len(taken) == 2  # the one at hand, and the one that filled its batch
    flow.close()


def test_a_network_that_fails_over_one_volume_costs_no_other_its_mask(tmp_path: Path, settings: Settings) -> None:
    engine = engine_of(write_bundle(tmp_path / "tiny"), settings, window_batch=4)
    volumes = [volume_of((16, 16, 16), seed) for seed in range(3)]
    alone = [engine.segment(volume).mask.array for volume in volumes]
    network, windows = engine._machine.shared.network, []
    engine._machine.shared.network = Counted(network, lambda batch: windows.append(batch.clone()))
    engine.segment(volumes[1])
    bad = windows[0][0]
    refuse = lambda batch: ValueError("no") if any(torch.equal(one, bad) for one in batch) else None  # noqa: E731
    engine._machine.shared.network = Counted(network, refuse)
    done = [outcome for _, outcome in engine.segment_all(map(Held, volumes))]
    assert isinstance(done[1], ValueError)
    for number in (0, 2):
        np.testing.assert_array_equal(done[number].mask.array, alone[number])


def out_of_memory_above(n: int) -> Any:
    return lambda windows: torch.OutOfMemoryError("injected") if len(windows) > n else None


def test_memory_runs_out_in_the_network_and_smaller_batches_follow(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(write_bundle(tmp_path / "tiny"), settings, window_batch=4)
    volume = volume_of((40, 20, 17))
    normal = engine.segment(volume)
    for largest, steps in [(2, ["window_batch 2"]), (1, ["window_batch 2", "window_batch 1"])]:
        network = Counted(engine._model.network, out_of_memory_above(largest))
        with monkeypatch.context() as patched:
            patched.setattr(engine._machine.shared, "network", network)
            object.__setattr__(engine._model, "network", network)
            done = engine.segment(volume)
            object.__setattr__(engine._model, "network", network.inner)
        assert done.memory_steps == tuple(f"{step} (out of memory)" for step in steps)
        np.testing.assert_array_equal(done.mask.array, normal.mask.array)


def test_memory_runs_out_for_sums_and_smaller_slabs_follow(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(write_bundle(tmp_path / "tiny"), settings)
    volume = volume_of((40, 20, 17))
    normal, zeros = engine.segment(volume), torch.zeros
    for deepest, steps in [(12, 2), (8, 3)]:

        def refuse(size: Any, *arguments: Any, limit: int = deepest, **options: Any) -> torch.Tensor:
            if isinstance(size, tuple) and len(size) == 4 and size[1] > limit:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            return zeros(size, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr("imaging_pipeline.segment.accumulator.torch.zeros", refuse)
            done = engine.segment(volume)
        expected = ["window_batch 1", "slabs of 1/2 window", "slabs of 1/4 window"][:steps]
        assert done.memory_steps == tuple(f"{step} (out of memory)" for step in expected)
        np.testing.assert_array_equal(done.mask.array, normal.mask.array)


def test_nothing_fits_and_the_error_says_how_much_it_would_take(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(write_bundle(tmp_path / "tiny"), settings)
    network = Counted(engine._model.network, out_of_memory_above(0))
    monkeypatch.setattr(engine._machine.shared, "network", network)
    object.__setattr__(engine._model, "network", network)
    with pytest.raises(PipelineError) as refused:
        engine.segment(volume_of((40, 20, 17)))
    object.__setattr__(engine._model, "network", network.inner)
    assert refused.value.code is Code.TOO_LARGE
    assert "40 x 20 x 17" in refused.value.message


def test_a_volume_that_will_not_fit_steps_down_before_it_starts(tmp_path: Path, settings: Settings) -> None:
    path = write_bundle(tmp_path / "tiny")
    volume = volume_of((60, 110, 100))
    normal = engine_of(path, settings).segment(volume)
    done = engine_of(path, settings, memory_limit_mb=2).segment(volume)
    assert done.memory_steps
    assert all("MiB are free" in step for step in done.memory_steps)
    np.testing.assert_array_equal(done.mask.array, normal.mask.array)
    with pytest.raises(PipelineError) as refused:
        engine_of(path, settings, memory_limit_mb=1).segment(volume_of((200, 300, 300)))
    assert refused.value.code is Code.TOO_LARGE


def test_on_cuda_sums_go_to_the_host_before_slabs_get_smaller_and_the_cpu_is_last() -> None:
    names = [rung.name for rung in rungs(torch.device("cuda:0"), 4, torch.float16)]
    assert names == [
        "", "window_batch 2", "window_batch 1", "sums on the host", "slabs of 1/2 window", "slabs of 1/4 window",
        "cpu", "cpu, window_batch 1", "cpu, slabs of 1/2 window", "cpu, slabs of 1/4 window",
    ]  # fmt: skip


STAND_IN = torch.device("cpu:0")
"""Another device than `cpu` to torch."""


def on_stand_in(rung: Rung) -> Rung:
    """A step of a CUDA device's ladder on the stand-in."""
    places = {name: getattr(rung, name) for name in ("device", "sums_device")}
    return replace(rung, **{name: STAND_IN if place.type == "cuda" else CPU for name, place in places.items()})


@pytest.mark.parametrize("n_failures", range(1, 10))
def test_every_step_of_an_accelerators_ladder_gives_the_mask_that_the_first_one_gives(
    n_failures: int, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = list(rungs(torch.device("cuda:0"), 4, torch.float16))
    monkeypatch.setattr("imaging_pipeline.segment.attempt.rungs", lambda *_: map(on_stand_in, ladder))
    path, volume, left = write_bundle(tmp_path / "tiny"), volume_of((40, 20, 37)), [n_failures]
    normal = engine_of(path, settings).segment(volume)
    engine = engine_of(path, settings, window_batch=4)

    def run_out(_: torch.Tensor) -> Exception | None:
        left[0] -= 1
        return torch.OutOfMemoryError("injected") if left[0] >= 0 else None

    def open_on(device: torch.device, opened: Any = engine._machine.open_on) -> Any:
        model = opened(device)
        object.__setattr__(model, "network", Counted(model.network, run_out))
        return model

    object.__setattr__(engine._model, "network", Counted(engine._model.network, run_out))
    engine._machine.device, engine._machine.open_on = STAND_IN, open_on
    engine._machine.shared = engine._machine.batcher(engine._model, STAND_IN, 4)
    left[0] = n_failures
    done = engine.segment(volume)
    assert done.memory_steps == tuple(f"{rung.name} (out of memory)" for rung in ladder[1 : n_failures + 1])
    assert done.device == ("cpu" if n_failures >= 6 else "cpu:0")
    assert float((done.mask.array == normal.mask.array).mean()) > 0.999


def with_air(path: Path, **spacing: Any) -> Path:
    """A bundle that clips, as those for CT do."""
    write_bundle(path, air_is_background="clip")
    content = json.loads((path / "configs" / "inference.json").read_text())
    steps = content["preprocessing"]["transforms"]
    steps[-1] = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -175, "a_max": 250, "b_min": 0.0,
                 "b_max": 1.0, "clip": True}  # fmt: skip
    if spacing:
        steps.append({"_target_": "Spacingd", "keys": "image", **spacing})
    edit(path / "configs" / "inference.json", preprocessing__transforms=steps)
    return path


def body_in_air(shape: tuple[int, int, int] = (60, 56, 64)) -> Volume:
    array = np.random.default_rng(0).normal(-1000, 20, shape).astype(np.int16)
    body = volume_of((26, 24, 22)).array
    array[20:46, 18:42, 30:52] = np.clip(body, -100, 300)
    return Volume(array=array, affine=np.diag([1.0, 1.0, 1.0, 1.0]))


def test_windows_of_air_are_left_out_and_the_mask_inside_the_body_is_the_same(
    tmp_path: Path, settings: Settings
) -> None:
    path, volume = with_air(tmp_path / "tiny"), body_in_air()
    every, fewer = engine_of(path, settings, air="off").segment(volume), engine_of(path, settings).segment(volume)
    assert (every.n_skipped, every.n_windows) == (0, fewer.n_windows)
    assert fewer.n_skipped > fewer.n_windows / 3
    body = volume.array > -175
    np.testing.assert_array_equal(fewer.mask.array[body], every.mask.array[body])
    assert not fewer.mask.array[:4].any()
    by_number = engine_of(path, settings, air=-175.0).segment(volume)
    np.testing.assert_array_equal(by_number.mask.array, fewer.mask.array)
    nothing = engine_of(path, settings).segment(volume.with_array(np.full(volume.shape, -1000, np.int16)))
    assert nothing.n_skipped == nothing.n_windows
    assert not nothing.mask.array.any()


def test_windows_laid_over_the_body_are_those_of_the_volume_cropped_to_it(tmp_path: Path, settings: Settings) -> None:
    path, volume = with_air(tmp_path / "tiny"), body_in_air()
    cropped = engine_of(path, settings, window_starts="body").segment(volume)
    fewer = engine_of(path, settings).segment(volume)
    assert cropped.n_windows < fewer.n_windows - fewer.n_skipped
    inside = (slice(20, 46), slice(18, 42), slice(30, 52))
    crop = Volume(array=volume.array[inside], affine=volume.affine)
    alone = engine_of(path, settings, air="off").segment(crop)
    assert alone.n_windows == cropped.n_windows
    np.testing.assert_array_equal(cropped.mask.array[inside], alone.mask.array)
    outside = cropped.mask.array.copy()
    outside[inside] = 0
    assert not outside.any()
    corner = np.full(volume.shape, -1000, np.int16)
    corner[:5, -3:, 10:13] = 100  # smaller than a window, at the border
    at_border = engine_of(path, settings, window_starts="body").segment(volume.with_array(corner))
    assert (at_border.n_windows, at_border.n_skipped) == (1, 0)


def test_a_bundle_that_does_not_call_air_background_has_every_window_run(tmp_path: Path, settings: Settings) -> None:
    done = engine_of(write_bundle(tmp_path / "tiny"), settings).segment(body_in_air())
    assert done.n_skipped == 0


def test_air_is_told_on_the_model_grid_too(tmp_path: Path, settings: Settings) -> None:
    path = with_air(tmp_path / "tiny", pixdim=[1.4, 1.4, 1.4], mode="bilinear")
    volume = body_in_air()
    every, fewer = engine_of(path, settings, air="off").segment(volume), engine_of(path, settings).segment(volume)
    assert fewer.n_skipped
    inner = np.zeros(volume.shape, bool)
    inner[22:44, 20:40, 32:50] = True
    np.testing.assert_array_equal(fewer.mask.array[inner], every.mask.array[inner])


def test_overlapping_windows_of_a_multi_label_model_are_thresholded_slab_by_slab(
    tmp_path: Path, settings: Settings
) -> None:
    path = write_bundle(tmp_path / "tiny", activation="sigmoid")
    engine = engine_of(path, settings)
    prepared = engine._model.prepare(volume_of((33, 25, 29)))
    assert engine._model.chain.streams
    with torch.inference_mode():
        expected = engine._model.inferer(prepared.image.as_tensor()[None], engine._model.network)[0].sigmoid() >= 0.5
    plan = engine._model.plan(prepared)
    stream = engine._model.stream(prepared, plan, KEEPING, engine._machine.shared.advance, mean=False)
    with torch.inference_mode():
        found = engine._model.chain.finish(stream.scores(), prepared)
    assert found.dtype == torch.uint8
    assert float((found.as_tensor().bool() == expected).float().mean()) >= 0.9999


def test_labels_may_be_brought_back_by_nearest_neighbour(tmp_path: Path, settings: Settings) -> None:
    path = with_air(tmp_path / "tiny", pixdim=[2.0, 2.0, 2.0], mode="bilinear")
    volume = body_in_air()
    classes, labels = (engine_of(path, settings, restore=how).segment(volume) for how in ("bundle", "labels"))
    assert 0.7 < float((classes.mask.array == labels.mask.array).mean()) < 1
    coarse = labels.mask.array[::2, ::2, ::2]
    repeated = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert float((labels.mask.array == repeated).mean()) > 0.8


def test_probabilities_come_slab_by_slab_and_agree_with_the_mask(tmp_path: Path, settings: Settings) -> None:
    engine = engine_of(with_air(tmp_path / "tiny", pixdim=[1.5, 1.5, 1.5], mode="bilinear"), settings)
    volume, slabs = body_in_air((50, 49, 57)), []
    done = engine.segment(volume, lambda axis, start, stop, values: slabs.append((axis, start, stop, values.clone())))
    axes = {axis for axis, *_ in slabs}
    assert len(axes) == 1
    slabs.sort(key=lambda slab: slab[1])
    assert [slab[1] for slab in slabs[1:]] == [slab[2] for slab in slabs[:-1]]
    values = torch.cat([slab[3] for slab in slabs], dim=axes.pop() + 1)
    assert tuple(values.shape) == (3, 50, 49, 57)
    torch.testing.assert_close(values.sum(0), torch.ones(volume.shape), rtol=0, atol=1e-4)
    assert float((values.argmax(0).numpy() == done.mask.array).mean()) > 0.9999


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, settings: Settings) -> None:
    path = write_bundle(tmp_path / "tiny")
    state = torch.load(path / "models" / "model.pt", weights_only=True)
    name = next(iter(state))
    state[name] = torch.full_like(state[name], float("nan"))
    torch.save(state, path / "models" / "model.pt")
    with pytest.raises(PipelineError) as refused:
        engine_of(path, settings).segment(volume_of((20, 20, 20)))
    assert refused.value.code is Code.MODEL_INVALID
    assert "infinite or no numbers" in refused.value.message


def test_the_default_model_leaves_out_windows_of_nothing_beside_a_real_crop(shared: Path, settings: Settings) -> None:
    path = sorted((shared / "data" / "msd_hippocampus" / "images").glob("*.nii.gz"))[0]
    image = nib.as_closest_canonical(nib.load(path))
    crop = np.asanyarray(image.dataobj).astype(np.int16)
    array = np.concatenate((crop, np.zeros((*crop.shape[:2], 60), np.int16)), axis=2)
    volume = Volume(array=array, affine=image.affine)
    bundle = describe("hippocampus_mr", ModelSettings(backend="torch"))
    every, fewer = (
        Engine(bundle, settings.model_copy(update={"segment": settings.segment.model_copy(update={"air": air})}))
        for air in ("off", "auto")
    )
    complete, skipping = every.segment(volume), fewer.segment(volume)
    assert skipping.n_skipped >= skipping.n_windows / 2
    assert complete.mask.array.any()
    np.testing.assert_array_equal(skipping.mask.array[array > 0], complete.mask.array[array > 0])


def test_planes_that_no_window_reached_stay_background_however_often_they_are_asked_for() -> None:
    image, foreground = torch.randn(1, 16, 16, 64), torch.zeros(16, 16, 64, dtype=torch.bool)
    foreground[:, :, :8] = True
    batcher = Batcher(random_network(0).eval(), 2, CPU, lambda: autocast(CPU, SegmentSettings()))
    plan = plan_windows((16, 16, 64), SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.25))
    stream = WindowStream(
        image, plan, KEEPING, batcher.advance, fill=background("sigmoid"), foreground=foreground
    )  # fmt: skip
    scores = stream.scores()
    assert stream.n_skipped == stream.n_windows - 1
    for start in (20, 20, 21):
        assert float(scores.source(2, start, start + 4).max()) == -1e4
