"""A model that is not what it should be stops the run before any series is touched, and says why."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.manifest import MANIFEST, check_manifest, write_manifest
from imaging_pipeline.segment.model import open_model
from imaging_pipeline.settings import ROOT, ModelSettings, SegmentSettings
from tests.bundles import edit, random_network, write_bundle
from tests.conftest import Finished

CPU = torch.device("cpu")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = write_bundle(tmp_path / "models" / "tiny")
    write_manifest(path)
    return path


def trusting(path: Path, **changes: object) -> ModelSettings:
    return ModelSettings.model_validate({"trusted_dirs": (path.parent,), **changes})


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def flip_last_byte(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def spoil(path: Path, what: str) -> Code:
    """Do something to a bundle; the code that it must end in."""
    if what == "tampered-weights":
        flip_last_byte(path / "models" / "model.pt")
        return Code.MODEL_DIGEST_MISMATCH
    if what == "added-script":
        (path / "scripts").mkdir()
        (path / "scripts" / "evil.py").write_text("import os")
        return Code.MODEL_DIGEST_MISMATCH
    if what == "config-gone":
        (path / "configs" / "inference.json").unlink()
        return Code.MODEL_DIGEST_MISMATCH
    if what == "pickle-payload":
        torch.save({"weights": Payload(path / "ran")}, path / "models" / "model.pt")
        code = Code.WEIGHTS_UNSAFE
    elif what == "bare-pickle":
        (path / "models" / "model.pt").write_bytes(pickle.dumps(Payload(path / "ran")))
        code = Code.WEIGHTS_UNSAFE
    elif what == "missing-keys":
        state = random_network(0).state_dict()
        torch.save(dict(list(state.items())[2:]), path / "models" / "model.pt")
        code = Code.WEIGHTS_MISMATCH
    elif what == "weights-of-four-channels":
        torch.save(random_network(0, in_channels=4).state_dict(), path / "models" / "model.pt")
        code = Code.WEIGHTS_MISMATCH
    elif what == "network-of-four-channels":
        edit(path / "configs" / "inference.json", network_def__in_channels=4)
        torch.save(random_network(0, in_channels=4).state_dict(), path / "models" / "model.pt")
        code = Code.WEIGHTS_MISMATCH
    elif what == "network-of-five-classes":
        edit(path / "configs" / "inference.json", network_def__out_channels=5)
        torch.save(random_network(0, out_channels=5).state_dict(), path / "models" / "model.pt")
        code = Code.WEIGHTS_MISMATCH
    elif what == "metadata-of-four-channels":
        edit(path / "configs" / "metadata.json", network_data_format__inputs__image__num_channels=4)
        code = Code.MODEL_MULTI_CHANNEL
    else:
        raise AssertionError(what)
    write_manifest(path)
    return code


SPOILT = ("tampered-weights", "added-script", "config-gone", "pickle-payload", "bare-pickle", "missing-keys",
          "weights-of-four-channels", "network-of-four-channels", "network-of-five-classes",
          "metadata-of-four-channels")  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_model_is_refused_with_its_own_code(what: str, bundle: Path) -> None:
    code = spoil(bundle, what)
    with pytest.raises(PipelineError) as refused:
        open_model(describe("tiny", trusting(bundle)), CPU, SegmentSettings())
    assert refused.value.code is code
    assert "\n" not in refused.value.message
    assert not (bundle / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tampered-weights", "pickle-payload", "missing-keys", "network-of-four-channels"])
def test_a_run_with_a_spoilt_model_ends_before_any_series(
    what: str, bundle: Path, sample: Path, tmp_path: Path, pipeline: Callable[..., Finished]
) -> None:
    code = spoil(bundle, what)
    out = tmp_path / "out"
    done = pipeline(sample, "--out", out, "--model", bundle, "--no-spark",
                    "--set", f"models.trusted_dirs=[{bundle.parent}]")  # fmt: skip
    assert done.code == 2
    assert done.err.startswith(f"imaging_pipeline: {code}: ")
    assert done.err.count("\n") == 1
    assert not list(out.rglob("*.nii.gz"))
    assert not list(out.glob("receipts/*"))
    assert not (bundle / "ran").exists()


@pytest.mark.slow
@pytest.mark.spark
def test_with_spark_a_spoilt_model_ends_the_run_just_so(
    bundle: Path, sample: Path, tmp_path: Path, pipeline: Callable[..., Finished]
) -> None:
    code = spoil(bundle, "missing-keys")
    out = tmp_path / "out"
    trusted = f"models.trusted_dirs=[{bundle.parent}]"
    done = pipeline(sample, "--out", out, "--model", bundle, "--set", trusted, "--master", "local[2]")
    assert done.code == 2
    assert done.err.startswith(f"imaging_pipeline: {code}: ")
    assert not list(out.glob("receipts/*"))


def test_a_sealed_bundle_opens_and_its_card_may_change(bundle: Path) -> None:
    (bundle / "docs").mkdir()
    (bundle / "docs" / "README.md").write_text("another card")
    assert describe("tiny", trusting(bundle)).name == "tiny"
    listed = check_manifest(bundle)
    assert listed is not None
    assert set(listed) == {"configs/inference.json", "configs/metadata.json", "models/model.pt"}


def test_the_manifest_is_what_sha256sum_checks(bundle: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    assert os.system(f"cd '{bundle}' && sha256sum --quiet --check {MANIFEST}") == 0


@pytest.mark.parametrize(
    "line", ["", "abc  configs/inference.json", f"{'0' * 64}  ../other", f"{'0' * 64}  /etc/passwd"]
)
def test_a_manifest_that_cannot_be_trusted_is_refused(line: str, bundle: Path) -> None:
    (bundle / MANIFEST).write_text(line + "\n")
    with pytest.raises(PipelineError) as refused:
        describe("tiny", trusting(bundle))
    assert refused.value.code is Code.MODEL_INVALID


def test_a_bundle_without_a_manifest_opens_unless_one_is_required(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    assert describe("tiny", trusting(bundle)).digest
    with pytest.raises(PipelineError, match=r"MANIFEST\.sha256 is missing") as refused:
        describe("tiny", trusting(bundle, require_manifest=True))
    assert refused.value.code is Code.MODEL_INVALID


def test_a_bundle_that_changes_after_the_run_began_is_not_opened(bundle: Path) -> None:
    edit(bundle / "configs" / "metadata.json", version="never opened in this process")
    write_manifest(bundle)
    described = describe("tiny", trusting(bundle))
    torch.save(random_network(7).state_dict(), bundle / "models" / "model.pt")
    with pytest.raises(PipelineError, match="the run began with") as refused:
        open_model(described, CPU, SegmentSettings())
    assert refused.value.code is Code.MODEL_DIGEST_MISMATCH


def test_a_path_that_climbs_out_of_a_trusted_folder_is_not_trusted(bundle: Path, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    for name in (str(bundle), "../models/tiny", str(trusted / ".." / "models" / "tiny")):
        with pytest.raises(PipelineError) as refused:
            describe(name, ModelSettings(trusted_dirs=(trusted,)))
        assert refused.value.code is Code.MODEL_UNTRUSTED
    (trusted / "linked").symlink_to(bundle)
    assert describe("linked", ModelSettings(trusted_dirs=(trusted,))).name == "linked"


def test_expressions_of_an_untrusted_config_never_run(bundle: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    edit(bundle / "configs" / "inference.json", device=f"$__import__('os').mkdir('{trace}')")
    with pytest.raises(PipelineError):
        describe(str(bundle), ModelSettings(trusted_dirs=(ROOT / "models",)))
    assert not trace.exists()


def test_every_bundle_that_comes_with_the_project_is_sealed() -> None:
    for path in (ROOT / "models").iterdir():
        assert check_manifest(path), f"{path.name}: run python -m imaging_pipeline.models seal {path.name}"
