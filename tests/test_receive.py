"""A modality sends, and a folder fills: dcmtk's storescu against the receiver."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid
from pynetdicom import AE, build_context

from imaging_pipeline.intake.listing import list_files, list_passed_over
from imaging_pipeline.pacs.inbox import Inbox, RefusalError, open_inbox
from imaging_pipeline.receive import main as receive
from imaging_pipeline.send import main as send
from imaging_pipeline.stores import LocalStore
from sample_data.phantom import CtSpec, write_ct
from tests.conftest import ROOT
from tests.pacs import encoded, secondary_capture, write_results
from tests.test_watch import done_in, running, wait_for

QUICK_LINES = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True)
class Receiver:
    """One that listens.

    Attributes:
        process: It.
        into: Its folder.
        port: Where.
    """

    process: subprocess.Popen[str]
    into: Path
    port: int

    def files(self) -> list[Path]:
        return sorted(file for file in self.into.rglob("*") if file.is_file())

    def storescu(self, folder: Path, *more: str, called: str = "IMAGING_PIPELINE") -> subprocess.Popen[str]:
        if shutil.which("storescu") is None:
            pytest.skip("no storescu here: apt-get install dcmtk")
        command = ["storescu", "-aec", called, "-aet", "CT_SCANNER", *more, "127.0.0.1", str(self.port)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*command, "+sd", str(folder)], stdout=pipe, stderr=subprocess.STDOUT, text=True, env=QUICK_LINES
        )

    def send(self, folder: Path, *more: str, called: str = "IMAGING_PIPELINE") -> tuple[int, str]:
        process = self.storescu(folder, *more, called=called)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def store(self, data: Dataset, calling: str = "CT_SCANNER") -> int:
        """The status that an instance of this test's own making is answered with."""
        ae = AE(ae_title=calling)
        context = build_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", self.port, [context], ae_title="IMAGING_PIPELINE")
        assert association.is_established
        try:
            return int(association.send_c_store(data).Status)
        finally:
            association.release()

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        said, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return said


