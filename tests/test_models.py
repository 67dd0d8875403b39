"""The models that come with the project are complete: metadata, labels, card, licence, rules."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from imaging_pipeline.intake.rules import read_rules
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.settings import ROOT, Settings

MODELS = sorted(path.parents[1] for path in (ROOT / "models").glob("*/configs/metadata.json"))

# required by MONAI's bundle metadata schema (meta_schema_20240725)
REQUIRED = {
    *("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format"),
}
TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_metadata_has_what_monais_schema_requires(model: Path) -> None:
    metadata = json.loads((model / "configs" / "metadata.json").read_text())
    assert set(metadata) >= REQUIRED
    assert metadata["version"] in metadata["changelog"]
    tensors = metadata["network_data_format"]
    for tensor in (*tensors["inputs"].values(), *tensors["outputs"].values()):
        assert set(tensor) >= TENSOR
        assert len(tensor["channel_def"]) == tensor["num_channels"]


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_every_label_has_a_name_a_colour_and_a_snomed_code(model: Path, settings: Settings) -> None:
    with (model / "labels.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    channels = json.loads((model / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert [row["name"] for row in rows] == [name for key, name in channels["channel_def"].items() if key != "0"]
    for row in rows:
        assert row["type_code"].isdigit()
        assert row["color"].startswith("#")
        assert len(row["color"]) == 7
    assert len(describe(model.name, settings.models).labels) == len(rows)


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_card_licence_and_rules_are_there(model: Path) -> None:
    card = (model / "docs" / "README.md").read_text()
    assert "not for clinical use" in card.lower()
    assert "Dice" in card
    assert "Attribution-ShareAlike 4.0" in (model / "LICENSE").read_text()
    assert read_rules(model / "selection.yaml").require["modality"].equals == "MR"
