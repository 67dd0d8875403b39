"""A run that is asked to end finishes what it is at; one that watches picks up what arrives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imaging_pipeline.console import Screen
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.found import PackedSkip, PackedTask
from imaging_pipeline.intake.shelf import Shelf
from imaging_pipeline.job import Job
from imaging_pipeline.partition import process
from imaging_pipeline.records import Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.round import Exit
from imaging_pipeline.settings import Settings
from imaging_pipeline.stopping import Stop
from imaging_pipeline.stores import LocalStore
from imaging_pipeline.watch import Watch
from sample_data.phantom import CtSpec, write_ct
from tests.conftest import ROOT, Finished
from tests.test_schedule import task_of

SPEC = CtSpec(shape=(16, 12, 5), spacing_mm=(2.0, 2.0, 4.0))
BRAIN = CtSpec(shape=(48, 60, 40), spacing_mm=(1.0, 1.0, 1.0), modality="MR")
PATIENCE_SECONDS = 120


@contextmanager
def running(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    archive = [] if "--no-spark" in arguments else ["--set", "spark.class_archive=always"]
    command = [sys.executable, "-m", "imaging_pipeline.run", *archive, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process_ = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
    )
    try:
        yield process_
    finally:
        process_.kill()
        process_.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def done_in(out: Path) -> list[str]:
    return [
        receipt.identity.series_key for receipt in read_receipts(LocalStore(root=out)) if receipt.status is Status.DONE
    ]


def write_series(folder: Path, seed: int) -> None:
    """Files of a series appear at once, as a router would move them in."""
    write_ct(replace(SPEC, seed=seed), folder.with_name(f".{folder.name}"))
    folder.with_name(f".{folder.name}").rename(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["--no-spark", pytest.param("--master=local[2]", marks=pytest.mark.spark)], ids=["one process", "spark"]
)
def test_what_arrives_while_it_watches_is_done_and_sigterm_ends_it_with_0(how: str, tmp_path: Path) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out"
    studies.mkdir()
    write_series(studies / "a", 1)
    with running(studies, "--out", out, "--model", "none", "--watch", "0.3", how, cwd=tmp_path) as watching:
        wait_for(lambda: len(done_in(out)) == 1)
        write_series(studies / "b", 2)
        wait_for(lambda: len(done_in(out)) == 2)
        wait_for(lambda: json.loads((out / "run.json").read_text())["finished_at"] is not None)
        time.sleep(1.5)  # some passes without news
        assert len(list((out / "logs").glob("[!.]*.run.json"))) == 2
        watching.send_signal(signal.SIGTERM)
        said, errors = watching.communicate(timeout=PATIENCE_SECONDS)
    assert watching.returncode == 0, errors
    assert "watching every 0.3 s" in said
    assert "stopping behind the series at work" in errors
    assert said.count("1 done") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["--no-spark", pytest.param("--master=local[2]", marks=pytest.mark.spark)], ids=["one process", "spark"]
)
def test_sigterm_lets_the_series_at_work_finish_and_leaves_the_others_for_the_next_run(
    how: str, tmp_path: Path, pipeline: Callable[..., Finished]
) -> None:
    studies, out, n_series = tmp_path / "studies", tmp_path / "out", 14
    for seed in range(n_series):
        write_ct(replace(BRAIN, seed=seed), studies / str(seed))
    with running(studies, "--out", out, how, cwd=tmp_path) as stopped:
        wait_for(lambda: len(done_in(out)) >= 1)
        stopped.send_signal(signal.SIGTERM)
        said, errors = stopped.communicate(timeout=PATIENCE_SECONDS)
    assert stopped.returncode == Exit.STOPPED, errors
    n_done = len(done_in(out))
    assert 1 <= n_done < n_series
    assert f"stopped: {n_series - n_done} series are left for the next run" in said
    run = json.loads((out / "run.json").read_text())
    assert (run["exit_code"], run["series"]["left"]) == (5, n_series - n_done)
    assert not [receipt for receipt in read_receipts(LocalStore(root=out)) if receipt.status is Status.FAILED]
    assert not list((out / "logs").glob(".*.stop"))
    rest = pipeline(studies, "--out", out, how)
    assert rest.code == 0, rest.err
    assert f"{n_series - n_done} done, {n_done} already done" in rest.out


def test_no_series_is_begun_once_the_marker_is_there(tmp_path: Path, settings: Settings) -> None:
    out = LocalStore(root=tmp_path)
    layout.open_results(out)
    job = Job(out=out, run_id="r", settings=settings, bundle=None)
    stop = Stop(lambda: None)
    stop._request(signal.SIGTERM, None)
    with stop.marking(job):
        assert list(process([task_of(0)], job)) == []
    assert not job.is_stopping
    assert [result.status for result in process([task_of(0)], job)] == [Status.FAILED]  # its file is not there


TWO_OF_EACH = """
import os, signal
from imaging_pipeline.stopping import Stop

said = []
stop = Stop(lambda: said.append("stopping"))
with stop.listening():
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        signal.raise_signal(signal.SIGINT)
        said.append("went on")
    except KeyboardInterrupt:
        said.append("interrupted")
print(said, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not() -> None:
    """In a process of its own: a signal that goes astray must not end the tests."""
    ended = subprocess.run([sys.executable, "-c", TWO_OF_EACH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout == "['stopping', 'interrupted']\n", ended.stderr
    assert ended.returncode == -signal.SIGTERM  # whose handlers there were before are there again


class Screenless(Screen):
    def __init__(self) -> None:
        super().__init__(quiet=True, verbose=False)


def test_a_lost_session_is_opened_again_and_the_first_error_of_all_ends_the_watch(
    tmp_path: Path, settings: Settings
) -> None:
    stop, opened, passes = Stop(lambda: None), [], iter(["fine", "lost", "fine", "gone", "end"])

    class Pass:
        studies = LocalStore(root=tmp_path)
        job = Job(out=studies, run_id="r", settings=settings, bundle=None)

        def look(self) -> object:
            kind = next(passes)
            if kind == "lost":
                raise PipelineError(Code.SPARK_FAILED, "the session is gone", "")
            if kind == "gone":
                raise PipelineError(Code.STUDIES_NOT_FOUND, "not mounted", "")
            if kind == "end":
                stop._request(signal.SIGTERM, None)
            return type("Plan", (), {"todo": Shelf.of(PackedTask, ()), "skipped": Shelf.of(PackedSkip, ())})()

        def tell(self, plan: object) -> None: ...

        def work(self, plan: object) -> None: ...

    @contextmanager
    def open_rounds() -> Iterator[Iterator[Pass]]:
        opened.append(1)
        yield iter(Pass, None)

    watch = Watch(open_rounds, 0.01, Screenless(), stop)  # type: ignore[arg-type, return-value]
    assert watch.run() is Exit.OK
    assert len(opened) == 2
    first_fails = Watch(open_rounds, 0.01, Screenless(), Stop(lambda: None))  # type: ignore[arg-type, return-value]
    passes = iter(["gone"])
    with pytest.raises(PipelineError) as refused:
        first_fails.run()
    assert refused.value.code is Code.STUDIES_NOT_FOUND


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "soon"])
def test_an_interval_that_is_none_is_refused(seconds: str, tmp_path: Path, pipeline: Callable[..., Finished]) -> None:
    done = pipeline(tmp_path, "--out", tmp_path / "out", "--watch", seconds)
    assert done.code == 2
    assert "--watch" in done.err
    assert "Traceback" not in done.err
