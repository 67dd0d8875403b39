"""One run at a time works on a RESULTS; who holds it is said, and the dead are taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.layout import LOCK, open_results
from imaging_pipeline.results.lease import Lease, Owner, hold
from imaging_pipeline.settings import LockSettings
from imaging_pipeline.stores import LocalStore, Store
from sample_data.phantom import CtSpec, write_ct
from tests.conftest import ROOT, Finished
from tests.s3 import S3

FAST = LockSettings(heartbeat_seconds=0.1, stale_seconds=1.0)


def quiet(_: str) -> None:
    """Whoever waits may say so."""


@pytest.fixture
def out(tmp_path: Path) -> LocalStore:
    store = LocalStore(root=tmp_path / "out")
    open_results(store)
    return store


def owner(store: Store) -> Owner:
    newest = max(entry.path for entry in store.list(LOCK))
    return Owner(**json.loads(store.read(newest)))


def rewrite(store: LocalStore, **changes: object) -> None:
    """Make the newest lease another process's."""
    newest = max(entry.path for entry in store.list(LOCK))
    content = {**json.loads(store.read(newest)), **changes}
    store.publish(newest, json.dumps(content).encode())


def test_a_second_run_leaves_with_the_name_of_the_first(out: LocalStore) -> None:
    with hold(out, "run one", FAST, quiet):
        says = f"held: run one by .* process {os.getpid()}"
        with pytest.raises(PipelineError, match=says) as refused, hold(out, "run two", FAST, quiet):
            pass
        assert refused.value.code is Code.RESULTS_BUSY
    with hold(out, "run two", FAST, quiet):
        assert owner(out).purpose == "run two"
    assert owner(out).is_released
    assert len(list(out.list(LOCK))) <= 2


def test_a_second_run_that_waits_gets_its_turn(out: LocalStore) -> None:
    said: list[str] = []
    with ExitStack() as first:
        first.enter_context(hold(out, "run one", FAST, quiet))
        threading.Timer(0.7, first.close).start()
        with hold(out, "run two", FAST.model_copy(update={"wait_seconds": 30}), said.append):
            assert owner(out).purpose == "run two"
    assert len(said) == 1
    assert "waiting: held by run one" in said[0]


def test_a_process_that_was_killed_is_taken_over_at_once(out: LocalStore) -> None:
    program = (
        "import sys, time; from pathlib import Path; from imaging_pipeline.results.lease import hold;"
        "from imaging_pipeline.settings import LockSettings; from imaging_pipeline.stores import LocalStore;"
        "lease = hold(LocalStore(root=Path(sys.argv[1])), 'killed', LockSettings(), print);"
        "lease.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, out.root], cwd=ROOT, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"held\n"
        killed.kill()
    began = time.monotonic()
    with hold(out, "next", LockSettings(), quiet):
        assert owner(out).purpose == "next"
    assert time.monotonic() - began < LockSettings().stale_seconds / 2


def test_a_silent_run_of_another_machine_is_taken_over_and_one_that_lives_is_not(out: LocalStore) -> None:
    with hold(out, "far", LockSettings(heartbeat_seconds=3600), quiet):
        rewrite(out, machine="another machine")
        with hold(out, "near", FAST, quiet) as lease:
            lease.check()
    with ExitStack() as far:
        far.enter_context(hold(out, "far", FAST, quiet))
        stop = threading.Event()
        number = max(entry.path for entry in out.list(LOCK))

        def beat() -> None:
            while not stop.wait(0.05):
                content = {**json.loads(out.read(number)), "machine": "another machine"}
                out.publish(number, json.dumps({**content, "beat": content["beat"] + 1}).encode())

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with pytest.raises(PipelineError, match="held: far"), hold(out, "near", FAST, quiet):
                pass
        finally:
            stop.set()
            thread.join()


def test_a_run_that_was_taken_for_dead_notices_and_stops(out: LocalStore) -> None:
    asked = threading.Event()
    with hold(out, "sleeper", FAST, quiet) as lease:
        lease.when_lost(asked.set)
        number = max(entry.path for entry in out.list(LOCK))
        out.create(f"{LOCK}/{int(Path(number).stem) + 1:08}.json", out.read(number))
        assert asked.wait(10)
        with pytest.raises(PipelineError, match="taken"):
            lease.check()


def test_of_many_that_want_it_at_once_one_gets_it(out: LocalStore) -> None:
    barrier, held, busy = threading.Barrier(6), list[Lease](), list[str]()

    def want(number: int) -> None:
        barrier.wait()
        try:
            with hold(out, f"run {number}", FAST, quiet) as lease:
                held.append(lease)
                time.sleep(0.5)
        except PipelineError as error:
            busy.append(error.code)

    threads = [threading.Thread(target=want, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert busy == [Code.RESULTS_BUSY] * 5


def test_a_lease_lies_in_an_object_store_as_well(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    store = s3.store("lease")
    open_results(store)
    with (
        hold(store, "one", FAST, quiet),
        pytest.raises(PipelineError, match="held: one"),
        hold(store, "two", FAST, quiet),
    ):
        pass
    with hold(store, "two", FAST, quiet):
        assert owner(store).purpose == "two"


def test_the_command_ends_with_6_while_another_run_is_at_work(
    tmp_path: Path, pipeline: Callable[..., Finished]
) -> None:
    write_ct(replace(CtSpec(), shape=(8, 8, 4)), tmp_path / "in")
    out = LocalStore(root=tmp_path / "out")
    open_results(out)
    with hold(out, "somebody else's run", LockSettings(), quiet):
        busy = pipeline(tmp_path / "in", "--out", out.root, "--model", "none", "--no-spark")
        look = pipeline(tmp_path / "in", "--out", out.root, "--model", "none", "--no-spark", "--dry-run")
    assert busy.code == 6
    assert "results-busy" in busy.err
    assert "somebody else's run" in busy.err
    assert busy.err.count("\n") == 1
    assert look.code == 0, "looking is always allowed"
