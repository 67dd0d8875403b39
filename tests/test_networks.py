"""Every form of a network's weights gives the state dict's labels, or says what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.backends import available_backends, load_network
from imaging_pipeline.segment.backends import load as loader
from imaging_pipeline.segment.backends.average import Average
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.convert import convert
from imaging_pipeline.segment.engine import Engine
from imaging_pipeline.settings import ModelSettings, Settings
from imaging_pipeline.volume import Volume
from tests.bundles import WINDOW, random_network, write_bundle

CPU = torch.device("cpu")
FORMS = {"torchscript": "ts", "export": "pt2", "onnxruntime": "onnx", "openvino": "onnx"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every form of its weights."""
    path = write_bundle(tmp_path_factory.mktemp("models") / "tiny")
    bundle = describe("tiny", ModelSettings(trusted_dirs=(path.parent,)))
    for form in ("ts", "pt2", "onnx"):
        assert convert(bundle, form).largest_difference < 1e-3
    return path


def settings_for(path: Path, settings: Settings, **changes: object) -> Settings:
    models = ModelSettings.model_validate({"trusted_dirs": (path.parent,), **changes})
    return settings.model_copy(update={"models": models})


def mask_of(path: Path, settings: Settings) -> np.ndarray:
    rng = np.random.default_rng(3)
    volume = Volume(array=rng.normal(100, 30, (25, 30, 19)).astype(np.float32), affine=np.diag([1.2, 1, 2, 1.0]))
    return Engine(describe(str(path), settings.models), settings).segment(volume).mask.array


@pytest.mark.parametrize("backend", FORMS)
def test_every_form_gives_the_labels_of_the_state_dict(backend: str, converted: Path, settings: Settings) -> None:
    truth = mask_of(converted, settings_for(converted, settings, backend="torch"))
    other = mask_of(converted, settings_for(converted, settings, backend=backend))
    assert set(np.unique(truth)) == {0, 1, 2}
    assert (truth == other).mean() >= 0.999


@pytest.mark.parametrize("backend", FORMS)
def test_a_form_opens_by_its_file_alone(backend: str, converted: Path) -> None:
    network = load_network(converted / "models" / f"model.{FORMS[backend]}", CPU, backend=backend)
    truth = random_network(0).eval()
    for batch in (1, 2, 5):
        windows = torch.randn(batch, 1, *WINDOW)
        with torch.inference_mode():
            torch.testing.assert_close(network(windows), truth(windows), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("backend", "extra"), [("onnxruntime", "onnx"), ("openvino", "cpu")])
def test_a_backend_that_is_not_installed_names_the_extra(
    backend: str, extra: str, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader._BACKENDS[backend], "find_spec", lambda _: None)
    with pytest.raises(PipelineError) as refused:
        load_network(converted / "models" / "model.onnx", CPU, backend=backend)
    assert refused.value.code is Code.EXTRA_MISSING
    assert f"imaging-pipeline[{extra}]" in refused.value.hint
    assert backend not in available_backends()


@pytest.mark.parametrize("suffix", ["pt", "ts", "pt2", "onnx", "xml"])
@pytest.mark.parametrize("content", [b"", b"no network", b"PK\x03\x04 broken archive"])
def test_a_damaged_file_of_any_form_is_refused_in_one_sentence(suffix: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"model.{suffix}"
    file.write_bytes(content)
    with pytest.raises(PipelineError) as refused:
        load_network(file, CPU, lambda: random_network(0))
    assert refused.value.code is Code.WEIGHTS_UNSAFE
    assert "\n" not in refused.value.message


def test_an_ending_that_nothing_opens_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="ending that no backend opens") as refused:
        load_network(tmp_path / "model.h5", CPU)
    assert ".onnx" in refused.value.hint


@pytest.mark.parametrize("wrap", [lambda state: {"model": state}, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_checkpoint_of_a_training_program_opens(wrap: object, tmp_path: Path) -> None:
    state = {f"module.{key}": value.half() for key, value in random_network(0).state_dict().items()}
    torch.save(wrap(state), tmp_path / "model.pt")  # type: ignore[operator]
    network = load_network(tmp_path / "model.pt", CPU, lambda: random_network(1))
    windows = torch.randn(2, 1, *WINDOW)
    with torch.inference_mode():
        torch.testing.assert_close(network(windows), random_network(0).eval()(windows), rtol=0.1, atol=0.05)


def test_a_form_that_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "models" / "tiny")
    with pytest.raises(PipelineError, match=r"holds none of model\.ts; it holds model\.pt"):
        describe("tiny", ModelSettings(trusted_dirs=(path.parent,), backend="torchscript"))
    (path / "models" / "model.pt").unlink()
    with pytest.raises(PipelineError, match=r"holds none of model\.xml, model\.onnx, model\.pt; it holds nothing"):
        describe("tiny", ModelSettings(trusted_dirs=(path.parent,), backend="openvino"))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_members_are_averaged_in_probability(activation: str) -> None:
    members = [random_network(seed).eval() for seed in (1, 2)]
    windows = torch.randn(2, 1, *WINDOW)
    to_probability = {"softmax": lambda x: x.softmax(1), "sigmoid": torch.sigmoid}[activation]
    with torch.inference_mode():
        expected = sum(to_probability(member(windows)) for member in members) / 2
        found = to_probability(Average(members, (), activation)(windows))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mirroring_averages_every_combination_of_the_axes() -> None:
    member = random_network(1).eval()
    windows = torch.randn(1, 1, *WINDOW)
    with torch.inference_mode():
        views = [(), (2,), (4,), (2, 4)]
        expected = sum(member(windows.flip(view)).flip(view).softmax(1) for view in views) / 4
        mirrored = Average([member], (0, 2), "softmax")
        torch.testing.assert_close(mirrored(windows).softmax(1), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mirrored(windows.flip(2)).flip(2), mirrored(windows), rtol=1e-3, atol=1e-3)


def test_an_ensemble_uses_every_fold_and_says_so(tmp_path: Path, settings: Settings) -> None:
    path = write_bundle(tmp_path / "models" / "tiny")
    for fold in (0, 1, 2):
        torch.save(random_network(fold).state_dict(), path / "models" / f"fold_{fold}.pt")
    alone, together = (settings_for(path, settings, ensemble=ensemble) for ensemble in (False, True))
    one, all_of_them = describe("tiny", alone.models), describe("tiny", together.models)
    assert [item.name for item in one.weights] == ["models/model.pt"]
    assert [item.name for item in all_of_them.weights] == [f"models/fold_{fold}.pt" for fold in (0, 1, 2)]
    assert one.digest != all_of_them.digest
    assert (mask_of(path, alone) != mask_of(path, together)).any()


def test_an_ensemble_without_folds_is_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "models" / "tiny")
    with pytest.raises(PipelineError, match=r"none of fold_\*\.pt"):
        describe("tiny", ModelSettings(trusted_dirs=(path.parent,), ensemble=True))


def test_mirroring_needs_a_card_that_allows_it(tmp_path: Path, settings: Settings) -> None:
    path = write_bundle(tmp_path / "models" / "tiny")
    mirrored = settings_for(path, settings).model_copy(
        update={"segment": settings.segment.model_copy(update={"tta": True})}
    )
    with pytest.raises(PipelineError, match="allows no axis"):
        Engine(describe("tiny", mirrored.models), mirrored)
    write_bundle(path, mirror_axes=[0, 1])
    assert Engine(describe("tiny", mirrored.models), mirrored).mirror_axes == (0, 1)