@contextmanager
def receiving(into: Path, *arguments: str) -> Iterator[Receiver]:
    command = [sys.executable, "-m", "imaging_pipeline.receive", "--into", str(into), "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert " listens at 127.0.0.1:" in line, process.communicate()
    try:
        yield Receiver(process, into, int(line.split("127.0.0.1:")[1].split()[0]))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One for all tests that leave it running."""
    with receiving(tmp_path_factory.mktemp("intake")) as found:
        yield found


@pytest.fixture(scope="module")
def modality(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder of 500 instances, and their pixels by SOP Instance UID."""
    folder = tmp_path_factory.mktemp("modality")
    study, pixels = generate_uid(), {}
    for number in range(500):
        data = secondary_capture(study, n_frames=1)
        (folder / f"{number:03}.dcm").write_bytes(encoded(data))
        pixels[str(data.SOPInstanceUID)] = data.PixelData
    return folder, pixels


def contents(receiver: Receiver) -> dict[str, bytes]:
    """Pixels by SOP Instance UID of every file; a half one fails here."""
    found = [dcmread(file) for file in receiver.files()]
    assert len({data.SOPInstanceUID for data in found}) == len(found)
    return {str(data.SOPInstanceUID): data.PixelData for data in found}


# what arrives


def test_five_hundred_instances_arrive_though_the_receiver_is_killed_in_the_middle(
    modality: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    folder, pixels = modality
    with receiving(tmp_path) as first:
        sender = first.storescu(folder)
        wait_for(lambda: len(list(tmp_path.glob("*/*/*.dcm"))) >= 50)
        first.process.kill()
        first.process.wait()
        sender.communicate(timeout=60)
    whole = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*/*.dcm")}
    assert 50 <= len(whole) < 500
    for file in whole:
        data = dcmread(file)
        assert data.PixelData == pixels[data.SOPInstanceUID]
    with receiving(tmp_path) as again:
        assert not [file for file in again.files() if file not in whole]  # what was being written is cleared away
        code, said = again.send(folder)
        assert code == 0, said
        assert contents(again) == pixels
        assert {file: file.stat().st_mtime_ns for file in whole} == whole
        assert "CT_SCANNER: 500 instances" in again.end()
    assert not list(tmp_path.glob(".*"))


def test_names_of_files_tell_nothing_and_lead_nowhere(receiver: Receiver) -> None:
    data = secondary_capture("../../../../etc/1.2.3")
    data.SeriesInstanceUID = "..\\.."
    assert receiver.store(data) == 0x0000
    file = next(file for file in receiver.files() if dcmread(file).SOPInstanceUID == data.SOPInstanceUID)
    study, series, name = file.relative_to(receiver.into).parts
    assert all(set(part) <= set("0123456789abcdef") for part in (study, series, name.removesuffix(".dcm")))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_bytes_are_kept_as_they_were_sent(syntax: Any, receiver: Receiver) -> None:
    data = secondary_capture(generate_uid(), side=32)
    if syntax.is_compressed:
        data.compress(syntax, generate_instance_uid=False)
    sent = encoded(data)
    assert receiver.store(data) == 0x0000
    file = next(file for file in receiver.files() if dcmread(file).SOPInstanceUID == data.SOPInstanceUID)
    assert dcmread(file).file_meta.TransferSyntaxUID == syntax
    start = sent.index(b"\x08\x00")  # group 0008 opens the data set
    assert file.read_bytes().endswith(sent[start:])
    np.testing.assert_array_equal(dcmread(file).pixel_array, data.pixel_array)


def test_a_second_copy_changes_nothing_and_a_corrected_one_takes_its_place(receiver: Receiver) -> None:
    data = secondary_capture(generate_uid())
    assert receiver.store(data) == 0x0000
    file = next(file for file in receiver.files() if dcmread(file).SOPInstanceUID == data.SOPInstanceUID)
    before = file.stat()
    assert receiver.store(data) == 0x0000
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    data.PatientName = "Doe^John"
    assert receiver.store(data) == 0x0000
    assert dcmread(file).PatientName == "Doe^John"


@pytest.mark.slow
def test_a_watching_run_takes_what_a_modality_sends(tmp_path: Path) -> None:
    write_ct(CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0)), tmp_path / "ct")
    intake, out = tmp_path / "intake", tmp_path / "out"
    with receiving(intake) as receiver:
        watch = ("--watch", "0.3", "--no-spark", "--model", "none", "--set", "intake.settle_seconds=1")
        with running(intake, "--out", out, *watch, cwd=tmp_path) as watching:
            code, said = receiver.send(tmp_path / "ct")
            assert code == 0, said
            wait_for(lambda: len(done_in(out)) == 1)
            watching.terminate()
            watching.communicate(timeout=60)
    told = json.loads((out / "run.json").read_text())
    assert told["files"] == {"dicom": 5}


# what is refused


def test_a_full_disk_is_answered_with_a700_and_leaves_no_half_file(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk, receiving(disk, "--set", "receive.reserve_mb=0") as receiver:
        statuses = [receiver.store(secondary_capture(generate_uid(), n_frames=4, side=256)) for _ in range(6)]
        assert 0 < statuses.count(0x0000) < 6
        assert set(statuses) == {0x0000, 0xA700}
        assert len(contents(receiver)) == statuses.count(0x0000)
        receiver.files()[0].unlink()
        assert receiver.store(secondary_capture(generate_uid(), n_frames=4, side=256)) == 0x0000  # room again
        assert "refused 0xA700: the disk is full" in receiver.end()


@contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system here; the test below injects the error instead")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_an_inbox_tells_a_full_disk_from_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = secondary_capture(generate_uid())
    with open_inbox(tmp_path, 0) as inbox:
        for number, status in ((28, 0xA700), (122, 0xA700), (5, 0x0110)):  # ENOSPC, EDQUOT, EIO

            def fail(_: int, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", fail)
                with pytest.raises(RefusalError) as caught:
                    inbox.file([encoded(data)], str(data.SOPInstanceUID))
            assert caught.value.status == status
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
        assert inbox.file([encoded(data)], str(data.SOPInstanceUID)).is_file()


def test_the_reserve_of_a_disk_is_not_touched(tmp_path: Path) -> None:
    data = secondary_capture(generate_uid())
    reserve = shutil.disk_usage(tmp_path).total
    inbox = Inbox(tmp_path, tmp_path, reserve)
    with pytest.raises(RefusalError, match="0xA700: less free disk"):
        inbox.file([encoded(data)], str(data.SOPInstanceUID))


def test_a_receiver_without_room_is_send_rejected_to_a_sender_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = LocalStore(root=tmp_path / "out")
    write_results(out, 1)
    with receiving(tmp_path / "intake", "--set", "receive.reserve_mb=1000000000") as receiver:
        destination = f"IMAGING_PIPELINE@127.0.0.1:{receiver.port}"
        again = ["--set", "send.tries=2", "--set", "send.pause_seconds=0.05"]
        assert send([str(out.root), "--send", destination, *again]) == 7
        assert "send-rejected" in capsys.readouterr().out
        assert receiver.end().count("refused 0xA700") == 2


def test_what_is_not_as_announced_is_not_filed(tmp_path: Path) -> None:
    data = secondary_capture(generate_uid())
    with open_inbox(tmp_path, 0) as inbox:
        with pytest.raises(RefusalError, match="0xA900"):
            inbox.file([encoded(data)], "1.2.3")
        with pytest.raises(RefusalError, match="0xC000"):
            inbox.file([b"no DICOM at all" * 20], "1.2.3")
        del data.SOPInstanceUID
        with pytest.raises(RefusalError, match="0xC000"):
            inbox.file([encoded(data)], "1.2.3")
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_who_is_not_on_the_list_or_calls_somebody_else_is_rejected(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "one.dcm").write_bytes(encoded(secondary_capture(generate_uid())))
    with receiving(tmp_path / "intake", "--allow", "CT_SCANNER", "--allow", "ROUTER") as receiver:
        code, said = receiver.send(source, "-aet", "STRANGER")
        assert code != 0
        assert "Calling AE Title Not Recognized" in said
        code, said = receiver.send(source, called="SOMEBODY")
        assert code != 0
        assert "Called AE Title Not Recognized" in said
        assert receiver.files() == []
        code, said = receiver.send(source)
        assert code == 0, said
        assert len(receiver.files()) == 1
        said = receiver.end()
    assert "STRANGER: rejected an association" in said
    assert "CT_SCANNER: rejected an association that calls SOMEBODY" in said
    assert "CT_SCANNER: 1 instances" in said


def test_echo_is_answered_and_more_associations_than_allowed_are_not(tmp_path: Path) -> None:
    verification = [build_context("1.2.840.10008.1.1")]
    with receiving(tmp_path, "--set", "receive.max_associations=2") as receiver:
        here = ("127.0.0.1", receiver.port)
        held = [AE().associate(*here, verification, ae_title="IMAGING_PIPELINE") for _ in range(3)]
        assert [each.is_established for each in held] == [True, True, False]
        assert held[2].acceptor.primitive.result == 0x02  # for now
        assert held[0].send_c_echo().Status == 0x0000
        held[0].release()
        held[1].release()


# how it ends


def test_sigterm_lets_a_sender_finish(modality: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in sorted(modality[0].iterdir())[:60]:
        shutil.copy(file, source)
    with receiving(tmp_path / "intake") as receiver:
        sender = receiver.storescu(source)
        wait_for(lambda: len(list(receiver.into.glob("*/*/*.dcm"))) >= 3)
        said = receiver.end()
        sender.communicate(timeout=60)
        assert sender.returncode == 0
        assert "CT_SCANNER: 60 instances" in said
        assert len(contents(receiver)) == 60


def test_a_listing_does_not_look_into_what_is_still_arriving(tmp_path: Path) -> None:
    data = secondary_capture(generate_uid())
    with open_inbox(tmp_path, 0) as inbox:
        whole = inbox.file([encoded(data)], str(data.SOPInstanceUID))
        (inbox.staging / "half").write_bytes(encoded(data)[:500])
        assert [file.path for file in list_files(tmp_path)] == [str(whole)]
        assert list(list_passed_over(tmp_path)) == []


def test_what_a_killed_receiver_left_is_cleared_and_a_living_ones_is_not(tmp_path: Path) -> None:
    (tmp_path / ".tmp-receive-dead").mkdir()
    (tmp_path / ".tmp-receive-dead" / "half").write_bytes(b"DICM")
    with open_inbox(tmp_path, 0) as living, open_inbox(tmp_path, 0):
        assert living.staging.is_dir()
        assert not (tmp_path / ".tmp-receive-dead").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--address", "0.0.0.0"], "anybody who reaches 0.0.0.0 could send"),
        (["--ae-title", "A_TITLE_MUCH_TOO_LONG"], "16 characters"),
        (["--port", "70000"], "receive.port"),
        (["--address", "203.0.113.1", "--allow", "CT"], "cannot listen at 203.0.113.1:11112"),
    ],
    ids=str,
)
def test_where_it_cannot_or_should_not_listen_is_said_at_once(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert receive(["--into", str(tmp_path), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_is_none_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert receive(["--into", str(tmp_path / "file"), "--port", "0"]) == 2
    assert "out-not-writable" in capsys.readouterr().err
    assert receive(["--into", "s3://bucket/studies"]) == 2
    assert "is no folder" in capsys.readouterr().err
