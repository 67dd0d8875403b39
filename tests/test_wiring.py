"""What runs the network, and on how many devices, is a matter of settings; the masks stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment import model as models
from imaging_pipeline.segment import network as networks
from imaging_pipeline.segment.backends import live, trial
from imaging_pipeline.segment.backends.dealt import Dealt
from imaging_pipeline.segment.backends.sharded import Sharded
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.device import acceleration, for_fallback, pick_device, pick_devices
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.settings import SegmentSettings, Settings, resolve
from imaging_pipeline.volume import Volume
from tests.bundles import WINDOW, needs_bfloat16, write_bundle


@pytest.fixture(autouse=True)
def nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own would have no model yet."""
    monkeypatch.setattr(models, "_CACHE", {})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "models" / "tiny")


def engine_for(bundle: Path, *assignments: str) -> Engine:
    settings = settings_for(bundle, *assignments)
    return Engine(describe("tiny", settings.models), settings)


def settings_for(bundle: Path, *assignments: str) -> Settings:
    places = (f"models.trusted_dirs=[{bundle.parent}]", f"models.cache_dir={bundle.parent.parent / 'cache'}")
    return resolve(None, [*places, *assignments])


def mask_of(engine: Engine) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(3)
    volume = Volume(array=rng.normal(100, 30, (25, 30, 19)).astype(np.float32), affine=np.diag([1.2, 1, 2, 1.0]))
    return engine.segment(volume).mask.array


def kept(bundle: Path) -> dict[str, str]:
    file = bundle.parent.parent / "cache" / "backends.json"
    content: dict[str, str] = json.loads(file.read_text()) if file.is_file() else {}
    return content


