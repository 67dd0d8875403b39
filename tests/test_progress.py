"""What is seen of a run while it works: how far it is, how long it will take, and what it is at."""

import heapq
import io
import os
import pty
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from rich.console import Console

from imaging_pipeline.console import Screen
from imaging_pipeline.console.lines import open_console
from imaging_pipeline.console.pace import Pace, duration
from imaging_pipeline.console.show import Show
from imaging_pipeline.cost import Estimate, Rates
from imaging_pipeline.intake.found import PackedTask, packed_task
from imaging_pipeline.intake.series import Grouped
from imaging_pipeline.intake.shelf import Shelf
from imaging_pipeline.job import Job
from imaging_pipeline.records import Status
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.schedule import Schedule
from imaging_pipeline.settings import Settings
from imaging_pipeline.stores import Entry, LocalStore
from imaging_pipeline.workers import Attempts
from sample_data.phantom import CtSpec, write_ct

ESTIMATE = Estimate(outline=None, rates=Rates(series=1e-9, read=1e-9, voxels=1.0))
"""A second for a million voxels."""


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def task_of(key: str, seconds: int) -> PackedTask:
    return PackedTask(key, b"", "", 1, 1000, 1000, seconds, 0, 0.0, (1.0, 1.0), (0.0, 0.0, 1.0))


def schedule_of(seconds: list[int], n_slots: int, *, is_learned: bool = False) -> Schedule:
    tasks = [task_of(f"s{number}", item) for number, item in enumerate(sorted(seconds, reverse=True))]
    return schedule_with(tasks, n_slots, replace(ESTIMATE, is_learned=is_learned))


def schedule_with(tasks: list[PackedTask], n_slots: int, estimate: Estimate) -> Schedule:
    seconds = np.array([estimate(task) for task in tasks])
    shelf = Shelf.of(PackedTask, tasks)
    return Schedule(tasks=shelf, places=(np.arange(len(tasks)),), n_slots=n_slots, estimate=estimate, seconds=seconds)


def work_through(
    schedule: Schedule, factor: float, clock: Clock, pace: Pace
) -> Iterator[tuple[dict[str, float], float]]:
    """Move the clock from series to series; what is at work then, since when, and when the last one will be done."""
    spans = list[tuple[float, float, str]]()
    free = [clock.now] * schedule.n_slots
    for task in schedule.tasks:
        start = heapq.heappop(free)
        end = start + factor * schedule.estimate(task)
        heapq.heappush(free, end)
        spans.append((end, start, task.series_key))
    for now in sorted({end for end, _, _ in spans}):
        clock.now = now
        for key in (name for end, _, name in spans if end == now):
            pace.finish(key)
        yield {name: now - start for end, start, name in spans if start <= now < end}, max(free)


@example_settings(max_examples=40)
@given(
    seconds=st.lists(st.integers(1, 40), min_size=24, max_size=60),
    n_slots=st.integers(1, 6),
    factor=st.sampled_from([0.1, 1.0, 7.0]),
    is_learned=st.booleans(),
)
def test_the_time_that_is_left_is_about_right_however_fast_the_machine_is(
    seconds: list[int], n_slots: int, factor: float, is_learned: bool
) -> None:
    clock, schedule = Clock(), schedule_of(seconds, n_slots, is_learned=is_learned)
    pace, began = Pace(schedule, clock), clock.now
    for at_work, end in work_through(schedule, factor, clock, pace):
        left = pace.seconds_left(at_work)
        if pace.share > 0.5:
            assert left is not None
            assert abs(left - (end - clock.now)) <= 0.1 * (end - began) + factor * max(seconds)
    assert pace.n_done == len(seconds)
    assert pace.seconds_left({}) == 0.0


