"""DICOM outputs on their way to a PACS: a real Orthanc, stopped, refused and asked again."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.pacs.destination import parse_destination
from imaging_pipeline.records import Status
from imaging_pipeline.results.receipt import read_receipts, write_receipt
from imaging_pipeline.send import main as send
from imaging_pipeline.settings import resolve
from imaging_pipeline.stores import LocalStore
from tests.conftest import ROOT
from tests.pacs import Orthanc, encoded, frames_of, orthanc_in, result_of, secondary_capture, write_results
from tests.s3 import S3, _die_with_parent, _free_ports
from tests.test_watch import wait_for

QUICK = ["--set", "send.tries=1", "--set", "send.timeout_seconds=20"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc_in(tmp_path_factory.mktemp("orthanc")) as found:
        yield found


@pytest.fixture
def orthanc(server: Orthanc) -> Orthanc:
    """An empty PACS that runs."""
    if server.process is None:
        server.start()
    server.clear()
    return server


@pytest.fixture
def out(tmp_path: Path) -> LocalStore:
    return LocalStore(root=tmp_path / "out")


@contextmanager
def sending(out: LocalStore, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "imaging_pipeline.send", str(out.root), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=out.root
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def records(out: LocalStore) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((out.root / "sent").rglob("[!.]*.json"))]


def n_changes(orthanc: Orthanc) -> int:
    return int(orthanc.get("/changes?last")["Last"])


# what arrives


@pytest.mark.parametrize("how", ["node", "web"], ids=["C-STORE", "STOW-RS"])
def test_objects_are_found_under_the_patients_study_and_a_second_time_nothing_goes(
    how: str, orthanc: Orthanc, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = getattr(orthanc, how)
    sample = write_results(out, 3, objects_each=2)
    assert send([str(out.root), "--send", destination]) == 0
    assert "6 sent, 0 already there, 0 not sent" in capsys.readouterr().out
    found = orthanc.instances()
    assert found.keys() == set(sample.uids)
    assert {(each["study"], each["patient"]) for each in found.values()} == {(sample.study_uid, "P-17")}
    assert frames_of(orthanc, sample.uids) == {3}
    one = out.root / records(out)[0]["path"]
    url = f"http://127.0.0.1:{orthanc.http_port}/instances/{found[dcmread(one).SOPInstanceUID]['id']}/file"
    with urllib.request.urlopen(url) as stream:
        assert dcmread(BytesIO(stream.read())) == dcmread(one)

    before, changes = records(out), n_changes(orthanc)
    assert send([str(out.root), "--send", destination]) == 0
    assert "0 sent, 6 already there, 0 not sent" in capsys.readouterr().out
    assert (records(out), n_changes(orthanc)) == (before, changes)


def test_a_record_says_what_arrived_where_and_when(orthanc: Orthanc, out: LocalStore) -> None:
    sample = write_results(out, 1)
    send([str(out.root), "--send", orthanc.node])
    (record,) = records(out)
    (receipt,) = read_receipts(out)
    assert record["destination"] == orthanc.node
    assert record["sop_instance_uid"] == sample.uids[0]
    assert receipt.output_digests[record["path"]] == record["digest"]
    assert (record["status"], record["commitment"]) == ("0000", "none")
    assert record["sent_at"].startswith("20")


def test_another_destination_gets_everything_too(orthanc: Orthanc, out: LocalStore) -> None:
    write_results(out, 2)
    assert send([str(out.root), "--send", orthanc.node]) == 0
    assert send([str(out.root), "--send", orthanc.web]) == 0
    assert {record["destination"] for record in records(out)} == {orthanc.node, orthanc.web}
    assert len(records(out)) == 4


def test_only_finished_series_are_sent(orthanc: Orthanc, out: LocalStore) -> None:
    sample = write_results(out, 1)
    (receipt,) = read_receipts(out)
    write_receipt(out, replace(receipt, status=Status.FAILED), b"key")
    assert send([str(out.root), "--send", orthanc.node]) == 0
    assert sample.uids[0] not in orthanc.instances()


def test_results_in_a_bucket_are_sent_and_what_was_sent_is_noted_there(
    orthanc: Orthanc, s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    out = s3.store("to-send")
    sample = write_results(out, 2)
    assert send([str(out), "--send", orthanc.node]) == 0
    assert orthanc.instances().keys() == set(sample.uids)
    assert len([name for name in s3.names("to-send") if name.startswith("sent/")]) == 2
    assert send([str(out), "--send", orthanc.node]) == 0
    assert "0 sent, 2 already there" in capsys.readouterr().out


# what breaks


@pytest.mark.parametrize(("how", "n"), [("node", 40), ("web", 80)], ids=["C-STORE", "STOW-RS"])
def test_a_pacs_that_dies_in_the_middle_gets_the_rest_later_and_nothing_twice(
    how: str, n: int, orthanc: Orthanc, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = getattr(orthanc, how)
    sample = write_results(out, n)
    with sending(out, "--send", destination, *QUICK) as process:
        wait_for(lambda: len(records(out)) >= 5)
        orthanc.stop(signal.SIGKILL)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 7, errors
    assert "send-unreachable" in said
    n_noted = len(records(out))
    assert 5 <= n_noted < n
    orthanc.start()
    assert {record["sop_instance_uid"] for record in records(out)} <= orthanc.instances().keys()
    assert send([str(out.root), "--send", destination]) == 0
    assert f"{n - n_noted} sent, {n_noted} already there, 0 not sent" in capsys.readouterr().out
    assert orthanc.instances().keys() == set(sample.uids)


def test_a_sender_that_is_killed_goes_on_where_it_was(orthanc: Orthanc, out: LocalStore) -> None:
    sample = write_results(out, 40)
    with sending(out, "--send", orthanc.node) as process:
        wait_for(lambda: len(records(out)) >= 3)
        process.kill()
        process.wait()
    assert 3 <= len(records(out)) < 40
    assert send([str(out.root), "--send", orthanc.node]) == 0
    assert orthanc.instances().keys() == set(sample.uids)
    assert len(records(out)) == 40


def test_sigterm_ends_sending_behind_the_object_at_hand(orthanc: Orthanc, out: LocalStore) -> None:
    write_results(out, 40)
    with sending(out, "--send", orthanc.node) as process:
        wait_for(lambda: len(records(out)) >= 3)
        process.terminate()
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors
    assert "waiting" in said
    assert {record["sop_instance_uid"] for record in records(out)} == orthanc.instances().keys()


def test_a_pacs_that_comes_back_within_the_tries_gets_all(orthanc: Orthanc, out: LocalStore) -> None:
    sample = write_results(out, 2)
    orthanc.stop()
    codes: list[int] = []
    patient = ["--set", "send.tries=9", "--set", "send.pause_seconds=0.1"]
    sender = threading.Thread(target=lambda: codes.append(send([str(out.root), "--send", orthanc.node, *patient])))
    sender.start()
    sender.join(0.5)
    assert sender.is_alive()
    orthanc.start()
    sender.join()
    assert codes == [0]
    assert orthanc.instances().keys() == set(sample.uids)


def test_nobody_there_is_send_unreachable_with_the_reason(out: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(out, 2)
    (port,) = _free_ports(1)
    for destination in (f"X@127.0.0.1:{port}", f"http://127.0.0.1:{port}/studies", f"X@no-such-host.invalid:{port}"):
        assert send([str(out.root), "--send", destination, *QUICK]) == 7
        said = capsys.readouterr().out
        assert "failed 2 x send-unreachable" in said
        assert "refused" in said or "not known" in said or "resolution" in said
    assert records(out) == []


@pytest.mark.parametrize("form", ["X@127.0.0.1:{}", "http://127.0.0.1:{}/studies"])
def test_a_pacs_that_never_answers_does_not_hold_up_the_end(
    form: str, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(out, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        destination = form.format(silent.getsockname()[1])
        limits = ["--set", "send.tries=1", "--set", "send.timeout_seconds=0.3"]
        assert send([str(out.root), "--send", destination, *limits]) == 7
    assert "failed 1 x send-unreachable" in capsys.readouterr().out


def test_a_pacs_that_knows_implicit_vr_alone_gets_it(out: LocalStore, tmp_path: Path) -> None:
    if shutil.which("storescp") is None:
        pytest.skip("no storescp here: apt-get install dcmtk")
    sample, (port,) = write_results(out, 1), _free_ports(1)
    command = ["storescp", "+xi", "-od", str(tmp_path), str(port)]
    with subprocess.Popen(command, preexec_fn=_die_with_parent) as process:
        patient = ["--set", "send.tries=20", "--set", "send.pause_seconds=0.05"]
        assert send([str(out.root), "--send", f"ANY@127.0.0.1:{port}", *patient]) == 0
        process.kill()
    (arrived,) = tmp_path.glob(f"*{sample.uids[0]}*")
    assert dcmread(arrived).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    (sent,) = out.root.rglob("*.dcm")
    assert dcmread(arrived).PixelData == dcmread(sent).PixelData


def test_a_pacs_that_is_called_by_another_name_is_send_refused(
    orthanc: Orthanc, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(out, 2)
    again = ["--set", "send.tries=6", "--set", "send.pause_seconds=0.1"]  # it may hang up before its word is heard
    assert send([str(out.root), "--send", f"NOBODY@127.0.0.1:{orthanc.port}", *QUICK, *again]) == 7
    said = capsys.readouterr().out
    assert "failed 2 x send-refused" in said
    assert "called ae title not recognised" in said


def test_one_object_of_a_kind_that_the_pacs_does_not_take_holds_nobody_else_up(
    orthanc: Orthanc, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = write_results(out, 2)
    strange = secondary_capture(sample.study_uid)
    strange.SOPClassUID = strange.file_meta.MediaStorageSOPClassUID = "1.2.826.0.1.3680043.9.9999.1"
    path = "sub-a/strange.dcm"
    write_receipt(out, result_of("f" * 16, sample.study_uid, {path: out.publish(path, encoded(strange))}), b"key")
    assert send([str(out.root), "--send", orthanc.node, *QUICK]) == 7
    said = capsys.readouterr().out
    assert "2 sent, 0 already there, 1 not sent" in said
    assert "failed 1 x send-rejected" in said
    assert orthanc.instances().keys() == set(sample.uids)


def test_an_output_that_is_not_what_its_receipt_says_is_not_sent(
    orthanc: Orthanc, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(out, 3)
    first, second, _ = sorted(out.root.rglob("*.dcm"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    assert send([str(out.root), "--send", orthanc.node]) == 7
    said = capsys.readouterr().out
    assert "1 sent, 0 already there, 2 not sent" in said
    assert said.count("send-unreadable") == 2
    assert len(orthanc.instances()) == 1


# the promise to keep


def test_a_promise_to_keep_is_asked_for_and_noted(orthanc: Orthanc, out: LocalStore) -> None:
    write_results(out, 3)
    listen = f"send.commitment_listen=127.0.0.1:{orthanc.commitment_port}"
    arguments = [str(out.root), "--send", orthanc.node, "--set", "send.commitment=true", "--set", listen]
    assert send(arguments) == 0
    assert {record["commitment"] for record in records(out)} == {"committed"}
    assert all(record["transaction_uid"] and record["answered_at"] for record in records(out))


def test_without_an_answer_objects_are_not_committed_and_only_the_question_is_repeated(
    orthanc: Orthanc, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(out, 2)
    asks = [str(out.root), "--send", orthanc.node, "--set", "send.commitment=true"]
    assert send([*asks, "--set", "send.commitment_seconds=0.5"]) == 7
    assert "failed 2 x send-not-committed" in capsys.readouterr().out
    assert {record["commitment"] for record in records(out)} == {"pending"}
    sent_at = [record["sent_at"] for record in records(out)]
    assert send([*asks, "--set", f"send.commitment_listen=127.0.0.1:{orthanc.commitment_port}"]) == 0
    assert "0 sent, 2 already there" in capsys.readouterr().out
    assert {record["commitment"] for record in records(out)} == {"committed"}
    assert [record["sent_at"] for record in records(out)] == sent_at


def test_an_object_that_the_pacs_lost_is_sent_again(orthanc: Orthanc, out: LocalStore) -> None:
    sample = write_results(out, 2)
    assert send([str(out.root), "--send", orthanc.node]) == 0
    orthanc.clear()
    listen = f"send.commitment_listen=127.0.0.1:{orthanc.commitment_port}"
    asks = [str(out.root), "--send", orthanc.node, "--set", "send.commitment=true", "--set", listen]
    assert send(asks) == 7
    assert {record["commitment"] for record in records(out)} == {"failed"}
    assert send(asks) == 0
    assert orthanc.instances().keys() == set(sample.uids)
    assert {record["commitment"] for record in records(out)} == {"committed"}


# a run that sends


def run(out: LocalStore, studies: Path, *arguments: str) -> int:
    """A run in this process, with a DICOM SEG of every series."""
    from imaging_pipeline.run import main

    try:
        return main([str(studies), "--out", str(out.root), "--no-spark", "--format", "nifti,seg", *arguments])
    finally:
        logging.getLogger().handlers[:] = []


def test_a_run_sends_what_it_makes_and_the_next_one_what_is_left(
    orthanc: Orthanc, out: LocalStore, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(out, sample, "--send", orthanc.node) == 0
    said = capsys.readouterr().out
    n_done = len([receipt for receipt in read_receipts(out) if receipt.status == "done"])
    assert f"{n_done} sent, 0 already there, 0 not sent" in said
    assert len(orthanc.instances()) == n_done
    told = json.loads(out.read("run.json"))
    assert told["sending"] == {
        "destination": orthanc.node,
        "sent": n_done,
        "already_sent": 0,
        "waiting": 0,
        "unsent": {},
    }
    next((out.root / "sent").rglob("*.json")).unlink()
    assert run(out, sample, "--send", orthanc.node) == 0
    assert f"1 sent, {n_done - 1} already there, 0 not sent" in capsys.readouterr().out


def test_a_pacs_that_is_away_fails_no_series_and_send_goes_where_the_run_would_have(
    orthanc: Orthanc, out: LocalStore, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orthanc.stop()
    assert run(out, sample, "--send", orthanc.node, *QUICK) == 7
    said = capsys.readouterr().out
    assert ", 0 failed, in" in said
    assert "x send-unreachable" in said
    told = json.loads(out.read("run.json"))
    n_done = told["series"]["done"]
    assert n_done > 0
    assert (told["exit_code"], told["sending"]["unsent"]) == (7, {"send-unreachable": n_done})
    orthanc.start()
    assert send([str(out.root)]) == 0
    assert len(orthanc.instances()) == n_done


def test_a_watching_run_does_not_wait_for_a_pacs(
    orthanc: Orthanc, out: LocalStore, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imaging_pipeline.stopping import Stop

    stops: list[Stop] = []
    build = Stop.__init__

    def remember(self: Stop, on_request: Callable[[], None]) -> None:
        build(self, on_request)
        stops.append(self)

    monkeypatch.setattr(Stop, "__init__", remember)
    orthanc.stop()
    codes: list[int] = []
    arguments = ("--send", orthanc.node, "--watch", "0.2", "--set", "send.pause_seconds=0.1", "--quiet")
    watching = threading.Thread(target=lambda: codes.append(run(out, sample, *arguments)))
    watching.start()
    try:
        wait_for(lambda: out.exists("run.json") and json.loads(out.read("run.json"))["finished_at"] is not None)
        assert json.loads(out.read("run.json"))["exit_code"] == 0
        assert records(out) == []
        orthanc.start()
        n_done = json.loads(out.read("run.json"))["series"]["done"]
        wait_for(lambda: len(records(out)) == n_done)
    finally:
        stops[0]._event.set()
        watching.join()
    assert codes == [0]
    assert len(orthanc.instances()) == n_done


def test_a_dry_run_sends_nothing_and_help_loads_no_network(orthanc: Orthanc, out: LocalStore, sample: Path) -> None:
    assert run(out, sample, "--send", orthanc.node, "--dry-run") == 0
    assert orthanc.instances() == {}
    script = "import sys\nfrom imaging_pipeline.run import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "sys.exit('pynetdicom' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0


# DICOMweb servers of other makes


class _Faulty(BaseHTTPRequestHandler):
    """Answers what a test wants, one after the other."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    heard: ClassVar[list[tuple[str, str]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append((self.path, self.headers.get("Authorization", "")))
        status, content = self.answers.pop(0) if self.answers else (200, b"{}")
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Location", "/elsewhere/studies")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def faulty() -> Iterator[str]:
    _Faulty.answers, _Faulty.heard = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Faulty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/dicom-web/studies"
        server.shutdown()


