"""The command on studies and results in a bucket: a real S3 server on the loopback interface."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from deltalake import DeltaTable

from imaging_pipeline.records import Status
from imaging_pipeline.results.receipt import read_receipts
from sample_data.phantom import CtSpec, write_ct
from tests.conftest import ROOT, Finished
from tests.s3 import BUCKET, KEY, S3, SECRET
from tests.test_run import index_of, mask_digests, packed
from tests.test_watch import running, wait_for

Pipeline = Callable[..., Finished]
Run = Callable[..., Finished]
SPEC = CtSpec(shape=(32, 24, 8), spacing_mm=(2.0, 2.0, 4.0))


@pytest.fixture(scope="module")
def run(pipeline: Pipeline, s3: S3) -> Run:
    """The command, with the server's address and credentials in its environment."""

    def call(*arguments: object, **more: str) -> Finished:
        return pipeline(*arguments, env={**s3.env, **more})

    return call


@pytest.fixture(scope="module")
def studies(s3: S3, sample: Path) -> str:
    return s3.upload(sample, "studies")


@pytest.fixture(scope="module")
def local(pipeline: Pipeline, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the masks that folders give."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert pipeline(sample, "--out", out, "--no-spark").code == 0
    return mask_digests(out)


@pytest.fixture(scope="module")
def demo(run: Run, studies: str) -> Finished:
    wanted = ("--save-image", "--save-probabilities", "--format", "nifti,seg")
    return run(studies, "--out", f"s3a://{BUCKET}/demo/", "--no-spark", *wanted)


def rows_of(s3: S3, name: str) -> dict[str, dict[str, Any]]:
    table = DeltaTable(f"s3://{BUCKET}/{name}/index", storage_options=s3.delta_options)
    rows = table.to_pyarrow_table().to_pylist(maps_as_pydicts="strict")
    return {f"{row['series_uid']} {row['stack']}": row for row in rows}


def digests_of(s3: S3, name: str) -> dict[str, str]:
    return {uid: row["output_digests"].get(row["mask_path"], "") for uid, row in rows_of(s3, name).items()}


def test_a_bucket_of_studies_becomes_the_masks_that_a_folder_gives(
    demo: Finished, s3: S3, local: dict[str, str]
) -> None:
    assert demo.code == 0, demo.out + demo.err
    assert demo.err == ""
    assert digests_of(s3, "demo") == local
    names = s3.names("demo")
    assert {"run.json", "dataset_description.json", "dseg.tsv", "identity.key"} <= names
    for row in rows_of(s3, "demo").values():
        assert f"receipts/{row['series_key']}_hippocampusmr.json" in names
        assert set(row["output_digests"]) <= names
    told = json.loads(s3.client.cat(f"{BUCKET}/demo/run.json"))
    assert told["exit_code"] == 0
    assert f"logs/{told['run_id']}.run.json" in names


def test_probabilities_in_a_bucket_are_those_of_the_mask(demo: Finished, s3: S3) -> None:
    row = next(row for row in rows_of(s3, "demo").values() if row["status"] == "done")
    values = np.load(BytesIO(s3.client.cat(f"{BUCKET}/demo/{row['probabilities_path']}")))
    assert (values.dtype, values.shape[1:]) == (np.float16, tuple(row["shape"]))
    np.testing.assert_allclose(values.astype(np.float32).sum(0), 1, atol=2e-3)


def test_a_seg_in_a_bucket_is_whole_and_of_its_patient(demo: Finished, s3: S3, sample: Path) -> None:
    patients = {str(pydicom.dcmread(path).PatientID) for path in sample.rglob("*.dcm")}
    for row in rows_of(s3, "demo").values():
        if row["status"] == "done":
            seg = pydicom.dcmread(BytesIO(s3.client.cat(f"{BUCKET}/demo/{row['dicom_paths']['seg']}")))
            assert seg.PatientID in patients
            assert len(seg.pixel_array) == seg.NumberOfFrames


def test_no_secret_is_in_what_a_run_leaves_behind(demo: Finished, s3: S3) -> None:
    client = s3.client
    left = b"".join(client.cat(f"{BUCKET}/demo/{name}") for name in s3.names("demo"))
    left += (demo.out + demo.err).encode()
    assert SECRET.encode() not in left
    assert KEY.encode() not in left


def test_the_second_run_in_a_bucket_does_nothing_until_a_mask_is_spoilt(
    demo: Finished, run: Run, s3: S3, studies: str, local: dict[str, str]
) -> None:
    client, before = s3.client, s3.names("demo")
    again = run(studies, "--out", f"s3://{BUCKET}/demo", "--no-spark", "--save-image", "--save-probabilities")
    assert "0 done, 2 already done" in again.out, again.out + again.err
    told = ("logs/", "lock/", "audit.jsonl/")  # of every run
    assert {name for name in s3.names("demo") - before if not name.startswith(told)} == set()
    mask = next(name for name in before if name.endswith("_dseg.nii.gz"))
    client.pipe_file(f"{BUCKET}/demo/{mask}", client.cat(f"{BUCKET}/demo/{mask}")[:-1])
    mended = run(studies, "--out", f"s3://{BUCKET}/demo", "--no-spark", "--save-image", "--save-probabilities")
    assert "1 done, 1 already done" in mended.out
    assert digests_of(s3, "demo") == local


def test_an_index_that_was_deleted_from_a_bucket_comes_back_from_the_receipts(
    demo: Finished, run: Run, s3: S3, studies: str
) -> None:
    before = rows_of(s3, "demo")
    s3.client.rm(f"{BUCKET}/demo/index", recursive=True)
    assert run(studies, "--out", f"s3://{BUCKET}/demo", "--no-spark").code == 0
    assert rows_of(s3, "demo") == before


def test_a_folder_of_studies_goes_into_a_bucket_and_a_bucket_into_a_folder(
    run: Run, s3: S3, sample: Path, studies: str, local: dict[str, str], tmp_path: Path
) -> None:
    there = run(sample, "--out", f"s3://{BUCKET}/uploaded", "--no-spark", "--set", "index.format=parquet")
    assert there.code == 0, there.err
    assert "index/index.parquet" in s3.names("uploaded")
    back = run(studies, "--out", tmp_path / "out", "--no-spark")
    assert back.code == 0, back.err
    assert mask_digests(tmp_path / "out") == local


@pytest.mark.spark
@pytest.mark.slow
def test_spark_works_on_buckets_as_one_process_does(run: Run, s3: S3, studies: str, local: dict[str, str]) -> None:
    out = f"s3://{BUCKET}/spark"
    done = run(studies, "--out", out, "--master", "local[2]")
    assert done.code == 0, done.out + done.err
    assert digests_of(s3, "spark") == local
    assert any(name.endswith(".spark.log") for name in s3.names("spark"))
    again = run(studies, "--out", out, "--master", "local[2]")
    assert "0 done, 2 already done" in again.out
    content = run(studies, "--out", out, "--master", "local[2]", "--set", "intake.transport=content")
    assert (content.code, content.err.count("\n")) == (2, 1)
    assert "settings-invalid: intake.transport is content" in content.err


@pytest.mark.spark
@pytest.mark.slow
def test_spark_puts_a_folder_of_studies_into_a_bucket(run: Run, s3: S3, sample: Path, local: dict[str, str]) -> None:
    done = run(sample, "--out", f"s3://{BUCKET}/spark-uploaded", "--master", "local-cluster[1,2,2048]")
    assert done.code == 0, done.out + done.err
    assert digests_of(s3, "spark-uploaded") == local


def test_the_next_night_opens_only_files_that_are_new_in_the_bucket(run: Run, s3: S3, tmp_path: Path) -> None:
    write_ct(dataclasses.replace(SPEC, series_number=1), tmp_path / "in" / "one")
    studies, out = s3.upload(tmp_path / "in", "nights"), f"s3://{BUCKET}/nights-out"
    options = ("--no-spark", "--model", "none", "--set", "logs.format=json")
    assert "1 done" in run(studies, "--out", out, *options).out
    names = s3.names("nights-out")
    assert "metrics.prom" in names
    assert any(name.startswith("logs/") and name.endswith("Z.jsonl") for name in names)
    (cached,) = (name for name in s3.names("nights-out") if name.startswith("cache/headers/"))
    assert b"PHANTOM" not in s3.client.cat(f"{BUCKET}/nights-out/{cached}").upper()
    write_ct(dataclasses.replace(SPEC, series_number=2, seed=2), tmp_path / "new" / "two")
    s3.upload(tmp_path / "new", "nights")
    asked = tmp_path / "asked"
    night = run(studies, "--out", out, *options, **patched(tmp_path, COUNTED), ASKED=str(asked))
    assert "1 done, 1 already done" in night.out, night.out + night.err
    assert len(asked.read_text().split()) == 2 * SPEC.shape[2]  # headers in the command, pixels in its worker


def patched(folder: Path, text: str) -> dict[str, str]:
    """Environment of a command that, like every process it starts, runs a text first."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)])}


COUNTED = """
import os
import s3fs

call = s3fs.S3FileSystem._call_s3

async def counted(self, method, *arguments, **more):
    if more.get("Key", "").startswith("nights/"):
        with open(os.environ["ASKED"], "a") as asked:
            asked.write(more["Key"] + chr(10))
    return await call(self, method, *arguments, **more)

s3fs.S3FileSystem._call_s3 = counted
"""


def test_a_watch_on_a_bucket_does_what_arrives_and_ends_when_it_is_asked_to(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    write_ct(dataclasses.replace(SPEC, series_number=1), tmp_path / "a" / "one")
    write_ct(dataclasses.replace(SPEC, series_number=2, seed=2), tmp_path / "b" / "two")
    studies, store = s3.upload(tmp_path / "a", "watched"), s3.store("watched-out")
    options = ("--no-spark", "--model", "none", "--watch", "0.3")
    with running(studies, "--out", store, *options, cwd=tmp_path) as watching:
        wait_for(lambda: len(list(read_receipts(store))) == 1)
        s3.upload(tmp_path / "b", "watched")
        wait_for(lambda: sum(receipt.status is Status.DONE for receipt in read_receipts(store)) == 2)
        watching.send_signal(signal.SIGTERM)
        said, errors = watching.communicate(timeout=60)
    assert watching.returncode == 0, errors
    assert said.count("1 done") == 2
    assert not [name for name in s3.names("watched-out") if name.endswith(".stop")]


KILLED = """
import os, sys

if "imaging_pipeline.workers.child" in " ".join(sys.orig_argv):
    from imaging_pipeline import case

    def killed(*_):
        os.kill(os.getppid(), 9)
        os.kill(os.getpid(), 9)

    case.write_receipt = killed
"""


def test_a_run_that_is_killed_between_mask_and_receipt_leaves_nothing_that_counts_as_done(
    run: Run, s3: S3, studies: str, local: dict[str, str], tmp_path: Path
) -> None:
    out = f"s3://{BUCKET}/killed"
    died = run(studies, "--out", out, "--no-spark", **patched(tmp_path, KILLED))
    assert died.code == -9
    assert any(name.endswith("_dseg.nii.gz") for name in s3.names("killed"))
    after = run(studies, "--out", out, "--no-spark")
    assert "2 done, 0 already done" in after.out, after.out + after.err
    assert digests_of(s3, "killed") == local


def test_a_dry_run_writes_nothing_into_a_bucket(run: Run, s3: S3, studies: str) -> None:
    planned = run(studies, "--out", f"s3://{BUCKET}/dry", "--no-spark", "--dry-run")
    assert planned.code == 0, planned.err
    assert planned.out.count("taken: ") == 2
    assert s3.names("dry") == set()


def test_results_below_the_studies_are_no_input(run: Run, s3: S3, sample: Path) -> None:
    studies = s3.upload(sample, "nested")
    first = run(studies, "--out", f"{studies}/results", "--no-spark", "--model", "none")
    again = run(studies, "--out", f"{studies}/results", "--no-spark", "--model", "none")
    assert again.out.splitlines()[0] == first.out.splitlines()[0] == "files: 87 DICOM, 1 not-dicom"


def test_archives_in_a_bucket_are_read_like_folders(run: Run, s3: S3, tmp_path: Path) -> None:
    for number, kind in enumerate(["", "zip", "tar", "tar.gz"]):
        folder = tmp_path / "in" / f"series {number} #ä%41"
        write_ct(dataclasses.replace(SPEC, series_number=number), folder)
        if kind:
            packed(folder, kind)
    (tmp_path / "in" / "damaged.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "in" / "empty.dcm").touch()
    studies = s3.upload(tmp_path / "in", "archived")
    done = run(studies, "--out", tmp_path / "out", "--no-spark", "--model", "none")
    assert done.code == 0, done.out + done.err
    assert "files: 32 DICOM, 1 empty-file, 1 unreadable-file" in done.out
    assert sorted(row["series_number"] for row in index_of(tmp_path / "out").values()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("named", "out", "env", "says"),
    [
        ("s3://no-such-bucket/a", "s3://{}/bad", {}, "studies-not-found: s3://no-such-bucket/a cannot be listed"),
        ("s3://{}/nothing-here", "s3://{}/bad", {}, "studies-not-found: there is nothing below"),
        ("s3://{}/studies/notes.txt", "s3://{}/bad", {}, "studies-not-found: s3://hospital/studies/notes.txt is a"),
        ("s3://{}/studies", "s3://no-such-bucket/b", {}, "out-not-writable: cannot write to s3://no-such-bucket/b"),
        ("s3://{}/studies", "s3://{}/bad", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "out-not-writable: "),
        ("s3://{}/studies", "/tmp", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "studies-not-found: "),
        ("s3://{}/studies", "s3://{}/bad", {"AWS_PROFILE": "nobody"}, "out-not-writable: "),
        ("s3://{}/studies", "s3://{}/bad", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "out-not-writable: "),
    ],
)  # fmt: skip
def test_what_keeps_a_run_from_its_buckets_is_said_in_one_line(
    named: str, out: str, env: dict[str, str], says: str, run: Run, demo: Finished
) -> None:
    more = ("--dry-run",) if out == "/tmp" else ()
    refused = run(named.format(BUCKET), "--out", out.format(BUCKET), "--no-spark", "--model", "none", *more, **env)
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert line.startswith(f"imaging_pipeline: {says}")
    assert "; " in line


def test_credentials_and_address_of_a_profile_serve_for_files_and_index(
    pipeline: Pipeline, s3: S3, sample: Path, tmp_path: Path
) -> None:
    keys = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(f"[night]\n{keys}[default]\n")
    (tmp_path / "config").write_text(f"[profile night]\nendpoint_url = {s3.endpoint}\nregion = eu-central-1\n")
    names = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
    env = {key: str(tmp_path / name) for key, name in names.items()}
    out = f"s3://{BUCKET}/profile"
    options = ("--no-spark", "--model", "none", "--set", "storage.s3.profile=night")
    done = pipeline(sample, "--out", out, *options, env=env)
    assert done.code == 0, done.out + done.err
    assert len(rows_of(s3, "profile")) == 3
