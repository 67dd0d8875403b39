"""Whatever ends a run (a full disk, one that is gone, too few files), what is done stays done and the rest is said."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imaging_pipeline.records import Status
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.stores import LocalStore
from sample_data.phantom import CtSpec, write_ct
from tests.conftest import ROOT, Finished
from tests.receipts import is_whole

NOISE = CtSpec(shape=(64, 64, 12), noise_sd=400.0)
N_SERIES = 8
OPTIONS = ("--model", "none", "--set", "spark.max_failures=1", "--set", "spark.bins_per_slot=1")
HOW = pytest.mark.parametrize(
    "how", ["--no-spark", pytest.param("--master=local[2]", marks=pytest.mark.spark)], ids=["one process", "spark"]
)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    for seed in range(N_SERIES):
        write_ct(replace(NOISE, seed=seed), folder / str(seed))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def check_sound(out: Path) -> int:
    """Series that are done, all of their outputs as they were written; nothing half lies about."""
    store = LocalStore(root=out)
    receipts = list(read_receipts(store))
    assert all(is_whole(store, receipt) for receipt in receipts if receipt.status is Status.DONE)
    for path in out.glob("sub-*/**/*.nii.gz"):
        gzip.decompress(path.read_bytes())  # also of a series that has no receipt yet
    return sum(receipt.status is Status.DONE for receipt in receipts)


@HOW
def test_a_full_disk_ends_the_run_with_one_line_and_space_lets_it_go_on(
    how: str, studies: Path, small_disk: Path, pipeline: Callable[..., Finished]
) -> None:
    out = small_disk / "out"
    full = pipeline(studies, "--out", out, *OPTIONS, how)
    assert full.code == 2, full.out
    assert "Traceback" not in full.out + full.err
    assert "out-full" in full.err
    assert "No space left on device" in full.err
    assert full.err.count("\n") == 1
    n_done = check_sound(out)
    assert 0 < n_done < N_SERIES
    assert not list(out.rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    rest = pipeline(studies, "--out", out, *OPTIONS, "--no-spark")
    assert rest.code == 0, rest.err
    assert f"{N_SERIES - n_done} done, {n_done} already done" in rest.out
    assert check_sound(out) == N_SERIES


def test_results_on_a_disk_that_is_gone_are_not_begun_anew_beside_it(
    tmp_path: Path, studies: Path, pipeline: Callable[..., Finished]
) -> None:
    out, away = tmp_path / "mounted", tmp_path / "away"
    command = [sys.executable, "-m", "imaging_pipeline.run", studies, "--out", out, "--model", "none", "--no-spark"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        end = time.monotonic() + 60
        while not list((out / "receipts").glob("*.json")) and time.monotonic() < end:
            time.sleep(0.001)
        out.rename(away)
        said, errors = run.communicate(timeout=120)
    assert not out.exists(), "what belongs on the disk is not written beside it"
    if run.returncode:  # it may have been quicker
        assert "out-not-writable" in errors
        assert "Traceback" not in said + errors
    away.rename(out)
    n_done = check_sound(out)
    rest = pipeline(studies, "--out", out, "--model", "none", "--no-spark")
    assert rest.code == 0, rest.err
    assert f"{n_done} already done" in rest.out


def test_a_read_only_place_is_refused_before_anything_is_done(
    studies: Path, small_disk: Path, pipeline: Callable[..., Finished]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = pipeline(studies, "--out", small_disk / "out", *OPTIONS, "--no-spark")
    assert done.code == 2
    assert "out-not-writable" in done.err
    assert done.err.count("\n") == 1


def test_too_few_open_files_fail_no_series_for_good(
    tmp_path: Path, studies: Path, pipeline: Callable[..., Finished]
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "imaging_pipeline.run", studies, "--out", out, "--model", "none", "--no-spark"]

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (26, 26))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=few, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    if (out / "receipts").exists():
        check_sound(out)
    healthy = pipeline(studies, "--out", out, "--model", "none", "--no-spark")
    assert healthy.code == 0, healthy.err
    assert check_sound(out) == N_SERIES


def test_a_clock_that_goes_back_neither_hides_series_nor_repeats_them(
    tmp_path: Path, pipeline: Callable[..., Finished]
) -> None:
    write_ct(NOISE, tmp_path / "in" / "one")
    first = pipeline(tmp_path / "in", "--out", tmp_path / "out", "--model", "none", "--no-spark")
    assert first.code == 0
    ahead = time.time() + 86_400
    for path in [*(tmp_path / "in").rglob("*"), *(tmp_path / "out").rglob("*")]:
        os.utime(path, (ahead, ahead))
    write_ct(replace(NOISE, seed=1), tmp_path / "in" / "two")
    options = ("--model", "none", "--no-spark", "--set", "intake.settle_seconds=0.5")
    time.sleep(1)
    again = pipeline(tmp_path / "in", "--out", tmp_path / "out", *options)
    assert again.code == 0, again.err
    assert "1 done, 1 already done" in again.out