def trying_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if windows were large, and there were many of them."""
    monkeypatch.setattr(networks, "_QUICK_BYTES", 0)
    monkeypatch.setattr(trial, "_PAYS_WITHIN", 10**9)


def test_a_network_of_quick_windows_is_not_worth_a_trial(bundle: Path) -> None:
    engine = engine_for(bundle)
    assert engine.backend == "torch"
    assert kept(bundle) == {}


def test_a_choice_outlives_the_process_and_is_opened_without_a_trial(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    trying_everything(monkeypatch)
    engine_for(bundle)
    (key,) = kept(bundle)
    (bundle.parent.parent / "cache" / "backends.json").write_text(json.dumps({key: "openvino"}))
    monkeypatch.setattr(models, "_CACHE", {})
    engine = engine_for(bundle)
    assert engine.backend == "openvino"
    truth = mask_of(engine_for(bundle, "models.backend=torch"))
    assert set(np.unique(truth)) == {0, 1, 2}
    assert (mask_of(engine) == truth).mean() >= 0.999


def test_all_members_of_an_ensemble_run_by_what_the_first_one_chose(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fold in (0, 1):
        (bundle / "models" / f"fold_{fold}.pt").write_bytes((bundle / "models" / "model.pt").read_bytes())
    trying_everything(monkeypatch)
    asked: list[str | None] = []

    def watched(*arguments: Any, known: str | None, **named: Any) -> trial.Choice:
        asked.append(known)
        return trial.fastest(*arguments, known=known, **named)

    monkeypatch.setattr(networks, "fastest", watched)
    engine = engine_for(bundle, "models.ensemble=true")
    assert asked == [None, engine.backend]


def test_each_precision_has_a_trial_of_its_own(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    trying_everything(monkeypatch)
    asked: list[torch.dtype] = []

    def watched(*arguments: Any, dtype: torch.dtype, **named: Any) -> trial.Choice:
        asked.append(dtype)
        return trial.fastest(*arguments, dtype=dtype, **named)

    monkeypatch.setattr(networks, "fastest", watched)
    for amp in ("off", "bf16"):
        engine_for(bundle, f"segment.amp={amp}")
    assert asked == [torch.float32, torch.bfloat16]
    assert len(kept(bundle)) == 2


@pytest.mark.parametrize("setting", ["models.backend=torch", "segment.amp=fp16"])
def test_who_names_a_backend_or_half_floats_gets_no_trial(
    setting: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trying_everything(monkeypatch)
    assert engine_for(bundle, setting).backend == "torch"
    assert kept(bundle) == {}


def test_a_named_openvino_computes_in_bfloat16_where_that_is_asked_for(bundle: Path) -> None:
    needs_bfloat16()
    exact, mixed = (
        engine_for(bundle, "models.backend=openvino", f"segment.amp={amp}")._model.network for amp in ("off", "bf16")
    )
    window = trial.smooth_noise(1, (1, *WINDOW))
    assert exact(window).dtype == mixed(window).dtype == torch.float32
    assert not torch.equal(exact(window), mixed(window))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_named_backend_runs_the_state_dict_where_it_has_no_file(backend: str, bundle: Path) -> None:
    if backend not in live.live_backends():
        pytest.skip(f"no {backend} here")
    engine = engine_for(bundle, f"models.backend={backend}")
    assert engine.backend == backend
    assert (mask_of(engine) == mask_of(engine_for(bundle, "models.backend=torch"))).mean() >= 0.999


def test_a_named_backend_that_is_not_installed_names_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.openvino, "is_available", lambda: False)
    with pytest.raises(PipelineError) as refused:
        engine_for(bundle, "models.backend=openvino")
    assert refused.value.code is Code.EXTRA_MISSING
    assert "imaging-pipeline[cpu]" in refused.value.hint


def test_replicas_on_several_devices_give_the_mask_of_one(bundle: Path) -> None:
    alone, both = engine_for(bundle, "device=cpu"), engine_for(bundle, "device=cpu,cpu")
    assert isinstance(both._model.network, Dealt)
    assert both._model.window_batch == 2 * alone._model.window_batch
    assert np.array_equal(mask_of(alone), mask_of(both))


def test_layers_on_several_devices_give_the_mask_of_one(bundle: Path) -> None:
    alone, spread = engine_for(bundle, "device=cpu"), engine_for(bundle, "device=cpu,cpu", "segment.shard=true")
    assert isinstance(spread._model.network, Sharded)
    assert spread._model.window_batch == alone._model.window_batch
    assert np.array_equal(mask_of(alone), mask_of(spread))


def test_windows_a_batch_hold_for_each_device(bundle: Path) -> None:
    assert engine_for(bundle, "segment.window_batch=3")._model.window_batch == 3
    assert engine_for(bundle, "segment.window_batch=3", "device=cpu,cpu")._model.window_batch == 6


def test_devices_are_named_by_commas() -> None:
    assert [device.type for device in pick_devices("cpu,cpu")] == ["cpu", "cpu"]
    assert pick_device("cpu,cpu").type == "cpu"
    with pytest.raises(PipelineError, match="device cuda:99 asked for"):
        pick_devices("cpu,cuda:99")
    for wrong in ("cpu,", "auto,cpu", "cuda:0;cuda:1"):
        with pytest.raises(PipelineError, match="settings-invalid"):
            resolve(None, [f"device='{wrong}'"])


def test_an_acceleration_of_cuda_is_refused_on_the_cpu_and_left_out_in_need(bundle: Path) -> None:
    with pytest.raises(PipelineError) as refused:
        engine_for(bundle, "segment.acceleration=graph")
    assert refused.value.code is Code.DEVICE_NOT_FOUND
    settings = resolve(None, ["segment.acceleration=graph"]).segment
    assert acceleration(pick_device("cpu"), for_fallback(settings)) == "off"
    assert acceleration(pick_device("cpu"), SegmentSettings()) == "off"
    assert resolve(None, ["segment.acceleration=off"]).segment.acceleration == "off"


def test_devices_and_acceleration_leave_what_is_done_as_it_is() -> None:
    digest = resolve().voxel_digest()
    for same in ("device=cpu,cpu", "segment.acceleration=off", "segment.shard=true", "models.cache_dir=/elsewhere"):
        assert resolve(None, [same]).voxel_digest() == digest
    assert resolve(None, ["models.backend=openvino"]).voxel_digest() != digest


def test_choices_lie_in_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert resolve().models.cache_dir == tmp_path / "imaging_pipeline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve().models.cache_dir == tmp_path / ".cache" / "imaging_pipeline"
