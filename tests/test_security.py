"""Nothing of a patient leaves the input, nothing of an archive its bounds; files are read by whom they should be."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import io
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydicom.uid import JPEG2000Lossless

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.headers import read_file
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.settings import resolve
from imaging_pipeline.sources import Opener
from imaging_pipeline.spark.session import cause_of
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.stores.settings import ArchiveSettings, StorageSettings
from sample_data.phantom import CtSpec, write_ct
from tests.conftest import ROOT, Finished

Pipeline = Callable[..., Finished]
SPEC = CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0))

MARKS = {
    "PatientBirthDate": "19010203",
    "AccessionNumber": "ACCMARK77",
    "OtherPatientIDs": "OTHERMARK",
    "ReferringPhysicianName": "REFMARK^Doc",
    "InstitutionName": "INSTMARK Hospital",
    "StudyDescription": "STUDYMARK",
    "PatientComments": "COMMENTMARK",
    "StudyID": "STIDMARK",
}
MARKED = ("NAMEMARK", "IDMARK", *(text.split("^")[0].split(" ")[0] for text in MARKS.values()))

FAULT = """
import os, warnings
from pathlib import Path
import imaging_pipeline.case as case
from imaging_pipeline.volume.decode import decode

def open_to_others(process):
    sockets = {os.readlink(f"/proc/{process}/fd/{fd}")[8:-1] for fd in os.listdir(f"/proc/{process}/fd")}
    lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
    return [line[1] for line in lines if line[3] == "0A" and line[9] in sockets and "0100007F:" not in line[1]]

def faulty(task, source):
    if task.identity.series_number == 3:
        import pydicom
        dataset, path = pydicom.dcmread(task.slices[0].path), task.slices[0].path
        warnings.warn(f"an odd name: {dataset.PatientName}")
        try:
            {}[str(dataset.PatientID)]
        except KeyError as error:
            raise ValueError(f"{dataset.PatientName} of {dataset.InstitutionName} in {path}") from error
    process = os.getppid()
    while process > 1 and "java" not in Path(f"/proc/{process}/comm").read_text():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    if process > 1:
        Path(os.environ["PORTS"]).write_text(repr(open_to_others(process)))
    return decode(task, source)

case.decode = faulty
"""


def marked_studies(folder: Path) -> Path:
    """A good series, one with a damaged slice, one that our own code stumbles over, one that is refused."""
    studies = folder / "NAMEMARK_Jane_19010203"
    spec = dataclasses.replace(
        SPEC, patient_id="IDMARK4711", patient_name="NAMEMARK^Jane", extra=MARKS, description="Thorax NAMEMARK 19010203"
    )
    write_ct(dataclasses.replace(spec, series_number=1), studies / "good")
    damaged = dataclasses.replace(spec, series_number=2, shape=(40, 40, 5), transfer_syntax=JPEG2000Lossless)
    path = write_ct(damaged, studies / "damaged").paths[3]
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\x4f\xff\x51")
    content[at : at + 60] = bytes(60)
    path.write_bytes(content)
    write_ct(dataclasses.replace(spec, series_number=3), studies / "faulty")
    write_ct(dataclasses.replace(spec, series_number=4, missing=(2,)), studies / "gap")
    (studies / "NAMEMARK.txt").write_text("NAMEMARK")
    return studies


def everything_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents below a folder, tables and compressed files as what they stand for too."""
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        yield name, name.encode()
        if path.is_file():
            yield name, path.read_bytes()
        if path.suffix == ".parquet":
            yield name, repr(pq.ParquetFile(path).read().to_pylist()).encode()
        if path.suffix == ".gz":
            yield name, gzip.decompress(path.read_bytes())


