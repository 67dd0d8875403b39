"""Stages beside each other: in order, bounded, errors in their place, and no thread left behind."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_pipeline.overlap import Behind, Done, ahead


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Meter:
    """Counts what is alive, and remembers the most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def add(self, number: int) -> None:
        with self.lock:
            self.now += number
            self.most = max(self.most, self.now)


class Volume:
    """Something large that can be watched."""


def double(number: int) -> int:
    return 2 * number


def fail_at_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f"series {number}")
    return number


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
def test_results_come_in_the_order_of_the_items(depth: int) -> None:
    assert [(done.item, done.value()) for done in ahead(range(20), double, depth)] == [(n, 2 * n) for n in range(20)]


def test_work_runs_in_one_thread_beside_the_consumer() -> None:
    threads = {done.value() for done in ahead(range(5), lambda _: threading.current_thread(), 2)}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_the_next_item_is_made_while_the_consumer_has_the_last_one() -> None:
    started = [threading.Event() for _ in range(4)]
    stage = ahead(range(4), lambda number: started[number].set(), 1)
    for done in stage:
        if done.item < 3:
            assert started[done.item + 1].wait(10)


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_no_more_than_depth_results_wait_for_a_slow_consumer(depth: int) -> None:
    meter = Meter()
    last = threading.Event()

    def make(number: int) -> int:
        meter.add(1)
        if number == depth:
            last.set()
        return number

    for done in ahead(range(30), make, depth):
        last.wait(10)  # the thread has come as far as it may
        assert done.value() == done.item
        meter.add(-1)
    assert meter.most == depth + 1


def test_a_result_is_alive_only_as_long_as_its_consumer_holds_it() -> None:
    stage = ahead(range(3), lambda _: Volume(), 1)
    first = weakref.ref(next(stage).value())
    gc.collect()
    assert first() is None
    stage.close()  # type: ignore[attr-defined]


def test_an_error_stands_at_its_item_and_the_others_go_on() -> None:
    done = list(ahead(range(6), fail_at_odd, 2))
    assert [item.result for item in done] == [0, None, 2, None, 4, None]
    assert [str(item.error) for item in done if item.error] == ["series 1", "series 3", "series 5"]
    with pytest.raises(ValueError, match="series 3"):
        done[3].value()


def test_an_error_that_is_kept_does_not_keep_the_volume_that_it_happened_to() -> None:
    seen = []

    def work(number: int) -> None:
        volume = Volume()
        seen.append(weakref.ref(volume))
        try:
            fail_at_odd(1)
        except ValueError as error:
            raise MemoryError(f"{number}: {volume}") from error

    kept = list(ahead(range(2), work, 1))
    gc.collect()
    assert [type(done.error) for done in kept] == [MemoryError, MemoryError]
    assert [reference() for reference in seen] == [None, None]


def test_running_out_of_memory_is_the_error_of_one_series() -> None:
    def work(number: int) -> int:
        if number == 1:
            raise MemoryError
        return number

    assert [type(done.error) for done in ahead(range(3), work, 1)] == [type(None), MemoryError, type(None)]


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_a_listing_that_breaks_off_surfaces_behind_the_items_before_it(depth: int) -> None:
    def listing() -> Iterator[int]:
        yield from range(3)
        raise OSError("share is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="share is gone"):
        seen.extend(done.item for done in ahead(listing(), double, depth))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_thread_that_dies_ends_the_consumer_with_an_error_instead_of_hanging(end: type[BaseException]) -> None:
    def work(number: int) -> int:
        if number == 2:
            raise end("worker")
        return number

    seen: list[int] = []
    with pytest.raises(RuntimeError, match=f"ended by {end.__name__}"):
        seen.extend(done.item for done in ahead(range(10), work, 2))
    assert seen == [0, 1]


def test_a_consumer_that_raises_leaves_no_thread() -> None:
    def consume() -> None:
        for done in ahead(range(1000), double, 2):
            if done.item == 3:
                raise RuntimeError("network")

    with pytest.raises(RuntimeError, match="network"):
        consume()


def test_a_stage_that_is_closed_dropped_or_never_asked_leaves_no_thread() -> None:
    worked = []
    closed = ahead(range(1000), worked.append, 2)
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert len(worked) <= 4
    dropped = ahead(range(1000), double, 2)
    next(dropped)
    del dropped
    gc.collect()
    ahead(range(1000), double, 2)


def test_a_stage_in_a_cycle_may_be_collected_by_its_own_thread() -> None:
    stage = ahead(range(100), lambda _: gc.collect(), 2)
    holder: list[object] = [stage]
    holder.append(holder)
    next(stage)
    thread = next(thread for thread in threading.enumerate() if thread.name.startswith("ahead"))
    del stage, holder
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_stages_stand_one_behind_the_other() -> None:
    prepared = ahead(ahead(range(50), double, 2), lambda done: done.value() + 1, 2)
    assert [next(prepared).value() for _ in range(3)] == [1, 3, 5]
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("ahead")]) == 2
    del prepared  # both threads end


