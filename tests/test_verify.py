"""What was changed behind a RESULTS' back is found and named; and why a series is computed again is said."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from imaging_pipeline import host, rerun, send, verify
from imaging_pipeline import index as index_command
from imaging_pipeline.identity import KEY_FILE, known_keys
from imaging_pipeline.results.again import Wanted, why_again
from imaging_pipeline.results.audit import Audit
from imaging_pipeline.results.index import open_index
from imaging_pipeline.results.receipt import Found, fingerprint, read_receipts
from imaging_pipeline.results.sweep import sweep
from imaging_pipeline.settings import IdentitySettings, Settings
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.stores.temporary import temporary_name
from sample_data.phantom import CtSpec, write_ct
from tests.conftest import Finished
from tests.s3 import BUCKET, S3
from tests.test_results import result

Pipeline = Callable[..., Finished]
SPEC = CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0))
OPTIONS = ("--no-spark", "--model", "none")


@pytest.fixture(scope="module")
def made(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two series and a localizer's worth of input, and what two runs made of it."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(2):
        write_ct(dataclasses.replace(SPEC, seed=number, series_number=number), folder / "in" / str(number))
    write_ct(dataclasses.replace(SPEC, shape=(16, 12, 2), seed=7, series_number=7), folder / "in" / "few")
    for _ in range(2):
        assert pipeline(folder / "in", "--out", folder / "out", *OPTIONS).code == 0
    return folder / "in", folder / "out"


@pytest.fixture
def out(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "out"))


def said_of(out: Path | str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = verify.main([str(out), *options])
    said = capsys.readouterr()
    return code, said.out + said.err


def a_volume(out: Path) -> Path:
    return min(out.rglob("*.nii.gz"))


def a_receipt(out: Path) -> Path:
    return min(path for path in (out / "receipts").iterdir() if '"done"' in path.read_text())


def audit_lines(out: Path) -> list[bytes]:
    return (out / "audit.jsonl").read_bytes().splitlines(keepends=True)


def test_what_runs_have_written_verifies(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said_of(out, capsys) == (0, "3 receipts, 6 outputs, 8 lines of the audit log: all as written\n")


def flip_a_bit(out: Path) -> None:
    content = bytearray(a_volume(out).read_bytes())
    content[len(content) // 2] ^= 1
    a_volume(out).write_bytes(content)


def edit_a_receipt(out: Path) -> None:
    path = a_receipt(out)
    path.write_text(path.read_text().replace('"attempt": 1', '"attempt": 2'))


def edit_a_receipt_and_its_row(out: Path) -> None:
    edit_a_receipt(out)
    store = LocalStore(root=out)
    open_index(store, "delta").rebuild(lambda: read_receipts(store))


def remove_a_seal(out: Path) -> None:
    content = json.loads(a_receipt(out).read_text())
    del content["seal"]
    a_receipt(out).write_text(json.dumps(content))


def break_a_receipt(out: Path) -> None:
    a_receipt(out).write_text("{")


def swap_two_receipts(out: Path) -> None:
    one, other = sorted((out / "receipts").iterdir())[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def remove_a_row(out: Path) -> None:
    DeltaTable(str(out / "index")).delete("status = 'skipped'")


def edit_a_row(out: Path) -> None:
    DeltaTable(str(out / "index")).update(updates={"attempt": "9"}, predicate="status = 'skipped'")


def forge_a_row(out: Path) -> None:
    open_index(LocalStore(root=out), "delta").commit([result("forged")])


def spoil_the_index(out: Path) -> None:
    for path in (out / "index" / "_delta_log").iterdir():
        path.write_text("{")


def remove_an_output(out: Path) -> None:
    a_volume(out).unlink()


def leave_a_file(out: Path) -> None:
    a_volume(out).with_name("sub-x_ct.nii.gz").write_bytes(b"nobody's")


def remove_a_line(out: Path) -> None:
    lines = audit_lines(out)
    (out / "audit.jsonl").write_bytes(b"".join(lines[:2] + lines[3:]))


def remove_the_last_lines(out: Path) -> None:
    (out / "audit.jsonl").write_bytes(b"".join(audit_lines(out)[:-2]))


def edit_a_line(out: Path) -> None:
    (out / "audit.jsonl").write_bytes(b"".join(audit_lines(out)).replace(b'"exit_code":0', b'"exit_code":4', 1))


def forge_a_line(out: Path) -> None:
    Audit(out=LocalStore(root=out), seal_key=b"another key").record("begun", command="run")


def edit_the_run(out: Path) -> None:
    """As somebody would who wants `rerun` to trust a folder of his."""
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text.replace('"trusted_dirs": [', '"trusted_dirs": ["/tmp/evil",'))


def remove_the_log(out: Path) -> None:
    (out / "audit.jsonl").unlink()


@pytest.mark.parametrize(
    ("spoil", "codes", "says"),
    [
        (flip_a_bit, {"output-changed"}, "has SHA-256"),
        (remove_an_output, {"output-missing"}, "is not there"),
        (leave_a_file, {"output-unlisted"}, "(8 bytes) is named by no receipt"),
        (edit_a_receipt, {"receipt-edited", "row-different"}, "its seal does not fit"),
        (edit_a_receipt_and_its_row, {"receipt-edited"}, "its seal does not fit"),
        (remove_a_seal, {"receipt-edited", "row-different"}, "carries no seal"),
        (break_a_receipt, {"receipt-damaged", "row-extra", "output-unlisted"}, "cannot be read"),
        (swap_two_receipts, {"receipt-edited"}, "is the receipt of another series"),
        (remove_a_row, {"row-missing"}, "a receipt without a row"),
        (edit_a_row, {"row-different"}, "something else than the receipt"),
        (forge_a_row, {"row-extra"}, "series forged, model m: a row without a receipt"),
        (spoil_the_index, {"index-damaged"}, "index rebuild RESULTS"),
        (edit_the_run, {"run-edited"}, "run.json is not as its run wrote it"),
        (remove_a_line, {"audit-broken"}, "before line 3 1 lines are missing"),
        (remove_the_last_lines, {"audit-broken"}, "2 lines are missing at the end: 6 of 8 are there"),
        (edit_a_line, {"audit-broken"}, "line 3 is not as it was written"),
        (forge_a_line, {"audit-broken"}, "line 9 is not as it was written"),
        (remove_the_log, {"audit-broken"}, "has left receipts, and there is no line about it"),
    ],
)
def test_what_was_changed_is_found(
    spoil: Callable[[Path], None], codes: set[str], says: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(out)
    code, said = said_of(out, capsys)
    *flaws, counts = [line for line in said.splitlines() if not line.startswith("note")]
    assert code == 1
    assert says in said
    assert {line.partition(":")[0] for line in flaws} == codes
    assert f"{len(flaws)} not as written" in counts


def test_rerun_and_send_do_not_go_by_a_run_that_was_edited(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_the_run(out)
    assert (rerun.main([str(out), "--failed"]), send.main([str(out)])) == (2, 2)
    said = capsys.readouterr()
    assert said.err.count("run-edited: ") == 2
    assert len(said.err.splitlines()) == 2


def test_a_run_that_was_killed_is_a_note_and_no_flaw(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(root=out)
    audit = Audit(out=store, seal_key=known_keys(store, IdentitySettings()).seal_key)
    audit.record("begun", command="run", run_id="killed")
    code, said = said_of(out, capsys)
    assert code == 0, said
    assert f"on {socket.gethostname()}: no end, it was killed or is still at work" in said


def test_without_its_secret_nothing_is_verified(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = (out / KEY_FILE).rename(out.parent / "secret")
    code, said = said_of(out, capsys)
    assert (code, len(said.splitlines())) == (2, 1)
    assert "identity.secret_file" in said
    assert said_of(out, capsys, "--set", f"identity.secret_file={secret}")[0] == 0
    secret.write_text("another secret of more than sixteen bytes")
    code, said = said_of(out, capsys, "--set", f"identity.secret_file={secret}")
    assert code == 1
    assert said.count("receipt-edited") == 3


def test_each_line_of_the_audit_log_says_who_and_what_and_names_no_input(made: tuple[Path, Path]) -> None:
    studies, out = made
    lines = [json.loads(line) for line in audit_lines(out)]
    assert [line["event"] for line in lines] == ["begun", "planned", "worked", "ended"] * 2
    assert all(line["user"] == host.user_name() and line["host"] == socket.gethostname() for line in lines)
    begun, planned, worked, ended = lines[:4]
    assert (begun["command"], begun["model"]) == ("run", {"name": "none", "sha256": ""})
    assert (planned["inputs"]["series"], planned["inputs"]["slices"], planned["inputs"]["todo"]) == (3, 12, 2)
    assert planned["inputs"]["sha256"] == lines[5]["inputs"]["sha256"], "the same input, the next night"
    assert worked["series"] == {"already_done": 0, "done": 2, "skipped": 1, "failed": 0, "left": 0}
    assert (worked["index_version"], ended["exit_code"]) == (0, 0)
    assert str(studies) not in (out / "audit.jsonl").read_text()


def test_a_run_that_cannot_begin_its_work_is_in_the_audit_log_too(
    made: tuple[Path, Path], pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "java").mkdir()
    env = {"JAVA_HOME": "/nonexistent", "PATH": str(tmp_path / "java")}
    done = pipeline(made[0], "--out", tmp_path / "out", "--model", "none", env=env)
    assert (done.code, "java-missing" in done.err) == (2, True), done.err
    begun, ended = (json.loads(line) for line in audit_lines(tmp_path / "out"))
    assert (begun["event"], ended["event"], ended["error"], ended["exit_code"]) == ("begun", "ended", "java-missing", 2)


def test_a_bucket_keeps_a_line_an_object_and_verifies(
    made: tuple[Path, Path],
    pipeline: Pipeline,
    s3: S3,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/audited"
    assert pipeline(made[0], "--out", url, *OPTIONS).code == 0
    lines = sorted(name.rpartition("/")[2] for name in s3.names("audited") if "audit.jsonl/" in name)
    assert lines == [f"{number:010}.json" for number in (1, 2, 3, 4)]
    assert said_of(url, capsys) == (0, "3 receipts, 6 outputs, 4 lines of the audit log: all as written\n")
    store = s3.store("audited")
    store.remove("audit.jsonl/0000000002.json")
    store.remove("index/_delta_log/00000000000000000000.json")
    code, said = said_of(url, capsys)
    assert code == 1
    assert "before line 2 1 lines are missing" in said
    assert index_command.main(["rebuild", url]) == 0
    assert "3 rows" in capsys.readouterr().out
    code, said = said_of(url, capsys)
    assert (code, "index-damaged" in said, "row-" in said) == (1, False, False), said


def again(pipeline: Pipeline, made: tuple[Path, Path], out: Path, *options: object, studies: Path | None = None) -> str:
    """What a dry run says, and the counts and causes of the run behind it."""
    planned = pipeline(studies or made[0], "--out", out, *OPTIONS, "--dry-run", *options)
    assert planned.code == 0, planned.err
    done = pipeline(studies or made[0], "--out", out, *OPTIONS, *options)
    assert done.code == 0, done.err
    causes = [json.loads(path.read_text())["recomputed_because"] for path in sorted((out / "receipts").iterdir())]
    table = open_index(LocalStore(root=out), "delta").read(["recomputed_because"])
    assert sorted(table.column(0).to_pylist()) == sorted(causes)
    counts = json.loads((out / "run.json").read_text())["recomputed"]
    return "\n".join([planned.out, done.out, *causes, str(counts)])


def test_changed_settings_are_named_as_the_cause(made: tuple[Path, Path], out: Path, pipeline: Pipeline) -> None:
    said = again(pipeline, made, out, "--set", "geometry.spacing_tolerance=0.03", "--set", "geometry.derived=reject")
    cause = "settings changed (geometry.derived, geometry.spacing_tolerance)"
    assert said.count(f"again: {cause}: 12 x 16 x 5") == 2
    assert said.count("again: 2 x settings changed") == 2
    assert said.count(f"\n{cause}") == 2
    assert "{'settings changed': 2}" in said


def test_changed_inputs_outputs_and_receipts_are_named_as_the_cause(
    made: tuple[Path, Path], out: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    studies = Path(shutil.copytree(made[0], tmp_path / "in"))
    paths = list((out / "receipts").iterdir())
    receipts = {json.loads(path.read_text())["identity"]["series_number"]: path for path in paths}
    min((studies / "0").iterdir()).unlink()
    image = out / json.loads(receipts[1].read_text())["image_path"]
    image.write_bytes(image.read_bytes()[:-1])
    said = again(pipeline, made, out, studies=studies)
    assert "inputs changed (5 slices before, 4 now)" in said
    assert "output changed (ct.nii.gz)" in said
    assert "again: 1 x inputs changed, 1 x output changed" in said
    (out / json.loads(receipts[0].read_text())["image_path"]).unlink()
    receipts[1].write_text(receipts[1].read_text().replace('"n_slices": 5', '"n_slices": 6'))
    said = again(pipeline, made, out, studies=studies)
    assert "again: 1 x output missing, 1 x receipt edited" in said
    forced = pipeline(studies, "--out", out, *OPTIONS, "--force")
    assert "again: 2 x forced" in forced.out


def test_a_changed_model_and_package_version_are_named_as_the_cause(settings: Settings, tmp_path: Path) -> None:
    ours, store = settings, LocalStore(root=tmp_path)
    made_by = {"model_digest": "old", "model_version": "0.3", "versions": {"imaging_pipeline": "0.0.9"}}
    receipt = result("k1", fingerprint=fingerprint(result().identity.inputs_digest, "old", ours), **made_by)

    def why(model: str, **changes: object) -> str:
        found = Found(path="p", receipt=dataclasses.replace(receipt, **changes), is_sealed=True)  # type: ignore[arg-type]
        return why_again(store, found, Wanted(identity=receipt.identity, model_digest=model, settings=ours))

    assert why("old") == ""
    assert why("new") == "model changed (version 0.3 before)"
    assert why("old", fingerprint="other") == "package version changed (0.0.9 before)"
    assert why("old", image_path="", output_digests={"a_dseg.nii.gz": "x"}) == "output missing (dseg.nii.gz)"


WRITER = """
import sys, time
from imaging_pipeline.stores.temporary import temporary_name
open(sys.argv[1] + "/" + temporary_name("mask"), "wb").close()
print("there", flush=True)
time.sleep(60)
"""


def test_files_of_processes_that_are_gone_are_swept_and_those_of_living_ones_are_not(
    out: Path, pipeline: Pipeline, made: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = a_volume(out).parent
    living = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    killed = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        for process in (living, killed):
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
        killed.kill()
        killed.wait()
        elsewhere, long_ago = folder / ".tmp-1-0abcdef0-mask", folder / ".tmp-1-0abcdef1-mask"
        earlier_format, reused = folder / ".tmp-4711-mask", folder / temporary_name("earlier-process")
        for path in (elsewhere, long_ago, earlier_format, reused):
            path.write_bytes(b"half")
        for path in (long_ago, earlier_format, reused):
            os.utime(path, (time.time() - 90_000,) * 2)
        for name in ("stale", "recent"):
            (out / "logs" / f".{name}.stop").touch()
        (out / "logs" / "stale.run.json").write_text('{"finished_at": "2026-01-01"}')
        # not the machine's folder: other tests kill processes at the same time
        done = pipeline(made[0], "--out", out, *OPTIONS, env={"TMPDIR": str(tmp_path)})
        left = {path.name.split("-")[1] for path in folder.iterdir() if path.name.startswith(".tmp-")}
        assert left == {str(living.pid), "1"}
        assert elsewhere.exists()
        assert "removed 5 unfinished files and markers of runs that were killed" in done.out
        assert [path.name for path in (out / "logs").glob(".*.stop")] == [".recent.stop"]
    finally:
        living.kill()
        living.wait()
        killed.stdout.close()  # type: ignore[union-attr]
        living.stdout.close()  # type: ignore[union-attr]


def test_a_sweep_of_results_that_are_not_there_yet_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert sweep(LocalStore(root=tmp_path / "absent")) == 0
