"""A real S3 server (SeaweedFS) on a free port of the loopback interface, and what tests do with it."""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import s3fs

from imaging_pipeline.stores import RemoteStore
from imaging_pipeline.stores.settings import S3Settings, StorageSettings

BUCKET = "hospital"
KEY, SECRET = "AKIDOFTHETESTS", "a-secret-that-must-stay-secret"
START_SECONDS = 60


@dataclass(frozen=True)
class S3:
    """The server that answers.

    Attributes:
        endpoint: Its URL.
    """

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        """What a user would have in the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def storage(self) -> StorageSettings:
        return StorageSettings(s3=S3Settings(endpoint_url=self.endpoint))

    @property
    def client(self) -> Any:
        """A client of its own, which shares nothing with the package's."""
        options = {"endpoint_url": self.endpoint, "key": KEY, "secret": SECRET}
        return s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)

    @property
    def delta_options(self) -> dict[str, str]:
        options = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        return {**options, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def store(self, name: str) -> RemoteStore:
        return RemoteStore(url=f"s3://{BUCKET}/{name}", storage=self.storage)

    def upload(self, folder: Path, name: str) -> str:
        """Put a folder below a prefix; its URL."""
        client = self.client
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.pipe_file(f"{BUCKET}/{name}/{path.relative_to(folder)}", path.read_bytes())
        return f"s3://{BUCKET}/{name}"

    def names(self, prefix: str) -> set[str]:
        """Names of all objects below a prefix, relative to it."""
        return {name.removeprefix(f"{BUCKET}/{prefix}/") for name in self.client.find(f"{BUCKET}/{prefix}")}


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    """Start the server, make the bucket, and kill the server at the end."""
    config = folder / "s3.json"
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    config.write_text(json.dumps({"identities": [identity]}))
    for attempt in range(3):
        (data := folder / f"data{attempt}").mkdir()
        ports = _free_ports(8)
        with (folder / f"log{attempt}").open("wb") as log:
            command = _command(data, config, ports)
            process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent)
        server = S3(f"http://127.0.0.1:{ports[0]}")
        try:
            if _answers(process, server.endpoint):
                _retried(lambda server=server: server.client.mkdir(BUCKET))
                yield server
                return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError((folder / "log2").read_text()[-2000:])


def _command(data: Path, config: Path, ports: list[int]) -> list[str]:
    weed = Path(sys.executable).with_name("weed")
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    numbers = zip((*names, "filer.port", "filer.port.grpc"), ports, strict=True)
    return [
        *(str(weed if weed.exists() else shutil.which("weed") or weed), "server", f"-dir={data}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={config}", "-s3.autoCreateBucket=false"),
        *(f"-{name}={number}" for name, number in numbers),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=20"),
        *("-master.volumeSizeLimitMB=128", "-volume.minFreeSpace=1MiB"),
        *(f"-filer.localSocket={data}/filer.sock", f"-s3.localSocket={data}/s3.sock"),
    ]


def _die_with_parent() -> None:
    """A server does not outlive tests that are killed; prctl(2), PR_SET_PDEATHSIG."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _answers(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(endpoint, timeout=2)
        except urllib.error.HTTPError:
            return True  # it asks who we are
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def _retried(call: Any) -> None:
    """The S3 gateway answers a moment before the parts behind it are ready."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            call()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
