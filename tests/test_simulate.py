"""A simulated cluster obeys the laws that a real one cannot break."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.costs import Costs, read_costs
from benchmarks.simulate_cluster import main
from benchmarks.simulated_driver import follow, plan
from benchmarks.simulated_runs import Scenario, predict
from benchmarks.simulated_studies import MEAN_MB, deal_studies, make_studies
from benchmarks.simulated_values import GPU, IDLE, STATES, Cluster, Work
from benchmarks.simulation import simulate


@pytest.fixture(scope="module")
def costs() -> Costs:
    return read_costs()


def gpu_only(seconds: float) -> Work:
    return Work(mb=0.0, decode_s=0.0, gpu_s=seconds, write_s=0.0)


def every_study_once(bins: list[list[Work]]) -> Counter[tuple[int, int]]:
    return Counter((number, place) for number, members in enumerate(bins) for place in range(len(members)))


works = st.builds(
    Work,
    mb=st.floats(0, 500),
    decode_s=st.floats(0, 3),
    gpu_s=st.floats(0.01, 5),
    write_s=st.floats(0, 3),
)


@given(
    bins=st.lists(st.lists(works, min_size=1, max_size=6), min_size=1, max_size=10),
    slots=st.integers(1, 4),
    failures=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 5),
)
def test_every_study_is_written_once_and_no_second_of_a_slot_is_lost(
    bins: list[list[Work]], slots: int, failures: float, seed: int
) -> None:
    cluster = Cluster(
        slots=slots, storage_mb_s=400, stream_mb_s=200, launch_s=0.01, task_s=0.1, open_s=1.0, noise=0.2,
        failures_per_hour=failures, restart_s=5, max_failures=10**9,
    )  # fmt: skip
    ran = simulate(bins, cluster, seed)
    assert ran.done == every_study_once(bins)
    assert len(ran.finished_s) == ran.done.total()
    assert sorted(ran.finished_s) == list(ran.finished_s)
    assert set(ran.slot_s) <= set(STATES)
    assert math.isclose(ran.slot_s.total(), slots * ran.makespan_s, rel_tol=1e-6)
    assert ran.moved_mb >= sum(work.mb for members in bins for work in members) * (1 - 1e-9)


@given(
    bins=st.lists(st.lists(works, min_size=1, max_size=6), min_size=1, max_size=10),
    slots=st.integers(1, 4),
    storage_mb_s=st.floats(10, 1000),
)
def test_no_run_is_faster_than_its_busiest_resource(bins: list[list[Work]], slots: int, storage_mb_s: float) -> None:
    everything = [work for members in bins for work in members]
    ran = simulate(bins, Cluster(slots=slots, storage_mb_s=storage_mb_s))
    least = max(
        sum(work.gpu_s for work in everything) / slots,
        sum(work.decode_s for work in everything) / slots,
        sum(work.write_s for work in everything) / slots,
        sum(work.mb for work in everything) / storage_mb_s,
        max(work.mb / storage_mb_s + work.decode_s + work.gpu_s + work.write_s for work in everything),
    )
    assert ran.makespan_s >= least * (1 - 1e-9)


def test_one_slot_takes_the_sum_of_its_studies() -> None:
    bins = [[gpu_only(2), gpu_only(3)], [gpu_only(5)]]
    assert math.isclose(simulate(bins, Cluster(slots=1)).makespan_s, 10)
    assert math.isclose(simulate(bins, Cluster(slots=1, task_s=1.0, open_s=4.0)).makespan_s, 16)


def test_consecutive_studies_overlap_as_the_partition_does() -> None:
    study = Work(mb=0.0, decode_s=2.0, gpu_s=3.0, write_s=1.0)
    ran = simulate([[study] * 4], Cluster(slots=1))
    assert math.isclose(ran.makespan_s, 2 + 4 * 3 + 1), "decoded ahead and written behind, but for the ends"
    slow_writer = replace(study, write_s=5.0)
    assert math.isclose(simulate([[slow_writer] * 4], Cluster(slots=1)).makespan_s, 2 + 3 + 4 * 5)


def test_twice_the_slots_take_half_the_time_on_an_even_load() -> None:
    bins = [[gpu_only(3)] * 5] * 16
    seconds = [simulate(bins, Cluster(slots=slots)).makespan_s for slots in (2, 4, 8, 16)]
    assert seconds == pytest.approx([120, 60, 30, 15])


def test_a_slow_storage_takes_all_bytes_by_its_bandwidth() -> None:
    study = Work(mb=100.0, decode_s=0.0, gpu_s=0.1, write_s=0.0)
    ran = simulate([[study] * 10] * 8, Cluster(slots=8, storage_mb_s=50))
    assert ran.makespan_s == pytest.approx(8 * 10 * 100 / 50, rel=0.01)
    assert ran.moved_mb == pytest.approx(8000)
    assert ran.slot_s["read"] / ran.slot_s.total() > 0.9


def test_one_reader_gets_no_more_than_its_own_stream() -> None:
    study = Work(mb=100.0, decode_s=0.0, gpu_s=0.0, write_s=0.0)
    assert simulate([[study]], Cluster(slots=1, storage_mb_s=1000, stream_mb_s=50)).makespan_s == pytest.approx(2)


def test_a_lost_executor_costs_one_retry_of_what_was_not_written() -> None:
    bins = [[gpu_only(100)] * 100]
    calm = simulate(bins, Cluster(slots=1))
    for seed in range(20):
        ran = simulate(bins, Cluster(slots=1, failures_per_hour=0.25, restart_s=60, max_failures=99), seed)
        if ran.retries == 1:
            break
    assert ran.retries == 1
    assert ran.done == every_study_once(bins)
    lost_s = ran.makespan_s - calm.makespan_s
    assert 60 <= lost_s <= 60 + 100, "the restart, and at most the study that was under way"
    assert ran.slot_s["restart"] == pytest.approx(60)


def test_a_task_that_fails_too_often_is_given_up_and_counted() -> None:
    bins = [[gpu_only(10_000)], [gpu_only(1)]]
    ran = simulate(bins, Cluster(slots=1, failures_per_hour=60, restart_s=1, max_failures=3))
    assert ran.given_up == 1
    assert ran.retries == 2
    assert ran.done == Counter({(1, 0): 1})


def test_a_failure_wakes_a_slot_that_had_nothing_left_to_do() -> None:
    bins = [[gpu_only(50)] * 20]
    slots = Cluster(slots=2, failures_per_hour=2, restart_s=10_000, max_failures=99)
    ran = next(ran for seed in range(50) if (ran := simulate(bins, slots, seed)).retries == 1)
    assert ran.done == every_study_once(bins)
    assert ran.makespan_s < 10_000, "the other slot has taken over before the first was back"


def test_studies_are_of_500_mb_in_the_mean_and_skewed() -> None:
    sizes = sorted(study.mb for study in make_studies(5000))
    assert sum(sizes) / len(sizes) == pytest.approx(MEAN_MB, rel=0.01)
    assert sizes[len(sizes) // 2] < 0.9 * MEAN_MB
    assert sizes[-1] > 4 * MEAN_MB


def test_bins_of_a_simulation_hold_the_same_studies() -> None:
    studies = make_studies(500)
    dealt = deal_studies(studies, n_slots=8, bins_per_slot=4)
    assert len(dealt) == 32
    assert sorted(study.n_slices for members in dealt for study in members) == sorted(
        study.n_slices for study in studies
    )


def test_the_driver_follows_at_most_one_look_and_one_commit_behind(costs: Costs) -> None:
    finished = [float(second) for second in range(100)]
    followed = follow(finished, 99.0, costs)
    slack_s = 2 * (costs.poll_s + followed.last_commit_s) + 1
    assert 99 <= followed.over_s <= 99 + slack_s
    assert 0 < followed.commit_s <= followed.busy_s < followed.over_s
    slow = replace(costs, follow_s_per_receipt=2.0)
    assert follow(finished, 99.0, slow).over_s >= 200, "a driver that is too slow ends the run"


def test_planning_is_shared_by_slots_but_for_the_driver(costs: Costs) -> None:
    one, ten = (plan(10_000, 20, slots, 0.001, costs) for slots in (1, 10))
    assert one.headers_s == pytest.approx(10 * ten.headers_s)
    assert one.driver_s == ten.driver_s > 0


def test_more_storage_moves_the_bottleneck_on(costs: Costs) -> None:
    studies = make_studies(400)
    starved, fed = (predict(Scenario(nodes=1, gpu_s=6.0, storage_mb_s=mb), studies, costs) for mb in (50, 50_000))
    assert starved.bottleneck == "storage"
    assert fed.bottleneck == "GPU"
    assert fed.studies_per_hour > 2 * starved.studies_per_hour
    assert fed.gpu_used > 0.8 > starved.gpu_used
    assert starved.to_ideal >= 1
    assert 0 <= fed.shares[IDLE] < 0.2 < fed.shares[GPU]


@pytest.mark.slow
def test_the_command_prints_and_draws_all_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json", str(tmp_path / "figures.json"), "--chart", str(tmp_path / "chart.png")])
    printed = capsys.readouterr().out
    assert printed.count("\n| 10 |") == printed.count("\n| 100 |") > 20
    assert "goal, 2000 studies an hour on 10 nodes: reached from" in printed
    assert (tmp_path / "chart.png").stat().st_size > 50_000
    assert (tmp_path / "figures.json").stat().st_size > 10_000
