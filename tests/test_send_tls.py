"""Sending over TLS: to dcmtk's storescp by C-STORE, to an https service by STOW-RS."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from imaging_pipeline.send import main as send
from imaging_pipeline.stores import LocalStore
from tests.pacs import write_results
from tests.s3 import _die_with_parent, _free_ports
from tests.test_send import QUICK, _Faulty, records


@dataclass(frozen=True)
class Signer:
    """A certificate authority of this test.

    Attributes:
        file: Its own certificate, PEM.
    """

    file: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def sign(self, name: str, address: str) -> tuple[Path, Path]:
        """Certificate and key of somebody at an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = _builder(name, self.certificate.subject).public_key(key.public_key())
        certificate = builder.add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        return _written(self.file.with_name(f"{name}.pem"), certificate), _written(
            self.file.with_name(f"{name}.key"), key
        )


def signer(folder: Path, name: str) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(name, subject).public_key(key.public_key())
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    return Signer(_written(folder / f"{name}.pem", certificate), key, certificate)


def _builder(name: str, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number()).issuer_name(issuer)
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    hour = datetime.timedelta(hours=1)
    return builder.not_valid_before(now - hour).not_valid_after(now + hour)


def _written(file: Path, what: x509.Certificate | ec.EllipticCurvePrivateKey) -> Path:
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    if isinstance(what, x509.Certificate):
        file.write_bytes(what.public_bytes(pem))
    else:
        file.write_bytes(what.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return file


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return signer(tmp_path_factory.mktemp("certificates"), "hospital")


@pytest.fixture(scope="module")
def storescp(authority: Signer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """dcmtk's SCP, which asks for a certificate of the hospital; its destination, and where it writes."""
    if shutil.which("storescp") is None:
        pytest.skip("no storescp here: apt-get install dcmtk")
    folder, (port,) = tmp_path_factory.mktemp("storescp"), _free_ports(1)
    certificate, key = authority.sign("archive", "127.0.0.1")
    command = ["storescp", "+tls", str(key), str(certificate), "+cf", str(authority.file), "-rc"]
    command += ["-od", str(folder), "-aet", "ARCHIVE", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent)
    time.sleep(0.3)
    try:
        assert process.poll() is None, (folder / "log").read_text()
        yield f"ARCHIVE@127.0.0.1:{port}", folder
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def out(tmp_path: Path) -> LocalStore:
    return LocalStore(root=tmp_path / "out")


def ours(authority: Signer, name: str = "us") -> list[str]:
    certificate, key = authority.sign(name, "127.0.0.1")
    told = {"ca_file": authority.file, "certificate_file": certificate, "key_file": key}
    return [word for key, file in told.items() for word in ("--set", f"send.{key}={file}")]


def test_objects_go_over_tls_with_a_certificate_on_both_sides(
    storescp: tuple[str, Path], authority: Signer, out: LocalStore
) -> None:
    destination, folder = storescp
    sample = write_results(out, 2)
    assert send([str(out.root), "--send", destination, "--set", "send.tls=true", *ours(authority), *QUICK]) == 0
    assert all(list(folder.glob(f"*{uid}*")) for uid in sample.uids)


def test_a_pacs_whose_certificate_nobody_here_trusts_gets_nothing(
    storescp: tuple[str, Path], authority: Signer, out: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    destination, _ = storescp
    write_results(out, 1)
    stranger = signer(tmp_path, "stranger")
    trust = [*ours(authority), "--set", f"send.ca_file={stranger.file}"]
    assert send([str(out.root), "--send", destination, "--set", "send.tls=true", *trust, *QUICK]) == 7
    said = capsys.readouterr().out
    assert "send-unreachable" in said
    assert "certificate" in said.lower()
    assert records(out) == []


def test_a_pacs_that_trusts_another_hospital_takes_nothing(
    storescp: tuple[str, Path], authority: Signer, out: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    destination, _ = storescp
    write_results(out, 1)
    foreign = [*ours(signer(tmp_path, "stranger")), "--set", f"send.ca_file={authority.file}"]
    assert send([str(out.root), "--send", destination, "--set", "send.tls=true", *foreign, *QUICK]) == 7
    assert "send-unreachable" in capsys.readouterr().out
    assert records(out) == []


def test_stow_goes_over_https_with_a_certificate_and_only_to_the_host_that_it_names(
    authority: Signer, out: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(out, 1)
    _Faulty.answers, _Faulty.heard = [], []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*authority.sign("web", "127.0.0.2"))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Faulty) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}/studies"
        trust = ours(authority)
        assert send([str(out.root), "--send", url, *trust, *QUICK]) == 7
        assert "127.0.0.1" in capsys.readouterr().out
        assert _Faulty.heard == []
        assert send([str(out.root), "--send", url, *trust, "--set", "send.check_host_name=false", *QUICK]) == 0
        server.shutdown()
    assert len(_Faulty.heard) == 1