FAILED = b'{"00081198":{"vr":"SQ","Value":[{"00081197":{"vr":"US","Value":[%d]}}]}}'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((401, b""), "send-refused"),
        ((301, b""), "send-refused"),
        ((409, FAILED % 0xA900), "send-rejected"),
        ((202, FAILED % 0x0122), "send-rejected"),
        ((200, b"<NativeDicomModel><DicomAttribute tag='00081198'/></NativeDicomModel>"), "send-rejected"),
        ((415, b""), "send-rejected"),
        ((503, b""), "send-unreachable"),
    ],
    ids=str,
)
def test_each_answer_of_a_web_service_has_its_code(
    answer: tuple[int, bytes], code: str, faulty: str, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(out, 1)
    _Faulty.answers = [answer]
    assert send([str(out.root), "--send", faulty, *QUICK]) == 7
    assert f"failed 1 x {code}" in capsys.readouterr().out
    assert records(out) == []
    assert len(_Faulty.heard) == 1


def test_a_service_that_is_busy_or_has_the_object_already_ends_well(faulty: str, out: LocalStore) -> None:
    write_results(out, 1)
    _Faulty.answers = [(503, b""), (429, b""), (409, FAILED % 0x0111)]
    assert send([str(out.root), "--send", faulty, "--set", "send.pause_seconds=0.01"]) == 0
    assert len(records(out)) == 1


def test_a_token_goes_to_the_service_and_nowhere_else(
    faulty: str, out: LocalStore, tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cr3t-t0ken\n")
    _Faulty.answers = [(301, b""), (301, b"")]
    assert run(out, sample, "--send", faulty, "--set", f"send.token_file={token}") == 7
    assert send([str(out.root)]) == 0
    assert len(_Faulty.heard) == 4
    assert set(_Faulty.heard) == {("/dicom-web/studies", "Bearer s3cr3t-t0ken")}
    said = capsys.readouterr()
    left = b"".join(file.read_bytes() for file in out.root.rglob("*") if file.is_file())
    assert b"s3cr3t-t0ken" not in left + (said.out + said.err).encode()


# what is refused before anything goes


@pytest.mark.parametrize(
    "text",
    [
        "pacs:104",
        "A@pacs",
        "A@pacs:0",
        "A@pacs:70000",
        "A-TITLE-THAT-IS-TOO-LONG@pacs:104",
        "@pacs:104",
        "ftp://pacs/studies",
        "https://pacs/dicom-web",
        "https://user:password@pacs/studies",
        "https://pacs/studies?token=x",
    ],
)
def test_a_destination_that_is_none_is_said_before_anything_is_done(
    text: str, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send([str(out.root), "--send", text]) == 2
    said = capsys.readouterr().err
    assert "settings-invalid" in said
    assert "password" not in said


def test_destinations_are_read_as_they_are_written() -> None:
    for text in ("ARCHIVE@pacs.example:104", "A B@[::1]:11112", "https://pacs.example:8443/dicom-web/studies"):
        assert str(parse_destination(text)) == text


@pytest.mark.parametrize(
    ("assignments", "told"),
    [
        (["send.destination=A@h:1", "send.ca_file=ca.pem"], "without TLS"),
        (["send.destination=A@h:1", "send.token_file=t"], "STOW-RS"),
        (["send.destination=https://h/studies", "send.commitment=true"], "commitment"),
        (["send.key_file=k.pem"], "without a certificate"),
        (["send.calling_ae=A_TITLE_MUCH_TOO_LONG"], "16 characters"),
        (["send.commitment_listen=somewhere"], "no address"),
    ],
    ids=str,
)
def test_settings_of_sending_that_do_not_fit_together_are_refused(assignments: list[str], told: str) -> None:
    with pytest.raises(PipelineError, match=told) as caught:
        resolve(assignments=assignments)
    assert caught.value.code is Code.SETTINGS_INVALID


def test_files_that_settings_name_must_be_there_and_a_token_stays_out_of_the_clear(
    out: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(out, 1)
    web, token = "http://pacs.example/studies", tmp_path / "token"
    assert send([str(out.root), "--send", web, "--set", f"send.token_file={token}"]) == 2
    assert "cannot read the token" in capsys.readouterr().err
    certificate = ["--set", f"send.certificate_file={tmp_path}/none.pem"]
    assert send([str(out.root), "--send", "https://pacs.example/studies", *certificate]) == 2
    assert "no certificates" in capsys.readouterr().err
    token.write_text("s3cr3t")
    assert send([str(out.root), "--send", web, "--set", f"send.token_file={token}"]) == 7
    assert "in the clear" in capsys.readouterr().out


def test_results_that_were_never_sent_say_so(out: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(out, 1)
    assert send([str(out.root)]) == 2
    assert "does not say where to send to" in capsys.readouterr().err


def test_a_place_without_results_is_said_rather_than_sent(out: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert send([str(out.root), "--send", "A@127.0.0.1:1"]) == 2
    assert "no receipts" in capsys.readouterr().err
