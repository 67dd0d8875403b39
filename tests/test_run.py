"""The command as a user calls it: what comes out, what it says, how it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from deltalake import DeltaTable

from imaging_pipeline.results.index import SCHEMA
from imaging_pipeline.segment.manifest import write_manifest
from sample_data.phantom import CtSpec, write_ct, write_enhanced_ct, write_text_files
from tests.conftest import ROOT, Finished

Pipeline = Callable[..., Finished]
SPEC = CtSpec(shape=(32, 24, 8), spacing_mm=(2.0, 2.0, 4.0))


def index_of(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of the index by Series Instance UID and stack."""
    table = DeltaTable(str(out / "index")).to_pyarrow_table()
    return {f"{row['series_uid']} {row['stack']}": row for row in table.to_pylist(maps_as_pydicts="strict")}


def mask_digests(out: Path) -> dict[str, str]:
    return {uid: row["output_digests"].get(row["mask_path"], "") for uid, row in index_of(out).items()}


@pytest.fixture(scope="module")
def demo(pipeline: Pipeline, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The sample study through the whole job, in this process."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, pipeline(sample, "--out", out, "--no-spark", "--save-image")


def test_the_sample_study_gives_two_plausible_masks_and_says_why_not_the_rest(demo: tuple[Path, Finished]) -> None:
    out, done = demo
    assert done.code == 0, done.err
    rows = index_of(out).values()
    assert sorted(row["status"] for row in rows) == ["done", "done", "skipped"]
    for row in rows:
        if row["status"] == "skipped":
            assert row["reason_code"] == "localizer"
            assert row["hint"]
            continue
        mask, image = (nib.load(out / row[key]) for key in ("mask_path", "image_path"))
        assert mask.shape == image.shape == tuple(row["shape"])
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert set(np.unique(np.asanyarray(mask.dataobj))) == {0, 1, 2}
        assert 1 < sum(row["volumes_ml"].values()) < 6
        sidecar = json.loads((out / row["mask_path"].replace(".nii.gz", ".json")).read_text())
        assert sidecar["VolumesMl"] == row["volumes_ml"]
    assert "1 not-dicom" in done.out
    assert "skipped 1 x localizer" in done.out


def test_results_are_laid_out_as_bids_derivatives(demo: tuple[Path, Finished]) -> None:
    out, _ = demo
    names = {path.name for path in out.iterdir()}
    fixed = {"index", "receipts", "logs", "run.json", "dataset_description.json", "dseg.tsv", "identity.key"}
    assert fixed <= names
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["output"]["save_image"] is True
    assert run["series"] == {"already_done": 0, "done": 2, "skipped": 1, "failed": 0, "left": 0}
    assert run["exit_code"] == 0
    for path in out.rglob("*.nii.gz"):
        assert path.relative_to(out).parts[0].startswith("sub-")
        assert path.with_name(path.name.replace(".nii.gz", ".json")).exists()


def test_no_identifier_of_the_patient_is_anywhere_in_the_results(pipeline: Pipeline, tmp_path: Path) -> None:
    marked = {"PatientBirthDate": "19010203", "AccessionNumber": "ACCMARK77", "OtherPatientIDs": "OTHERMARK"}
    spec = dataclasses.replace(SPEC, patient_id="IDMARK4711", patient_name="NAMEMARK^Jane", extra=marked)
    write_ct(dataclasses.replace(spec, description="Thorax NAMEMARK Jane 19010203"), tmp_path / "in")
    done = pipeline(tmp_path / "in", "--out", tmp_path / "out", "--no-spark", "--model", "none", "--verbose")
    assert done.code == 0
    said = (done.out + done.err).encode()
    for path in (tmp_path / "out").rglob("*"):
        said += str(path.relative_to(tmp_path)).encode() + (path.read_bytes() if path.is_file() else b"")
    for mark in (b"IDMARK", b"NAMEMARK", b"19010203", b"ACCMARK", b"OTHERMARK"):
        assert mark not in said
    assert b"Thorax" in said


def test_the_second_run_does_no_pixel_work_and_adds_no_row(
    demo: tuple[Path, Finished], pipeline: Pipeline, sample: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(demo[0], tmp_path / "out"))
    before = index_of(out)
    version = DeltaTable(str(out / "index")).version()
    masks = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    again = pipeline(sample, "--out", out, "--no-spark", "--save-image")
    assert again.code == 0
    assert "2 already done" in again.out
    assert index_of(out) == before
    assert DeltaTable(str(out / "index")).version() == version
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == masks


def test_force_computes_again_and_a_spoilt_mask_is_made_anew(
    demo: tuple[Path, Finished], pipeline: Pipeline, sample: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(demo[0], tmp_path / "out"))
    digests = mask_digests(out)
    spoilt = next(out.rglob("*_dseg.nii.gz"))
    spoilt.write_bytes(spoilt.read_bytes()[:-5])
    mended = pipeline(sample, "--out", out, "--no-spark", "--save-image")
    assert "1 done, 1 already done" in mended.out
    forced = pipeline(sample, "--out", out, "--no-spark", "--save-image", "--force")
    assert "2 done, 0 already done" in forced.out
    assert mask_digests(out) == digests
    assert len(index_of(out)) == 3


def test_an_index_that_was_deleted_comes_back_from_the_receipts(
    demo: tuple[Path, Finished], pipeline: Pipeline, sample: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(demo[0], tmp_path / "out"))
    before = index_of(out)
    shutil.rmtree(out / "index")
    assert pipeline(sample, "--out", out, "--no-spark", "--save-image").code == 0
    assert index_of(out) == before


@pytest.mark.spark
@pytest.mark.slow
def test_spark_on_threads_or_in_executors_makes_the_very_same_masks(
    demo: tuple[Path, Finished], pipeline: Pipeline, sample: Path, tmp_path: Path
) -> None:
    expected = mask_digests(demo[0])
    for name, options in (
        ("threads", ()),
        ("executors", ("--master", "local-cluster[1,2,2048]")),
    ):
        roundabout = f"../{ROOT.name}/{sample.relative_to(ROOT)}"  # as typed at a shell
        done = pipeline(roundabout, "--out", tmp_path / name, "--save-image", *options)
        assert done.code == 0, done.out + done.err
        assert mask_digests(tmp_path / name) == expected
        assert "WARN" not in done.out + done.err
        assert "jdk.incubator" not in done.out + done.err


DEADLY = """
import os
from monai.inferers import Inferer

class Deadly(Inferer):
    def __call__(self, inputs, network):
        os.kill(os.getpid(), 9)
"""


@pytest.mark.spark
@pytest.mark.slow
def test_a_worker_that_dies_is_reported_and_not_shown_as_a_java_stack(
    pipeline: Pipeline, sample: Path, tmp_path: Path
) -> None:
    deadly = Path(shutil.copytree(ROOT / "models" / "hippocampus_mr", tmp_path / "models" / "deadly"))
    config = json.loads((deadly / "configs" / "inference.json").read_text())
    config["inferer"] = {"_target_": "scripts.deadly.Deadly"}
    (deadly / "configs" / "inference.json").write_text(json.dumps(config))
    (deadly / "scripts" / "deadly.py").write_text(DEADLY)
    write_manifest(deadly)
    options = ("--model", "deadly", "--set", f"models.trusted_dirs=[{deadly.parent}]", "--master", "local[1]")
    done = pipeline(sample, "--out", tmp_path / "out", *options)
    assert done.code == 4
    assert done.err == ""
    rows = [row for row in index_of(tmp_path / "out").values() if row["status"] == "failed"]
    assert [row["reason_code"] for row in rows] == ["worker-crash"] * 2
    assert "2 times: SIGKILL" in rows[0]["message"]
    assert len(done.out.splitlines()) < 12


@pytest.mark.spark
@pytest.mark.slow
def test_spark_finds_every_file_that_this_process_finds(pipeline: Pipeline, tmp_path: Path) -> None:
    studies = tmp_path / "Studien für Ärzte 100%25 [a]{b}"
    write_ct(dataclasses.replace(SPEC, file_names="no-extension"), studies / "plain")
    write_ct(dataclasses.replace(SPEC, series_number=2), studies / "_hidden" / "von Spark")
    write_ct(dataclasses.replace(SPEC, series_number=3), studies / ".dotted")
    write_text_files(studies / "texts", 3)
    (studies / "empty.dcm").touch()
    (studies / os.fsdecode(b"Stra\xdfe")).mkdir()
    shutil.copy(
        studies / "texts" / "notes_000.txt", studies / os.fsdecode(b"Stra\xdfe") / os.fsdecode(b"M\xfcller.dcm")
    )
    deep = studies.joinpath(*["d" * 200] * 15)
    deep.mkdir(parents=True)
    (deep / "linked").symlink_to(next((studies / "plain").iterdir()))
    (studies / "loop").symlink_to(studies)
    options = ("--model", "none", "--set", "index.format=parquet")
    local = pipeline(studies, "--out", tmp_path / "local", "--no-spark", *options)
    spark = pipeline(studies, "--out", studies / "results", *options)
    assert local.code == spark.code == 0, spark.out + spark.err
    assert (
        local.out.splitlines()[0]
        == spark.out.splitlines()[0]
        == "files: 25 DICOM, 1 empty-file, 4 not-dicom, 1 copies of an instance"
    )
    assert "3 done" in spark.out
    again = pipeline(studies, "--out", studies / "results", *options)
    assert again.out.splitlines()[0] == spark.out.splitlines()[0], "results below the studies are no input"


def packed(folder: Path, kind: str, prefix: str = "") -> None:
    """Replace a folder by an archive of it."""
    members = [(path, f"{prefix}{path.relative_to(folder)}") for path in sorted(folder.rglob("*"))]
    if kind == "zip":
        with zipfile.ZipFile(f"{folder}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path, name in members:
                archive.write(path, name)
    else:
        with tarfile.open(f"{folder}.{kind}", "w" if kind == "tar" else "w:gz") as archive:
            for path, name in members:
                archive.add(path, name)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five series: one in plain files, the others in archives of all kinds, a damaged archive among them."""
    studies = tmp_path_factory.mktemp("archived")
    for number, (kind, prefix) in enumerate([("", ""), ("zip", ""), ("tar", ""), ("tar.gz", "./"), ("tgz", "a/b/")]):
        folder = studies / f"series{number}"
        syntax = "1.2.840.10008.1.2.4.80" if number == 1 else "1.2.840.10008.1.2.1"
        write_ct(dataclasses.replace(SPEC, series_number=number, transfer_syntax=syntax), folder)
        if kind:
            packed(folder, kind, prefix)
    write_enhanced_ct(dataclasses.replace(SPEC, series_number=7), studies / "volume" / "v.dcm")
    packed(studies / "volume", "zip")
    with zipfile.ZipFile(studies / "spoilt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(range(256)) * 4000)
    content = bytearray((studies / "spoilt.zip").read_bytes())
    content[60:400] = bytes(340)
    (studies / "spoilt.zip").write_bytes(content)
    (studies / "damaged.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with zipfile.ZipFile(studies / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escaped.dcm", bytes(50_000_000))
    return studies


def image_digests(out: Path) -> dict[str, str]:
    return {uid: row["output_digests"].get(row["image_path"], "") for uid, row in index_of(out).items()}


def test_archives_are_read_like_folders(archived: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    done = pipeline(archived, "--out", tmp_path / "out", "--no-spark", "--model", "none", "--verbose")
    assert done.code == 0, done.out + done.err
    assert "files: 41 DICOM, 1 not-dicom, 2 unreadable-file" in done.out
    rows = index_of(tmp_path / "out")
    assert sorted(row["series_number"] for row in rows.values()) == [0, 1, 2, 3, 4, 7]
    assert {row["status"] for row in rows.values()} == {"done"}
    assert not (tmp_path / "escaped.dcm").exists()


@pytest.mark.spark
@pytest.mark.slow
def test_bytes_by_path_or_by_content_make_the_same_volumes(archived: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    options = ("--model", "none", "--set", "identity.secret_file=" + str(tmp_path / "secret"))
    (tmp_path / "secret").write_text("sixteen bytes or more")
    digests = {}
    for name, more in (
        ("local", ("--no-spark",)),
        ("path", ("--master", "local[2]")),
        ("content", ("--master", "local[2]", "--set", "intake.transport=content")),
    ):
        done = pipeline(archived, "--out", tmp_path / name, *options, *more)
        assert done.code == 0, done.out + done.err
        digests[name] = image_digests(tmp_path / name)
    assert len(digests["local"]) == 6
    assert digests["path"] == digests["content"] == digests["local"]


def test_six_real_series_become_images_and_masks_on_their_own_voxels(
    shared: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = shared / "data" / "hippocrop_dicom"
    done = pipeline(folder / "dicom", "--out", tmp_path / "out", "--no-spark", "--save-image")
    assert done.code == 0, done.err
    rows = index_of(tmp_path / "out").values()
    assert [row["status"] for row in rows] == ["done"] * 6
    for row in rows:
        image, mask = (nib.load(tmp_path / "out" / row[key]) for key in ("image_path", "mask_path"))
        reference = nib.as_closest_canonical(nib.load(folder / "reference" / f"{row['series_uid']}.nii.gz"))
        np.testing.assert_allclose(image.affine, reference.affine, atol=1e-5)
        np.testing.assert_allclose(image.get_fdata(), reference.get_fdata(), atol=0.65)
        assert mask.shape == reference.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert set(np.unique(np.asanyarray(mask.dataobj))) == {0, 1, 2}


def test_the_index_holds_what_it_promises(demo: tuple[Path, Finished]) -> None:
    promised = """study_uid series_uid modality series_description subject_key status reason_code message hint
        image_path mask_path model_name model_version model_digest fingerprint n_slices shape spacing_mm volumes_ml
        stage_seconds peak_rss_mb peak_device_mb device host run_id attempt started_at finished_at versions"""
    frame = DeltaTable(str(demo[0] / "index")).to_pandas()
    assert set(promised.split()) <= set(frame.columns)
    assert list(frame.columns) == SCHEMA.names
    done = frame[frame.status == "done"]
    assert (done.peak_rss_mb > 100).all()
    assert {stage for stage, _ in done.stage_seconds.iloc[0]} >= {"decode", "preprocess", "network", "write"}


def test_one_bad_series_stops_no_other(pipeline: Pipeline, tmp_path: Path) -> None:
    write_ct(SPEC, tmp_path / "in" / "good")
    bad = write_ct(
        dataclasses.replace(SPEC, shape=(40, 40, 8), series_number=2, transfer_syntax="1.2.840.10008.1.2.4.90"),
        tmp_path / "in" / "bad",
    )
    content = bytearray(bad.paths[3].read_bytes())
    at = content.index(b"\xff\x4f\xff\x51")  # start of the codestream and its size marker
    content[at : at + 60] = bytes(60)
    bad.paths[3].write_bytes(content)
    done = pipeline(tmp_path / "in", "--out", tmp_path / "out", "--no-spark", "--model", "none")
    rows = {row["series_number"]: row for row in index_of(tmp_path / "out").values()}
    assert rows[1]["status"] == "done"
    assert (done.code, rows[2]["status"], rows[2]["reason_code"]) == (4, "failed", "decode-failed")
    assert "Traceback" not in done.out + done.err


def test_what_cannot_work_is_refused_in_one_line(pipeline: Pipeline, sample: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_text_files(tmp_path / "texts", 4)
    (tmp_path / "file").touch()
    out = ("--out", tmp_path / "out", "--no-spark")
    for arguments, code, says in (
        ((tmp_path / "absent", *out), 2, "studies-not-found"),
        ((tmp_path / "file", *out), 2, "is a file"),
        ((tmp_path / "empty", *out), 3, "0 series found"),
        ((tmp_path / "texts", *out), 3, "4 not-dicom"),
        ((sample, *out, "--set", "nonsense=1"), 2, "unknown setting nonsense"),
        ((sample, *out, "--model", "absent"), 2, "model-not-found"),
        ((sample, *out, "--config", tmp_path / "absent.yaml"), 2, "cannot read"),
        ((sample, *out, "--device", "cuda:9"), 2, "device-not-found"),
        ((sample, "--out", tmp_path / "file" / "below", "--no-spark"), 2, "out-not-writable"),
        ((sample, "--out", tmp_path / "night [1]", "--no-spark"), 2, "with [ ] in its name; name another --out"),
        ((sample,), 2, "--out"),
    ):
        done = pipeline(*arguments)
        assert done.code == code, (arguments, done)
        assert says in done.out + done.err
        assert "Traceback" not in done.out + done.err
        if code == 2 and "--out" in arguments:
            assert len(done.err.splitlines()) == 1


def test_without_java_one_line_tells_the_remedy(pipeline: Pipeline, sample: Path, tmp_path: Path) -> None:
    for env, says in (
        ({"PATH": "/nowhere", "JAVA_HOME": ""}, "no Java runtime in PATH"),
        ({"JAVA_HOME": "/nowhere"}, "no Java runtime in JAVA_HOME=/nowhere"),
    ):
        done = pipeline(sample, "--out", tmp_path / "out", env=env)
        assert done.code == 2
        assert says in done.err
        assert "openjdk-17-jre-headless" in done.err
        assert len(done.err.splitlines()) == 1


def test_an_old_java_is_refused_by_its_number(pipeline: Pipeline, sample: Path, tmp_path: Path) -> None:
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.20\" 2023-07-18' >&2\n")
    java.chmod(0o755)
    done = pipeline(sample, "--out", tmp_path / "out", env={"JAVA_HOME": str(tmp_path / "jdk")})
    assert done.code == 2
    assert "is Java 11; Spark needs 17 or newer" in done.err


def test_a_dry_run_explains_every_series_and_writes_nothing(pipeline: Pipeline, sample: Path, tmp_path: Path) -> None:
    done = pipeline(sample, "--out", tmp_path / "out", "--dry-run", "--no-spark")
    assert done.code == 0
    assert done.out.count("taken: 40 x ") + done.out.count("taken: 56 x ") == 2
    assert "skipped: localizer" in done.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["IN", "--out", "OUT", "--dry-run", "--no-spark"]])
def test_help_and_dry_run_load_neither_torch_nor_spark(
    arguments: list[str], pipeline: Pipeline, sample: Path, tmp_path: Path
) -> None:
    probe = tmp_path / "sitecustomize.py"
    probe.write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('LOADED', *sorted({'torch', 'monai', 'pyspark', 'py4j'} & set(sys.modules))))\n"
    )
    arguments = [{"IN": str(sample), "OUT": str(tmp_path / "out")}.get(word, word) for word in arguments]
    done = pipeline(*arguments, env={"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "PATH": "/nowhere"})
    assert done.code == 0
    assert done.out.splitlines()[-1].split() == ["LOADED"]
