"""Settings come from four places, the later ones winning, and bad ones are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.settings import DEFAULT_CONFIG, Settings, resolve


def test_a_named_option_beats_set_beats_config_beats_default(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("index: {format: parquet, commit_seconds: 9}\noutput: {gzip_level: 3, save_image: true}\n")
    settings = resolve(config, ["output.gzip_level=5", "output.save_image=true"], {"output.save_image": False})
    assert settings.index.format == "parquet"
    assert settings.index.commit_seconds == 9
    assert settings.output.gzip_level == 5
    assert settings.output.save_image is False
    assert settings.intake.min_slices == 3


def test_the_file_of_defaults_says_what_the_code_says() -> None:
    written = yaml.safe_load(DEFAULT_CONFIG.read_text())
    built_in = Settings().model_dump(mode="json")
    assert written.pop("model") == "hippocampus_mr"
    for section, values in written.items():
        for key, value in values.items() if isinstance(values, dict) else ((None, values),):
            assert value == (built_in[section] if key is None else built_in[section][key]), (section, key)


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("intake.min_slice=4", "unknown setting intake.min_slice; known here: files_per_partition"),
        ("colour=red", "unknown setting colour; known here: device"),
        ("output.gzip_level=11", "output.gzip_level = 11: Input should be less than or equal to 9"),
        ("index.format=csv", "Input should be 'delta' or 'parquet'"),
        ("device=tpu", "device = 'tpu'"),
        ("index.format", "is no key=value"),
        ("index=delta", "index = 'delta'"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(assignment: str, says: str) -> None:
    with pytest.raises(PipelineError) as refused:
        resolve(None, [assignment])
    assert refused.value.code is Code.SETTINGS_INVALID
    assert says in refused.value.message


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "\xff"])
def test_a_config_that_is_no_mapping_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(PipelineError, match="settings-invalid"):
        resolve(path)
    with pytest.raises(PipelineError, match="cannot read"):
        resolve(tmp_path / "absent.yaml")


def test_settings_are_frozen_and_only_some_change_the_fingerprint() -> None:
    settings = resolve()
    with pytest.raises(ValidationError):
        settings.model = "other"  # type: ignore[misc]
    for other in ("spark.master=local[1]", "segment.agreement=false", "qc.min_agreement=0.5"):
        assert resolve(None, [other]).voxel_digest() == settings.voxel_digest(), other
    assert resolve(None, ["geometry.spacing_tolerance=0.1"]).voxel_digest() != settings.voxel_digest()
