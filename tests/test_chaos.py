"""Whatever is killed, filled up or cut short on the way: in the end every series is done or coded, and done once."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results.layout import receipt_path
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.stores import LocalStore
from sample_data.phantom import CtSpec, write_ct
from tests.chaos import Chaos
from tests.conftest import ROOT, Finished
from tests.receipts import is_whole

SEED = 7
N_SERIES = 60
N_KILLS = 25
MOST_RUNS = 14
SPEC = CtSpec(shape=(24, 20, 6), noise_sd=300.0)
SETTINGS = {
    "spark.max_failures": 3,
    "spark.bins_per_slot": 2,
    "index.commit_seconds": 0.5,
    "limits.crashes": 3,
    "lock.heartbeat_seconds": 0.5,
    "lock.stale_seconds": 3,
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system, which is filled up on the way."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def done_in(out: Path) -> dict[str, SeriesResult]:
    """Series that are done, outputs and all."""
    store = LocalStore(root=out)
    return {receipt.identity.series_key: receipt for receipt in read_receipts(store) if is_whole(store, receipt)}


@pytest.mark.spark
@pytest.mark.slow
def test_sixty_series_survive_a_killer_a_full_disk_and_truncated_files(
    disk: Path, tmp_path: Path, pipeline: Callable[..., Finished]
) -> None:
    studies, out, rng = tmp_path / "studies", disk / "out", random.Random(SEED)
    for seed in range(N_SERIES):
        write_ct(replace(SPEC, seed=seed), studies / f"{seed:02}")
    slow = tmp_path / "site"  # a series takes a moment, so that there is something to kill
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(SLOW)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(slow), str(ROOT)])}
    options = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    run = [sys.executable, "-m", "imaging_pipeline.run", studies, "--out", out, "--model", "none", *options]
    command = [*run, "--master", "local-cluster[2,1,1024]"]
    chaos, n_runs, again = Chaos(SEED), 0, set[str]()
    while chaos.kills.total() < N_KILLS and n_runs < MOST_RUNS:
        truncate(out, rng, done_in(out))  # leaves something to work on, too
        before = done_in(out)
        if n_runs % 4 == 1:
            fill(disk)
        chaos.run(command, env, rng.randint(5, 9))
        (disk / "filler").unlink(missing_ok=True)
        after = done_in(out)
        assert before.keys() <= after.keys(), "what was done stays done"
        again |= {key for key, receipt in before.items() if after[key].run_id != receipt.run_id}
        n_runs += 1
    done = done_in(out)
    last = pipeline(studies, "--out", out, "--model", "none", "--no-spark", *options)
    assert last.code in (0, 4), last.err
    receipts = {receipt.identity.series_key: receipt for receipt in read_receipts(LocalStore(root=out))}
    states = [(receipt.status, receipt.reason_code) for receipt in receipts.values()]
    print(f"seed {SEED}: {n_runs} runs, kills {dict(chaos.kills)}, states {sorted(set(states))}")
    assert len(receipts) == N_SERIES
    assert all(status is Status.DONE or code == "worker-crash" for status, code in states)
    assert len(done_in(out)) >= N_SERIES - 3
    assert chaos.kills.total() >= N_KILLS
    again |= {key for key, receipt in done.items() if receipts[key].run_id != receipt.run_id}
    assert not again, "no series that was done and whole is computed again"
    assert not list(out.rglob(".tmp-*"))
    assert not list((out / "attempts").iterdir())
    assert json.loads((out / "run.json").read_text())["finished_at"]


SLOW = """
import sys

if "imaging_pipeline.workers.child" in " ".join(sys.orig_argv):
    import time
    from imaging_pipeline import case

    real = case.decode

    def decode(task, source):
        time.sleep(0.25)
        return real(task, source)

    case.decode = decode
"""


def fill(disk: Path) -> None:
    """Leave room for a few more series."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"\0" * max(free - 200_000, 0))


def truncate(out: Path, rng: random.Random, whole: dict[str, SeriesResult]) -> None:
    """Cut the image or the receipt of half of these series short."""
    for key in rng.sample(sorted(whole), len(whole) // 2):
        path = out / (whole[key].image_path if rng.random() < 0.7 else receipt_path(key, whole[key].model_name))
        os.truncate(path, path.stat().st_size // 2)
