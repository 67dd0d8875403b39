"""The command with --format: what it writes, what a second run does, and what a refusal leaves alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from deltalake import DeltaTable

from sample_data.phantom import CtSpec, write_ct
from tests.bundles import write_bundle
from tests.conftest import Finished
from tests.dicom_objects import complaints

Pipeline = Callable[..., Finished]
Run = Callable[..., Finished]

SPEC = CtSpec(shape=(18, 20, 16))


@pytest.fixture(scope="module")
def world(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """Two patients' series, one of them without a frame of reference, and the command with a tiny model."""
    folder = tmp_path_factory.mktemp("world")
    model = write_bundle(folder / "models" / "tiny")
    write_ct(SPEC, folder / "in" / "whole")
    nowhere = dataclasses.replace(SPEC, seed=1, patient_id="P2", extra={"FrameOfReferenceUID": None})
    write_ct(nowhere, folder / "in" / "nowhere")

    def run(out: str, *arguments: str) -> Finished:
        trusted = f"models.trusted_dirs=[{model.parent}]"
        place = ("--out", folder / out, "--no-spark", "--model", "tiny", "--set", trusted)
        return pipeline(folder / "in", *place, "--set", "models.backend=torch", *arguments)

    return folder, run


def rows_of(out: Path) -> dict[bool, dict[str, Any]]:
    """Rows of the index: True is the whole series, False the one without a frame of reference."""
    rows = DeltaTable(str(out / "index")).to_pyarrow_table().to_pylist(maps_as_pydicts="strict")
    whole = SPEC.series_instance_uid
    return {row["series_uid"] == whole: row for row in rows}


@pytest.fixture(scope="module")
def full(world: tuple[Path, Run]) -> tuple[Path, Finished]:
    """RESULTS of a run for NIfTI, and of one for everything."""
    folder, run = world
    assert run("out").code == 0
    assert not list((folder / "out").rglob("*.dcm"))
    return folder / "out", run("out", "--format", "nifti,seg,rtstruct,sr")


def test_a_run_that_asks_for_more_formats_makes_them(full: tuple[Path, Finished]) -> None:
    out, done = full
    assert done.code == 0, done.err
    assert "2 done, 0 already done" in done.out
    assert all(f"done without {kind}: 1 x no-frame-of-reference" in done.out for kind in ("seg", "rtstruct", "sr"))
    row = rows_of(out)[True]
    assert row["dicom_paths"].keys() == {"seg", "rtstruct", "sr"}
    for kind, path in row["dicom_paths"].items():
        assert path in row["output_digests"]
        assert path.endswith("_dseg.dcm" if kind == "seg" else f"_{kind}.dcm")
        assert not complaints(out / path)
        assert pydicom.dcmread(out / path).PatientID == SPEC.patient_id


def test_a_refused_object_costs_neither_the_nifti_nor_the_status(full: tuple[Path, Finished]) -> None:
    out, _ = full
    row = rows_of(out)[False]
    assert (row["status"], row["reason_code"]) == ("done", "")
    assert (out / row["mask_path"]).exists()
    assert {(item["format"], item["code"]) for item in row["formats_refused"]} == {
        (kind, "no-frame-of-reference") for kind in ("seg", "rtstruct", "sr")
    }
    assert all(item["message"] and item["hint"] for item in row["formats_refused"])
    assert not row["dicom_paths"]


def test_no_value_of_a_patient_is_in_what_a_run_says_or_logs(full: tuple[Path, Finished]) -> None:
    out, done = full
    logs = "".join(path.read_text() for path in (out / "logs").iterdir() if path.is_file())
    for value in (SPEC.patient_id, SPEC.patient_name):
        assert value not in logs + done.out + done.err


def test_fewer_formats_find_all_done_and_a_lost_object_is_made_again(
    full: tuple[Path, Finished], world: tuple[Path, Run]
) -> None:
    (out, _), (_, run) = full, world
    assert "0 done, 2 already done" in run("out", "--format", "nifti,seg").out
    path = rows_of(out)[True]["dicom_paths"]["rtstruct"]
    before = (out / path).read_bytes()
    (out / path).unlink()
    assert "1 done, 1 already done" in run("out", "--format", "nifti,seg,rtstruct,sr").out
    assert (out / path).read_bytes() == before


def test_another_results_holds_the_same_objects_byte_by_byte_and_a_label_map_is_another(
    full: tuple[Path, Finished], world: tuple[Path, Run]
) -> None:
    (out, _), (folder, run) = full, world
    assert run("other", "--format", "nifti,seg,rtstruct,sr").code == 0
    digests = []
    for place in (out, folder / "other"):
        row = rows_of(place)[True]
        digests.append({kind: row["output_digests"][path] for kind, path in row["dicom_paths"].items()})
    assert digests[0] == digests[1]
    done = run("other", "--format", "nifti,seg", "--set", "output.seg_type=labelmap")
    assert "2 done, 0 already done" in done.out
    row = rows_of(folder / "other")[True]
    assert pydicom.dcmread(folder / "other" / row["dicom_paths"]["seg"]).SegmentationType == "LABELMAP"
    receipt = json.loads((folder / "other" / "receipts" / f"{row['series_key']}_tiny.json").read_text())
    assert receipt["formats"] == {"seg": "labelmap"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--format", "nifti,sr"), "an sr refers to the segments of a seg"),
        (("--format", "nifti,dicom"), "'dicom'"),
        (("--format", "seg", "--model", "none"), "makes no mask"),
    ],
)
def test_formats_that_cannot_be_made_end_the_run_before_it_starts(
    arguments: tuple[str, ...], told: str, world: tuple[Path, Run]
) -> None:
    folder, run = world
    done = run("never", *arguments)
    assert done.code == 2
    assert "settings-invalid" in done.err
    assert told in done.err
    assert not (folder / "never").exists()
