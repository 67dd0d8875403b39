"""A series that ends the process that works on it costs itself, and no other series anything."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from imaging_pipeline.errors import Code
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.workers.crash import post_mortem
from sample_data.phantom import CtSpec, write_ct
from tests import poison
from tests.conftest import ROOT, Finished
from tests.test_fuzz import flip

SPEC = CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0))
LIMITS = ("--set", "limits.seconds=3", "--set", "limits.memory_mb=900")
Pipeline = Callable[..., Finished]


HEALTHY = {1, 2, 3, 4}
GIVEN_UP = {poison.SEGFAULT, poison.HANGS, poison.EXITS}
HTML, TRAVERSAL, FIRST_FLIPPED, N_FLIPPED = 500, 501, 600, 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four series that harm nobody, and every kind of harm that we know, between them."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(11)
    for seed, number in enumerate([1, poison.SEGFAULT, 2, poison.GROWS, 3, poison.HANGS, poison.EXITS, 4]):
        write_ct(replace(SPEC, seed=seed, series_number=number), folder / str(number))
    write_ct(replace(SPEC, seed=50, series_number=HTML, description="<script>alert(1)</script>"), folder / "html")
    climbing = {"SeriesInstanceUID": "../../../../tmp/escaped", "StudyInstanceUID": "../../etc", "PatientID": "../../p"}
    with pydicom.config.disable_value_validation():
        write_ct(replace(SPEC, seed=51, series_number=TRAVERSAL, extra=climbing), folder / "climbing")
    for number in range(FIRST_FLIPPED, FIRST_FLIPPED + N_FLIPPED):
        write_ct(replace(SPEC, seed=number, series_number=number), folder / "flipped" / str(number))
    flipped = sorted((folder / "flipped").rglob("*.dcm"))
    assert len(flipped) == 200
    for path in flipped:
        path.write_bytes(flip(rng, path.read_bytes()))
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("image.dcm", b"\0" * (300 << 20))
    return folder


def read_all(out: Path) -> list[SeriesResult]:
    return list(read_receipts(LocalStore(root=out)))


def receipts(out: Path) -> dict[int, SeriesResult]:
    return {receipt.identity.series_number or 0: receipt for receipt in read_all(out)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["--no-spark", pytest.param("--master=local[2]", marks=pytest.mark.spark)], ids=["one process", "spark"]
)
def test_whatever_a_corpus_of_poison_does_all_other_series_are_done_and_it_is_coded(
    how: str, corpus: Path, tmp_path: Path, pipeline: Pipeline
) -> None:
    env, out = poison.environment(tmp_path / "site"), tmp_path / "deep" / "below" / "out"
    done = pipeline(corpus, "--out", out, "--model", "none", how, *LIMITS, env=env)
    assert done.code == 4, done.err
    assert "Traceback" not in done.out + done.err
    found = receipts(out)
    assert {found[number].status for number in (*HEALTHY, HTML, TRAVERSAL)} == {Status.DONE}
    assert all(receipt.status is Status.DONE or receipt.reason_code in set(Code) for receipt in found.values())
    assert len(read_all(out)) >= len(HEALTHY) + 6 + N_FLIPPED
    assert "archive-bomb" in done.out
    assert not any("<script" in path.read_text(errors="ignore") for path in out.rglob("*.json"))
    assert {path.name for path in tmp_path.iterdir()} == {"site", "deep"}, "nothing is written outside of RESULTS"
    assert {path.name for path in (tmp_path / "deep" / "below").iterdir()} == {"out"}

    assert {found[number].reason_code for number in GIVEN_UP} == {"worker-crash"}
    assert "2 times: signal SIGSEGV in" in found[poison.SEGFAULT].message
    assert "string_at" in found[poison.SEGFAULT].message
    assert "no step within the time limit of 0:00:03" in found[poison.HANGS].message
    assert "2 times: exit code 3" in found[poison.EXITS].message
    assert found[poison.GROWS].reason_code == "out-of-memory"
    stack = next((out / "logs").glob(f"*.crash-{found[poison.SEGFAULT].identity.series_key}.txt"))
    assert "Segmentation fault" in stack.read_text()
    assert not list((out / "attempts").iterdir())

    again = pipeline(corpus, "--out", out, "--model", "none", "--no-spark", *LIMITS, env=env)
    assert "given up: 3 series" in again.out
    assert again.code == 4
    healed = pipeline(out, "--failed", "--code", "worker-crash", module="rerun")
    assert "3 done" in healed.out, healed.err


def test_a_run_that_was_killed_leaves_a_mark_and_the_next_tries_that_series_alone(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out"
    for seed, number in enumerate([1, poison.HANGS, 2, 3]):
        write_ct(replace(SPEC, seed=seed, series_number=number), studies / str(number))
    command = [sys.executable, "-m", "imaging_pipeline.run", studies, "--out", out, "--model", "none", "--no-spark"]
    environment = {**os.environ, **poison.environment(tmp_path / "site")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT) as killed:
        end = time.monotonic() + 60
        while not list((out / "attempts").glob("*.json")) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)
        killed.send_signal(signal.SIGKILL)
    marks = [json.loads(path.read_text()) for path in (out / "attempts").glob("*.json")]
    assert marks
    assert all(mark["is_at_work"] for mark in marks)
    done = pipeline(studies, "--out", out, "--model", "none", "--no-spark")
    assert done.code == 0, done.err
    assert {receipt.status for receipt in receipts(out).values()} == {Status.DONE}
    assert not list((out / "attempts").iterdir())

    first, second, *_ = receipts(out).values()  # what the killed run left alive for a moment wrote marks
    late, other = (out / "attempts" / f"{one.identity.series_key}_none.json" for one in (first, second))
    late.write_text(json.dumps({**marks[0], "fingerprint": first.fingerprint}))
    other.write_text(json.dumps({**marks[0], "fingerprint": "of other settings"}))
    assert pipeline(studies, "--out", out, "--model", "none", "--no-spark").code == 0
    assert list((out / "attempts").iterdir()) == [other]


@pytest.mark.parametrize(
    ("code", "stack", "by_kernel", "says"),
    [
        (-9, "", True, "SIGKILL by the kernel, which had no memory left"),
        (-9, "", False, "SIGKILL, as when memory runs out or somebody ends it"),
        (-6, "", False, "signal SIGABRT"),
        (1, "Timeout (0:05:00)!\n", False, "no step within the time limit of 0:05:00"),
        (
            -11,
            "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
            '  File "/imaging_pipeline/codecs.py", line 7 in decode\n  File "/a/b.py", line 1 in run\n',
            False,
            "signal SIGSEGV in codecs.py:7 decode",
        ),
    ],
)
def test_the_end_of_a_process_is_put_into_words(code: int, stack: str, by_kernel: bool, says: str) -> None:
    assert post_mortem(code, stack, by_kernel).cause == says