def test_a_forecast_is_made_when_there_is_something_to_make_it_of() -> None:
    clock = Clock()
    first, again = (Pace(schedule_of([10] * 8, 2, is_learned=known), clock) for known in (False, True))
    clock.now += 5
    at_work = {"s0": 5.0, "s1": 5.0}
    assert first.seconds_left(at_work) is None
    assert again.seconds_left(at_work) == pytest.approx(35, rel=0.01)
    assert first.in_words(2, None) == "0 of 8 series, 0 % of the work, 2 at work"
    clock.now += 15
    for key in ("s0", "s1"):
        first.finish(key)
    assert first.in_words(2, first.seconds_left({"s2": 0.0, "s3": 0.0})) == (
        "2 of 8 series, 25 % of the work, 6 series/min, about 1 min left, 2 at work"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "5 s"),
        (43, "45 s"),
        (59, "1 min"),
        (719, "12 min"),
        (3599, "1 h"),
        (7_750, "2 h 10 min"),
        (50_000, "14 h"),
    ],
)
def test_a_duration_is_told_no_more_exactly_than_a_forecast_is(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.fixture
def work(grouped: Callable[..., Grouped], settings: Settings, tmp_path: Path) -> tuple[Schedule, Job, Grouped]:
    """Three series that are to be worked on."""
    for number in range(3):
        write_ct(CtSpec(shape=(16, 16, 4), seed=number, patient_id=f"P{number}"), tmp_path / "studies" / str(number))
    found = grouped(tmp_path / "studies")
    tasks = [packed_task(task) for task in found.tasks]
    job = Job(out=LocalStore(root=tmp_path / "out"), run_id="now", settings=settings, bundle=None)
    open_results(job.out)
    return schedule_with(tasks, 1, ESTIMATE), job, found


def test_a_log_has_a_line_a_minute_and_fewer_where_nothing_is_finished(
    work: tuple[Schedule, Job, Grouped],
) -> None:
    schedule, job, found = work
    first, second, third = found.tasks
    Attempts(job).begin(third, Attempts(job).known(third))  # by a run that was killed
    clock, page = Clock(), io.StringIO()
    show = Show(Console(file=page, width=200), schedule, job, clock)
    attempts = Attempts(job)

    def after(seconds: float) -> list[str]:
        clock.now += seconds
        before = len(page.getvalue())
        show.tick()
        return page.getvalue()[before:].splitlines()

    attempts.begin(first, attempts.known(first))
    attempts.begin(second, attempts.known(second))
    assert after(59) == []
    attempts.end(first)
    show.finish(first.identity.series_key)
    assert after(2) == ["1 of 3 series, 33 % of the work, 59 series/h, about 2 min left, 1 at work"]
    assert after(61) == []
    (line,) = after(540)
    assert line.endswith("1 at work")


class Away(LocalStore):
    """A store that does not answer."""

    def list(self, folder: str = "", only: Container[str] | None = None) -> Iterator[Entry]:
        raise OSError(f"{folder} is away")


class Faulty(LocalStore):
    """A store whose library has a fault that shows in other threads."""

    def list(self, folder: str = "", only: Container[str] | None = None) -> Iterator[Entry]:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{folder} in the wrong thread")
        return iter(())


def read_all(descriptor: int, until: str, seconds: float = 20.0) -> str:
    text, end = "", time.monotonic() + seconds
    os.set_blocking(descriptor, False)
    while until not in text and time.monotonic() < end:
        try:
            text += os.read(descriptor, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.02)
    return text


def test_a_terminal_shows_what_is_at_work_and_is_left_as_it_was(
    work: tuple[Schedule, Job, Grouped], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, job, found = work
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
        screen, attempts = Screen(quiet=False, verbose=False), Attempts(job)
        screen.start(schedule, job)
        task = found.tasks[0]
        attempts.begin(task, attempts.known(task))
        shown = read_all(master, f"CT {task.identity.series_key}  0:00:0")
        assert "0 of 3 series, 0 % of the work, 1 at work" in shown
        screen.stopping()
        assert "Ctrl-C again ends at once" in read_all(master, "ends at once")
        screen.result(job.result(task.identity, Status.DONE))
        shown += read_all(master, "1 of 3 series")
        screen.stop()
        screen.say("over")
        shown += read_all(master, "over")
    os.close(master)
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is hidden, and back"
    assert "\x1b[3" not in shown, "no colours with NO_COLOR"
    assert "progress" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("store", [Away, Faulty])
def test_what_goes_wrong_with_the_display_is_none_of_the_runs_business(
    store: type[LocalStore],
    work: tuple[Schedule, Job, Grouped],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    schedule, job, found = work
    job = replace(job, out=store(root=job.out.root))  # type: ignore[attr-defined]
    screen = Screen(quiet=False, verbose=False)
    screen.start(schedule, job)
    if store is Faulty:
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "progress")
        thread.join(20)
        assert "wrong thread" in caplog.text
    screen.result(job.result(found.tasks[0].identity, Status.DONE))
    screen.stop()
    said = capsys.readouterr()
    assert said.out.startswith("done    CT ")
    assert said.err == ""


def test_plain_lines_have_no_colours_even_where_a_build_server_forces_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    open_console().print("[bold red]failed[/]")
    assert capsys.readouterr().out == "failed\n"


def test_quiet_is_quiet(work: tuple[Schedule, Job, Grouped], capsys: pytest.CaptureFixture[str]) -> None:
    schedule, job, found = work
    screen = Screen(quiet=True, verbose=False)
    with screen.busy("reading headers"):
        screen.start(schedule, job)
    assert "progress" not in [thread.name for thread in threading.enumerate()]
    screen.result(job.result(found.tasks[0].identity, Status.DONE))
    screen.stop()
    assert capsys.readouterr().out == ""