def test_a_program_that_forgets_a_stage_still_ends() -> None:
    program = (
        "from imaging_pipeline.overlap import Behind, ahead\n"
        "stage = ahead(range(1000), str, 2); next(stage)\n"
        "behind = Behind(str, 2); behind.put(1)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_what_is_put_is_worked_on_in_order_behind_the_producer() -> None:
    with Behind(double, 2) as writer:
        seen = []
        for number in range(20):
            writer.put(number)
            seen += writer.done()
        seen += writer.close()
    assert [(done.item, done.value()) for done in seen] == [(n, 2 * n) for n in range(20)]
    with pytest.raises(RuntimeError):
        writer.put(20)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_producer_waits_while_depth_items_are_unfinished(depth: int) -> None:
    go, full, meter = threading.Semaphore(0), threading.Event(), Meter()

    def work(number: int) -> int:
        go.acquire()
        meter.add(-1)
        return number

    def produce() -> None:
        for number in range(depth + 2):
            if number == depth:
                full.set()
            writer.put(number)
            meter.add(1)

    with Behind(work, depth) as writer:
        producer = threading.Thread(target=produce)
        producer.start()
        assert full.wait(10)
        assert writer.done() == []
        assert meter.most <= depth
        for _ in range(depth + 2):
            go.release()
        producer.join(20)
    assert meter.most <= depth
    assert [done.item for done in writer.done()] == list(range(depth + 2))


def test_what_was_put_before_an_error_of_the_producer_is_finished_and_not_lost() -> None:
    writer: Behind[int, int] = Behind(double, 5)

    def produce() -> None:
        with writer:
            for number in (0, 2, 4, 5, 6):
                writer.put(fail_at_odd(number))

    with pytest.raises(ValueError, match="series 5"):
        produce()
    assert [done.value() for done in writer.close()] == [0, 4, 8]


def test_a_writer_that_dies_at_one_item_keeps_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def write(number: int) -> int:
        logging.getLogger(__name__).warning("writing %s", number)
        if number == 1:
            raise SystemExit("disk")
        if number == 2:
            raise OSError("full")
        return number

    with Behind(write, 2) as writer:
        for number in range(4):
            writer.put(number)
    done = writer.done()
    assert [item.result for item in done] == [0, None, None, 3]
    assert "ended by SystemExit: disk" in str(done[1].error)
    assert str(done[2].error) == "full"
    assert "writing 3" in caplog.text


@settings(max_examples=40, deadline=None)
@given(wrong=st.sets(st.integers(0, 15)), n=st.integers(0, 15), depth=st.integers(0, 4), stop=st.integers(0, 16))
def test_errors_anywhere_change_nothing_but_their_own_item(wrong: set[int], n: int, depth: int, stop: int) -> None:
    def work(number: int) -> int:
        if number in wrong:
            raise ValueError(number)
        return 2 * number

    def told(done: Done[int, int]) -> tuple[int, int | None, bool]:
        return done.item, done.result, done.error is not None

    expected = [(k, None if k in wrong else 2 * k, k in wrong) for k in range(n)]
    before = threading.active_count()
    seen = []
    stage = ahead(range(n), work, depth)
    for done in stage:
        seen.append(told(done))
        if len(seen) == stop:
            break
    stage.close()  # type: ignore[attr-defined]
    assert seen == (expected[:stop] if stop else expected)
    with Behind(work, depth) as behind:
        for number in range(n):
            behind.put(number)
    assert [told(done) for done in behind.done()] == expected
    assert threading.active_count() == before
