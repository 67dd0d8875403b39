"""`python -m imaging_pipeline.models`: list, verify, export, seal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imaging_pipeline.models import main
from imaging_pipeline.segment.manifest import MANIFEST, check_manifest
from imaging_pipeline.settings import ROOT
from tests.bundles import write_bundle


@pytest.fixture
def trusted(tmp_path: Path) -> tuple[Path, str]:
    """A bundle, and the setting that trusts it."""
    path = write_bundle(tmp_path / "models" / "tiny", license="Apache-2.0")
    return path, f"models.trusted_dirs=[{path.parent}]"


def test_listing_names_every_model_and_needs_no_torch() -> None:
    program = "import sys; from imaging_pipeline.models import main; code = main(['list']); "
    program += "assert not {'torch', 'monai', 'pyspark'} & set(sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "hippocampus_mr" in done.stdout
    assert "anterior hippocampus, posterior hippocampus" in done.stdout


def test_listing_says_what_is_wrong_with_a_model(trusted: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, setting = trusted
    (path / "models" / "model.pt").unlink()
    assert main(["list", "--set", setting]) == 0
    assert "tiny" in (shown := capsys.readouterr().out)
    assert "model-invalid" in shown


def test_verify_checks_everything_and_says_what_is_missing(
    trusted: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, setting = trusted
    assert main(["verify", "tiny", "--set", setting]) == 1
    shown = capsys.readouterr().out
    assert [line.split()[1].rstrip(":") for line in shown.splitlines() if line.startswith("MISSING")] == [
        "manifest",
        "model",
        "licence",
    ]
    assert "keys and channels fit" in shown
    assert "forward pass: 48 x 64 x 40 voxels of noise to uint8 labels" in shown
    (path / "docs").mkdir()
    (path / "docs" / "README.md").write_text("card")
    (path / "LICENSE").write_text("text")
    assert main(["seal", "tiny", "--set", setting]) == 0
    assert main(["verify", "tiny", "--set", setting]) == 0
    assert "MISSING" not in capsys.readouterr().out


def test_verify_of_a_damaged_model_ends_in_one_coded_line(
    trusted: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, setting = trusted
    (path / "models" / "model.pt").write_bytes(b"damaged")
    assert main(["verify", "tiny", "--set", setting]) == 2
    assert capsys.readouterr().err.startswith("imaging_pipeline: weights-unsafe: ")


@pytest.mark.parametrize("form", ["ts", "pt2", "onnx"])
def test_export_writes_a_form_compares_it_and_keeps_the_seal(
    form: str, trusted: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, setting = trusted
    assert main(["seal", "tiny", "--set", setting]) == 0
    assert main(["export", "tiny", "--to", form, "--set", setting]) == 0
    shown = capsys.readouterr().out
    assert f"model.{form}: largest difference " in shown
    assert (path / "models" / f"model.{form}").is_file()
    assert not list(path.rglob(".draft*"))
    listed = check_manifest(path)
    assert listed is not None
    assert f"models/model.{form}" in listed


def test_export_of_a_form_that_does_not_exist_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "hippocampus_mr", "--to", "tflite"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_sealing_an_unknown_model_is_refused(trusted: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, setting = trusted
    assert main(["seal", "other", "--set", setting]) == 2
    assert "model-not-found" in capsys.readouterr().err
    assert not (path / MANIFEST).exists()