@pytest.mark.parametrize(
    "options",
    [
        ("--no-spark",),
        pytest.param(
            ("--master", "local[1]", "--set", "logs.format=json"), marks=(pytest.mark.spark, pytest.mark.slow)
        ),
    ],
)
def test_nothing_of_the_patient_is_in_what_a_run_leaves_or_says_even_where_it_fails(
    options: tuple[str, ...], pipeline: Pipeline, tmp_path: Path
) -> None:
    studies, out = marked_studies(tmp_path / "in"), tmp_path / "out"
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(FAULT)
    env = {"PYTHONPATH": f"{tmp_path / 'fault'}{os.pathsep}{ROOT}", "PORTS": str(tmp_path / "ports")}
    arguments = (studies.parent, "--out", out, "--model", "none", *options)
    done = pipeline(*arguments, env=env)
    assert done.code == 4, done.out + done.err
    receipts = [json.loads(path.read_text()) for path in (out / "receipts").iterdir()]
    fates = {receipt["identity"]["series_number"]: receipt["reason_code"] for receipt in receipts}
    assert fates == {1: "", 2: "decode-failed", 3: "internal-error", 4: "missing-slices"}
    message = next(receipt["message"] for receipt in receipts if receipt["identity"]["series_number"] == 3)
    assert message.startswith("ValueError in sitecustomize.py:")
    kind = "*.jsonl" if "logs.format=json" in options else "*.log"
    logs = "".join(path.read_text() for path in (out / "logs").glob(kind))
    assert "KeyError in sitecustomize.py" in logs, "the line is told, behind the error and behind its cause"
    counted = (out / "metrics.prom").read_text()
    assert 'series_processed_total{code="internal-error",status="failed"} 1.0' in counted
    rest = pipeline("rebuild", out, module="index").out + pipeline(out, module="verify").out
    told = [("standard output", done.out.encode()), ("standard error", done.err.encode()), ("commands", rest.encode())]
    leaks = [(where, mark) for where, text in (*told, *everything_in(out)) for mark in MARKED if mark.encode() in text]
    assert leaks == []
    if "--master" in options:
        assert (tmp_path / "ports").read_text() == "[]", "a port of Spark's is open to other machines"


def test_details_of_faults_are_written_where_somebody_asks_for_them(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    write_ct(dataclasses.replace(SPEC, series_number=3, patient_name="NAMEMARK^Jane"), tmp_path / "in")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    settings = ("--model", "none", "--no-spark", "--set", "identity.error_details=true")
    assert pipeline(tmp_path / "in", "--out", tmp_path / "out", *settings, env=env).code == 4
    assert any(b"an odd name: NAMEMARK" in text for _, text in everything_in(tmp_path / "out"))


def test_a_cause_out_of_sparks_mouth_names_no_file() -> None:
    told = "Caused by: java.io.FileNotFoundException: File file:/data/NAMEMARK_Jane/1.dcm does not exist"
    assert cause_of(RuntimeError(told)) == "FileNotFoundException: File ... does not exist"


@pytest.mark.parametrize(("mode", "file_bits", "folder_bits"), [("private", 0o600, 0o700), ("group", 0o640, 0o750)])
def test_whoever_may_read_results_is_a_setting(
    mode: str, file_bits: int, folder_bits: int, pipeline: Pipeline, tmp_path: Path
) -> None:
    write_ct(SPEC, tmp_path / "in")
    setting = ("--set", f"output.file_mode={mode}")
    out = tmp_path / "new" / "out"
    assert pipeline(tmp_path / "in", "--out", out, "--model", "none", "--no-spark", *setting).code == 0
    assert pipeline("rebuild", out, *setting, module="index").code == 0
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (out, *out.rglob("*"))}
    assert found.pop(out / "identity.key") == 0o600
    assert {path: bits for path, bits in found.items() if bits != (folder_bits if path.is_dir() else file_bits)} == {}
    assert any("_delta_log" in path.parts for path in found)


