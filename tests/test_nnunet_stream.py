"""nnU-Net's windows stream as those of any model do: no grid ever holds all channels, and no mask hangs on memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.segment.nnunet.recipe import Resampling
from imaging_pipeline.segment.nnunet.resample import Resampler
from imaging_pipeline.segment.nnunet.slabs import SlabResampler
from imaging_pipeline.settings import ModelSettings, Settings
from imaging_pipeline.volume import Volume
from tests.test_nnunet import REGIONS, blobs, configuration, in_zeros, plans_of, write_model

CPU = torch.device("cpu")
WINDOW = {"patch_size": [16, 16, 16], "spacing": [1.5, 1.5, 1.5]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), plans_of(configuration(**WINDOW)), folds=2)


def engine_of(path: Path, settings: Settings, *, ensemble: bool = False, **segment: Any) -> Engine:
    changed = settings.model_copy(update={"device": "cpu", "segment": settings.segment.model_copy(update=segment)})
    return Engine(describe(str(path), ModelSettings(trusted_dirs=(path.parent,), ensemble=ensemble)), changed, cores=1)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    n_values = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.n_values = max([self.n_values, *sizes])
        return result


@pytest.mark.parametrize("ensemble", [False, True], ids=["one-fold", "two-folds"])
def test_no_step_of_a_long_volume_holds_all_channels_of_it(ensemble: bool, tmp_path: Path, settings: Settings) -> None:
    labels = {"background": 0, **{f"rib {number}": number for number in range(1, 12)}}
    model = write_model(tmp_path, plans_of(configuration(**WINDOW)), labels, folds=1 + ensemble)
    volume = blobs((24, 22, 300), (1.3, 1.3, 1.2))
    engine = engine_of(model, settings, ensemble=ensemble)
    with Largest() as spy:
        done = engine.segment(volume)
    planes, across = round(300 * 1.2 / 1.5), round(24 * 1.3 / 1.5) * round(22 * 1.3 / 1.5)
    assert done.mask.shape == volume.shape
    assert done.n_windows == 29 * 2 * 2
    assert spy.n_values <= max(volume.array.size, 12 * (1 + ensemble) * (16 + 16) * across)
    assert spy.n_values < 12 * planes * across / 3


@pytest.mark.parametrize(
    "shapes", [((11, 20, 17), (17, 33, 17)), ((29, 13, 20), (12, 20, 17)), ((9, 9, 9), (21, 9, 9))]
)
@pytest.mark.parametrize("spacings", [((1, 1, 1), (1, 1, 1)), ((5, 1, 1), (2, 1, 1)), ((1, 5, 1), (1, 2, 1))])
@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (1, 1), (3, 0), (3, 1)], ids=str)
def test_slabs_are_those_of_the_whole(orders: tuple[int, int], spacings: Any, shapes: Any) -> None:
    rule = Resampling(order=orders[0], order_z=orders[1], separate=None, anisotropy=3.0, float16=False)
    values = torch.randn(shapes[0], generator=torch.Generator().manual_seed(0))
    expected = Resampler(rule, shapes, spacings, CPU)(values)
    slabs = SlabResampler(rule, shapes, spacings, CPU)
    assert slabs.is_local == (max(orders[0] if spacings[0][0] == 1 else 0, orders[1]) <= 1)
    bounds = [(start, start + 1) for start in range(shapes[1][0])] if slabs.is_local else []
    for start, stop in [*bounds, *slabs.slabs(1), *slabs.slabs(10**9)]:
        first, behind = slabs.needed(start, stop)
        assert not slabs.is_local or behind - first <= (stop - start) * shapes[0][0] / shapes[1][0] + 3
        found = slabs.slab(values[first:behind], start, stop)
        if max(orders) <= 1:
            np.testing.assert_array_equal(found.numpy(), expected[start:stop].numpy())
        else:
            torch.testing.assert_close(found, expected[start:stop], rtol=0, atol=1e-5)


def test_less_memory_gives_the_same_mask(model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, volume, zeros = engine_of(model, settings), blobs((34, 26, 30), (1.3, 1.1, 1.3)), torch.zeros
    normal = engine.segment(volume).mask.array

    def refuse(size: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        if isinstance(size, tuple) and len(size) == 4 and size[1] > 13:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return zeros(size, *arguments, **options)

    monkeypatch.setattr("imaging_pipeline.segment.accumulator.torch.zeros", refuse)
    done = engine.segment(volume)
    assert done.memory_steps == ("slabs of 1/2 window (out of memory)",)
    np.testing.assert_array_equal(done.mask.array, normal)


def test_logits_beyond_half_precision_are_summed_in_float32(tmp_path: Path, settings: Settings) -> None:
    model = write_model(tmp_path, plans_of(configuration(**WINDOW)))
    volume, masks = blobs((30, 26, 24), (1.3, 1.1, 1.3)), []
    for factor, steps in [(1.0, 0), (2.0**18, 1)]:
        path = model / "fold_0" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        for name, values in content["network_weights"].items():
            if "seg_layers" in name:
                values *= factor
        torch.save(content, path)
        done = engine_of(model, settings).segment(volume)
        assert len(done.memory_steps) == steps
        masks.append(done.mask.array)
    assert len(np.unique(masks[1])) > 1
    assert np.mean(masks[0] == masks[1]) > 0.99


class Held:
    def __init__(self, volume: Volume) -> None:
        self.volume = volume

    def hand_over(self) -> Volume:
        return self.volume

    def sink(self) -> None:
        return None


def test_small_volumes_share_batches_and_get_the_masks_that_they_get_alone(model: Path, settings: Settings) -> None:
    volumes = [blobs((18, 17, 16 + 4 * seed), (1.3, 1.3, 1.3), seed) for seed in range(3)]
    engine = engine_of(model, settings, window_batch=4)
    together = [done for _, done in engine.segment_all(map(Held, volumes))]
    for volume, shared in zip(volumes, together, strict=True):
        alone = engine.segment(volume).mask.array
        assert np.mean(shared.mask.array != alone) <= 1e-3


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
def test_probabilities_come_slab_by_slab_and_agree_with_the_mask(
    regions: bool, tmp_path: Path, settings: Settings
) -> None:
    plans = plans_of(configuration(**WINDOW), transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0])
    model = write_model(tmp_path, plans, REGIONS if regions else None, order=[1, 2, 3] if regions else None)
    engine, slabs = engine_of(model, settings), []
    assert engine.gives_probabilities
    volume = in_zeros(blobs((28, 26, 19), (1.3, 1.1, 1.6)))
    done = engine.segment(volume, lambda axis, start, stop, values: slabs.append((axis, start, stop, values.clone())))
    [axis] = {slab[0] for slab in slabs}
    assert [slab[1] for slab in slabs] == [0, *(slab[2] for slab in slabs[:-1])]
    values = torch.cat([slab[3] for slab in slabs], dim=axis + 1).numpy()
    assert values.shape == (3 if regions else 4, *volume.shape)
    if regions:
        found = np.zeros(volume.shape, np.uint8)
        for channel, label in enumerate((1, 2, 3)):
            found[values[channel] > 0.5] = label
    else:
        np.testing.assert_allclose(values.sum(0), 1, atol=1e-4)
        found = values.argmax(0)
    np.testing.assert_array_equal(found, done.mask.array)
    assert not done.mask.array[:5].any()
    assert done.mask.array.any()


def test_splines_of_higher_order_take_all_planes_and_give_no_probabilities(tmp_path: Path, settings: Settings) -> None:
    cubic = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    model = write_model(tmp_path, plans_of(configuration(**WINDOW, resampling_fn_probabilities_kwargs=cubic)))
    engine, volume = engine_of(model, settings), blobs((30, 26, 24), (1.3, 1.1, 1.3))
    assert not engine.gives_probabilities
    assert engine.segment(volume).mask.shape == volume.shape
