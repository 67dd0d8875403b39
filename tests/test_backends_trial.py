"""The fastest form of a network gives torch's classes, whichever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.blocks import ResidualUnit
from monai.networks.nets import UNet

from imaging_pipeline.segment.backends import trial
from imaging_pipeline.segment.backends.choices import Choices, choice_key
from imaging_pipeline.segment.backends.fold import fold_norms, fold_shortcuts
from imaging_pipeline.segment.backends.live import live_network
from imaging_pipeline.segment.backends.state_dict import TorchNetwork
from imaging_pipeline.segment.backends.trial import fastest, smooth_noise
from tests.bundles import WINDOW, needs_bfloat16, random_network

SIZE = (1, *WINDOW)


def network(norm: str = "batch") -> TorchNetwork:
    return TorchNetwork(random_network(0, norm=norm).eval().requires_grad_(False))


@pytest.mark.parametrize(("norm", "folds"), [("batch", True), ("instance", False)])
def test_only_batch_norms_are_folded_and_scores_stay(norm: str, folds: bool) -> None:
    module, windows = network(norm).module, smooth_noise(2, SIZE)
    expected = module(windows)
    assert (fold_norms(module, windows) > 0) is folds
    torch.testing.assert_close(module(windows), expected, rtol=1e-4, atol=1e-4)


def test_a_layer_with_a_hook_is_left_alone() -> None:
    module = network().module
    for part in module.modules():
        part.register_forward_hook(lambda *_: None)
    assert fold_norms(module, smooth_noise(2, SIZE)) == 0


def test_openvino_gives_the_scores_of_a_network_that_was_never_a_file() -> None:
    pytest.importorskip("openvino")
    original = network()
    other = live_network(original, "openvino", SIZE)
    for batch in (1, 3):
        windows = torch.randn(batch, *SIZE)
        found = other(windows)
        with torch.inference_mode():
            torch.testing.assert_close(found, original(windows), rtol=1e-3, atol=1e-4)


def test_a_backend_that_cannot_be_had_is_named_and_torch_runs() -> None:
    choice = fastest(network(), SIZE, backends=("unheard-of",))
    assert (choice.name, choice.window_batch) == ("torch", 2)
    assert "unheard-of" in choice.excluded["unheard-of"]


def test_a_known_choice_is_opened_without_a_trial() -> None:
    pytest.importorskip("openvino")
    choice = fastest(network(), SIZE, known="openvino")
    assert (choice.name, choice.window_batch, dict(choice.seconds)) == ("openvino", 1, {})


def test_choices_survive_a_broken_file_and_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    choices = Choices(path=tmp_path / "cache" / "backends.json")
    choices.keep("a", "openvino")
    assert choices.find("a") == "openvino"
    choices.path.write_text("{broken")
    assert choices.find("a") is None
    nowhere = Choices(path=choices.path / "below" / "backends.json")
    nowhere.keep("a", "torch")
    assert nowhere.find("a") is None


def test_a_last_convolution_beside_its_own_input_becomes_one_convolution_with_the_same_scores() -> None:
    unet = UNet(3, 1, 5, (4, 8), (2,), num_res_units=2, norm="batch").eval().requires_grad_(False)
    windows = smooth_noise(1, SIZE)
    expected = unet(windows)
    assert fold_shortcuts(unet) == 1
    assert not any(isinstance(part, ResidualUnit) for part in list(unet.model)[-1:])
    torch.testing.assert_close(unet(windows), expected, rtol=1e-4, atol=1e-4)


def test_units_whose_sum_is_not_one_convolution_stay() -> None:
    activated = ResidualUnit(3, 4, 4, subunits=1, norm="batch")  # a norm and an activation lie before the sum
    strided = ResidualUnit(3, 4, 4, strides=2, subunits=1, last_conv_only=True)
    shared = ResidualUnit(3, 4, 4, subunits=1, last_conv_only=True)
    module = torch.nn.Sequential(activated, strided, shared, shared).eval().requires_grad_(False)
    assert fold_shortcuts(module) == 0


def test_scores_of_openvino_are_its_own_memory_until_the_next_window() -> None:
    pytest.importorskip("openvino")
    other = live_network(network(), "openvino", SIZE)
    first = other(torch.zeros(1, *SIZE))
    kept = first.clone()
    second = other(torch.ones(1, *SIZE))
    assert second.data_ptr() == first.data_ptr()
    assert not torch.equal(kept, second)


def test_openvino_leaves_its_threads_to_the_kernel() -> None:
    """Pinned ones of two tasks would meet on the machine's first core, and leave the others idle."""
    pytest.importorskip("openvino")
    other = live_network(network(), "openvino", SIZE)
    compiled = other._request.get_compiled_model()
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()


def in_both_precisions(original: TorchNetwork, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of torch in float32, and how far off its own in bfloat16 are at the most."""
    with torch.inference_mode():
        exact = original(windows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return exact, (original(windows) - exact).abs().max()


def test_bfloat16_is_by_openvino_as_near_to_float32_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_bfloat16()
    monkeypatch.setattr(trial, "_PAYS_WITHIN", 10**9)
    original, windows = network(), smooth_noise(2, SIZE)
    exact, torchs = in_both_precisions(original, windows)
    choice = fastest(original, SIZE, backends=("openvino",), dtype=torch.bfloat16)
    assert "openvino" in choice.seconds, choice.excluded
    other = live_network(original, "openvino", SIZE, torch.bfloat16)(windows)
    assert other.dtype == torch.float32
    assert 0 < (other - exact).abs().max() <= 2 * torchs


def test_a_candidate_may_be_twice_as_far_off_as_torch_in_bfloat16_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "_PAYS_WITHIN", 10**9)
    original, windows = network(), smooth_noise(2, SIZE)
    exact, torchs = in_both_precisions(original, windows)

    def by(share: float) -> trial.Choice:
        bent = exact.clone()
        bent[:, :, 0, 0, 0] += share * torchs
        monkeypatch.setattr(trial, "live_network", lambda *_: lambda _windows: bent)
        return fastest(original, SIZE, backends=("openvino",), dtype=torch.bfloat16)

    assert by(1.5).excluded == {}
    assert "off torch's" in by(2.5).excluded["openvino"]


def test_a_choice_holds_for_one_precision() -> None:
    keys = {choice_key("digest", ["model.pt"], SIZE, 2, dtype) for dtype in (torch.float32, torch.bfloat16)}
    assert len(keys) == 2