def test_a_file_made_piece_by_piece_is_as_private_as_the_others(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    store = LocalStore(root=tmp_path / "out", mode="private")
    store.scratch("a/b").write_bytes(b"probabilities")
    store.publish_scratch("a/b")
    store.append("log", lambda _: b"line")
    modes = [stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("a", "a/b", "log")]
    assert modes == [0o700, 0o600, 0o600]


def zip_of(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def tar_of(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)


def fates_of(folder: Path, **limits: int) -> dict[str, tuple[Code | None, str]]:
    """Reason and message of every file and member."""
    opener = Opener(StorageSettings(archives=ArchiveSettings(**limits)))
    fates: dict[str, tuple[Code | None, str]] = {}
    for file in list_files(folder):
        for row in read_file(file, opener=opener):
            item = row.plane or row.skipped
            assert item is not None
            name = item.path.removeprefix(f"{folder}/")
            fates[name] = (row.skipped.code, row.skipped.message) if row.skipped else (None, "")
    return fates


@pytest.mark.parametrize(
    ("name", "limits", "says"),
    [
        ("ratio.zip", {"ratio_from_bytes": 1 << 20}, "unpack to 4194304 or more, storage.archives.max_ratio is 200"),
        ("size.zip", {"max_member_bytes": 1 << 20}, "a member of 4194304 bytes, storage.archives.max_member_bytes is"),
        ("ratio.tar.gz", {"ratio_from_bytes": 1 << 20}, "storage.archives.max_ratio is 200"),
        ("size.tar.gz", {"max_archive_bytes": 1 << 20}, "more than storage.archives.max_archive_bytes, 1048576"),
        ("count.zip", {"max_members": 1}, "2 members, storage.archives.max_members is 1"),
        ("count.tar", {"max_members": 1}, "2 members, storage.archives.max_members is 1"),
    ],
)
def test_an_archive_that_unpacks_to_more_than_allowed_is_refused_with_its_own_code(
    name: str, limits: dict[str, int], says: str, tmp_path: Path
) -> None:
    pack = zip_of if name.endswith(".zip") else tar_of
    pack(tmp_path / name, {"a.dcm": bytes(4 << 20), "b.dcm": b"text"})
    refused = {path: fate for path, fate in fates_of(tmp_path, **limits).items() if fate[0] is Code.ARCHIVE_BOMB}
    assert len(refused) == 1
    assert says in next(iter(refused.values()))[1]
    assert Code.ARCHIVE_BOMB not in {code for code, _ in fates_of(tmp_path).values()}, "by default it is small enough"


def test_members_that_climb_out_of_an_archive_are_read_in_place_and_links_lead_nowhere(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    paths = write_ct(SPEC, tmp_path / "made").paths
    contents = [path.read_bytes() for path in paths]
    (tmp_path / "in").mkdir()
    names = [f"{'../' * number}evil{number}.dcm" for number in range(len(contents))]
    zip_of(tmp_path / "in" / "slip.zip", dict(zip(names, contents, strict=True)))
    secret = tmp_path / "secret.dcm"
    secret.write_bytes(contents[0])
    tar_of(tmp_path / "in" / "links.tar", {"a.txt": b"text"}, {"b.dcm": str(secret), "c.dcm": "../../secret.dcm"})
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    done = pipeline(tmp_path / "in", "--out", tmp_path / "out", "--model", "none", "--no-spark", "--verbose")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert done.code == 0, done.err
    assert "files: 5 DICOM" in done.out
    assert "links.tar!/b.dcm" not in done.out or "links.tar!/b.dcm: empty-file" in done.out, done.out
    assert all(path.is_relative_to(tmp_path / "out") for path in new)


def test_no_module_opens_a_pickle_or_yaml_that_could_hold_code() -> None:
    """numpy.load without pickles, torch.load with weights only, yaml by its safe loader, pickles by one inert class."""
    found = []
    for path in sorted((ROOT / "imaging_pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            what, options = ast.unparse(node.func), {item.arg: ast.unparse(item.value) for item in node.keywords}
            unsafe = what in {
                "pickle.load",
                "pickle.loads",
                "pickle.Unpickler",
                "yaml.load",
                "pd.read_pickle",
                "eval",
                "exec",
            }
            unsafe |= what in {"np.load", "numpy.load"} and options.get("allow_pickle") != "False"
            unsafe |= what == "torch.load" and options.get("weights_only") != "True"
            if unsafe:
                found.append(f"{path.name}: {what}")
    assert found == []


@pytest.mark.parametrize(
    "key", ["spark.authenticate.secret", "spark.ssl.keyPassword", "spark.hadoop.fs.s3a.access.key"]
)
def test_a_secret_among_the_settings_which_are_saved_is_refused(key: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"spark:\n  conf:\n    {key}: hidden\n")
    with pytest.raises(PipelineError, match="looks like a secret") as refused:
        resolve(tmp_path / "c.yaml")
    assert "hidden" not in refused.value.message
