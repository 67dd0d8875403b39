"""Real DICOM of many scanners: every series becomes the right volume, or says exactly why not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from deltalake import DeltaTable

from imaging_pipeline.errors import Code
from imaging_pipeline.records import GeometryVerdict
from tests.conftest import Finished

Pipeline = Callable[..., Finished]

SETS = (
    "ct_enhanced_panimg",
    "ct_head64_slicer",
    "ct_philips_ingenuity",
    "ct_philips_tilt_minus18",
    "ct_siemens_mct_j2k_totalseg",
    "ct_transfer_syntaxes",
    "dicom2nifti",
    "dicomdir_pydicom",
    "ibsi2_digital",
    "ibsi_sts",
    "mr_enhanced_siemens_xa30",
    "mr_patient_position",
    "seg_rtstruct",
)
SHARE_THEIR_INSTANCES = ("tiny/dicom_slope", "tiny/dicom_intercept", "data/failing/slicecount/001")
"""Folders that repeat the UIDs of instances in another folder of their set: as one input they are copies."""
AFFINE_TOLERANCE_MM = 1e-3

# a reason that a radiologist would accept, where dcm2niix makes a file all the same
ACCEPTED = {
    Code.LOCALIZER,  # a scout is no volume
    Code.NOT_AN_IMAGE,  # segmentations are no image of a volume
    Code.MISSING_SLICES,  # dcm2niix warns and stretches, or resamples
    Code.NOT_MONOCHROME,  # colour renderings
    Code.TOO_FEW_SLICES,  # two slices
}


@pytest.fixture(scope="module")
def results(
    dicom_set: Callable[[str], Path], pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Source and results folder of every set, run through the command."""
    folders = {}
    for name in SETS:
        source = dicom_set(name)
        out = tmp_path_factory.mktemp("results") / name
        done = pipeline(source, "--out", out, "--no-spark", "--model", "none", "--quiet")
        assert done.code in (0, 3), done.out + done.err
        folders[name] = (source, out)
    return folders


def rows_of(out: Path) -> list[dict[str, Any]]:
    return DeltaTable(str(out / "index")).to_pyarrow_table().to_pylist(maps_as_pydicts="strict")


@pytest.mark.slow
def test_every_series_has_a_verdict(results: dict[str, tuple[Path, Path]], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{'set':28} {'kind':9} {'slices':>6}  verdict   reason")
        for name, (_, out) in results.items():
            for row in sorted(rows_of(out), key=lambda row: (row["modality"], row["n_slices"])):
                found = ", ".join(finding["code"] for finding in row["findings"])
                reason = row["reason_code"] or found
                print(f"{name:28} {row['modality']:9} {row['n_slices']:6}  {row['geometry_verdict']:8}  {reason}")
                assert row["geometry_verdict"] in set(GeometryVerdict)
                assert (row["status"] == "done") == (row["geometry_verdict"] != "REJECTED")
                if row["status"] != "done":
                    assert row["reason_code"] in set(Code)
                    assert row["message"]
                    assert row["hint"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_every_volume_agrees_with_its_source_point_by_point(
    name: str, results: dict[str, tuple[Path, Path]], shared: Path
) -> None:
    source, out = results[name]
    done = [row for row in rows_of(out) if row["status"] == "done"]
    if not done:
        assert name in ("ct_transfer_syntaxes", "seg_rtstruct"), "sets without a single volume"
        return
    oracle = subprocess.run(
        [sys.executable, shared / "tools" / "point_oracle.py", source, out], capture_output=True, text=True, check=False
    )
    assert oracle.returncode == 0, oracle.stdout + oracle.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_what_dcm2niix_makes_we_make_alike_or_refuse_for_a_good_reason(
    name: str, results: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    source, out = results[name]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(out):
        rows.setdefault(row["series_uid"], []).append(row)
    for number, expected in enumerate(json.loads((source / "expected.json").read_text())):
        if expected["dir"] in SHARE_THEIR_INSTANCES:
            continue
        ours = rows.get(expected["series_uid"], [])
        volumes = [nib.load(out / row["image_path"]) for row in ours if row["status"] == "done"]
        made = convert(source / expected["dir"], tmp_path / str(number), expected)
        for image in made:
            if any(row["findings"] and row["findings"][0]["code"] == "gantry-tilt" for row in ours):
                continue  # dcm2niix writes it once without shear and once resampled: the oracle above is the judge
            if not volumes:
                assert {row["reason_code"] for row in ours} <= ACCEPTED, (expected["dir"], ours)
                continue
            assert any(agree(volume, image) for volume in volumes), (expected["dir"], image.shape, image.affine)


def convert(folder: Path, into: Path, series: dict[str, Any]) -> list[nib.Nifti1Image]:
    """The 3D volumes that dcm2niix makes of one series, in canonical orientation; 4D ones volume by volume."""
    into.mkdir()
    scaling = ["-p", "n"] if "philips" in series["mfr"].lower() else []  # Rescale Slope, not the private scale slope
    command = [Path(sys.executable).with_name("dcm2niix"), "-z", "n", "-b", "n", *scaling, "-f", "%j_%s_%p", "-o", into]
    subprocess.run([*map(str, command), str(folder)], capture_output=True, check=False)
    volumes = []
    for path in sorted(into.glob("*.nii")):
        if "_Eq" in path.name or "_Tilt" in path.name:
            continue  # resampled
        if not path.name.startswith(series["series_uid"]):  # the name starts with the UID, see -f
            continue
        image = nib.as_closest_canonical(nib.load(path))
        if image.get_data_dtype().fields:  # colour
            continue
        volumes += nib.four_to_three(image) if image.ndim == 4 else [image]
    return [image for image in volumes if min(image.shape) > 1]


def agree(ours: nib.Nifti1Image, theirs: nib.Nifti1Image) -> bool:
    """Same grid within the tolerance, same values up to rounding of the written type."""
    if ours.shape != theirs.shape or np.abs(ours.affine - theirs.affine).max() > AFFINE_TOLERANCE_MM:
        return False
    a, b = ours.get_fdata(), theirs.get_fdata()
    return bool(np.abs(a - b).max() <= max(0.51, 1e-4 * np.abs(b).max()))
