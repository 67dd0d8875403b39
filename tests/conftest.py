"""What tests share: the data collection beside the checkout, the command as a user calls it, small worlds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from imaging_pipeline.identity import Keys
from imaging_pipeline.intake.headers import read_file
from imaging_pipeline.intake.listing import list_files
from imaging_pipeline.intake.series import Grouped, group_series
from imaging_pipeline.settings import Settings, resolve
from tests import s3 as s3_server

hypothesis_settings.register_profile("ours", deadline=None)  # this machine may be busy with other things
hypothesis_settings.load_profile("ours")

# several tests run at a time: threads that wait for work must not take the cores of others
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# what a trial finds on this machine belongs to this run alone, and to all of its processes
_IS_FIRST = "IMAGING_PIPELINE_TESTS_CACHE" not in os.environ
_CACHE = os.environ.get("IMAGING_PIPELINE_TESTS_CACHE") or tempfile.mkdtemp(prefix="imaging-pipeline-tests-")
os.environ["IMAGING_PIPELINE_TESTS_CACHE"] = os.environ["XDG_CACHE_HOME"] = _CACHE

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data collection; tests that need it skip where it is not beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no data collection at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def dicom_set(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a set of real DICOM by its name; those that are packed are unpacked once."""

    @cache
    def find(name: str) -> Path:
        source = shared / "data" / "dicom" / name
        if source.is_dir():
            return source
        unpacked = tmp_path_factory.mktemp("unpacked")
        with tarfile.open(f"{source}.tar.xz") as archive:
            archive.extractall(unpacked, filter="data")
        return unpacked / name

    return find


@pytest.fixture(scope="session")
def sample() -> Path:
    """The sample study of this repository."""
    return ROOT / "sample_data" / "studies"


@pytest.fixture(scope="session")
def settings() -> Settings:
    return resolve()


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Finished]:
    """Runs a module of the package in a process of its own, from another folder than the checkout's."""

    def call(*arguments: object, module: str = "run", env: dict[str, str] | None = None, cwd: Path = ROOT) -> Finished:
        # the JVMs of the next tests start with what the first one leaves
        archive = ["--set", "spark.class_archive=always"] if module == "run" and "--no-spark" not in arguments else []
        command = [sys.executable, "-m", f"imaging_pipeline.{module}", *archive, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3]:
    """A real S3 server on the loopback interface, for as long as the tests run."""
    with s3_server.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def grouped(settings: Settings) -> Callable[..., Grouped]:
    """Groups whatever lies below a folder."""

    def group(folder: Path, changed: Settings = settings) -> Grouped:
        rows = [row for file in list_files(folder) for row in read_file(file)]
        return group_series([row.plane for row in rows if row.plane is not None], Keys(b"0" * 16), changed)

    return group


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the data collection carries the mark `shared`."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


def pytest_sessionfinish() -> None:
    """An archive of Spark's classes takes 160 MB."""
    if _IS_FIRST:
        shutil.rmtree(_CACHE, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the tests that used the data collection: a suite that skipped them all is not to pass for a full one."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    ran = sum("shared" in report.keywords for report in reports)
    skipped = sum("shared" in report.keywords for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"tests on the shared data collection: {ran} ran, {skipped} skipped")
