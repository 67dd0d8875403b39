"""Whole simulated runs: planning, tasks, receipts; and which resource would be the first to hold more of them up."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.costs import Costs
from benchmarks.simulated_driver import follow, plan
from benchmarks.simulated_studies import Study, deal_studies, work_of
from benchmarks.simulated_values import GPU, IDLE, STATES, Cluster, Outcome, Work
from benchmarks.simulation import simulate

GPUS_A_NODE = 4

FAULTS = {
    "failures_per_hour": 0.001,
    "restart_s": 60.0,
    "slow_share": 0.02,
    "slow_factor": 1.5,
    "noise": 0.1,
}
"""Assumed: a slot dies once in 1 000 hours, two slots of a hundred are slower by half, studies vary by a tenth."""
STREAM_MB_S = 1000.0
"""Assumed: what one reader gets from a storage that has nothing else to do."""
OPEN_FILE_S = 0.001
"""Assumed: opening a file on a network file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated.

    Attributes:
        nodes: Machines of four GPUs.
        gpu_s: Seconds of a GPU for the network and labels of a study of 500 MB.
        storage_mb_s: Of all readers together.
        bins_per_slot: As in the settings.
    """

    nodes: int
    gpu_s: float
    storage_mb_s: float
    bins_per_slot: int = 4

    @property
    def slots(self) -> int:
        """GPUs."""
        return self.nodes * GPUS_A_NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What comes of a scenario.

    Attributes:
        studies_per_hour: Of the whole run, planning included.
        tasks_studies_per_hour: While tasks run.
        gpu_used: Share of the GPUs' time that they work, while tasks run.
        shares: State of a slot to its share of their time, while tasks run.
        plan_s: Before the first task: headers and the driver's part.
        driver_plan_s: Of that, the driver alone.
        driver_gb: What it holds then.
        driver_used: Share of the driver's time, while tasks run.
        last_commit_s: The longest batch into the index.
        retries: Tasks that ran once more.
        given_up: Studies of tasks that failed too often.
        to_ideal: Time of the tasks by the mean time that a slot had a task.
        demands_s: Resource to its seconds for one study more, were it alone.
    """

    studies_per_hour: float
    tasks_studies_per_hour: float
    gpu_used: float
    shares: dict[str, float]
    plan_s: float
    driver_plan_s: float
    driver_gb: float
    driver_used: float
    last_commit_s: float
    retries: int
    given_up: int
    to_ideal: float
    demands_s: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The resource that a study keeps busy for longest."""
        return self._ranked()[0]

    @property
    def next_bottleneck(self) -> str:
        """The one that takes its place once that one is widened."""
        return self._ranked()[1]

    def _ranked(self) -> list[str]:
        return sorted(self.demands_s, key=lambda name: -self.demands_s[name])


def predict(scenario: Scenario, studies: Sequence[Study], costs: Costs, seed: int = 0) -> Prediction:
    """Simulate one run over all studies.

    Args:
        scenario: The cluster.
        studies: What there is to do.
        costs: Measured ones.
        seed: Of everything that chance decides.
    """
    dealt = deal_studies(studies, scenario.slots, scenario.bins_per_slot)
    bins = [[work_of(study, scenario.gpu_s, OPEN_FILE_S, costs) for study in members] for members in dealt]
    cluster = Cluster(
        slots=scenario.slots,
        storage_mb_s=scenario.storage_mb_s,
        stream_mb_s=STREAM_MB_S,
        launch_s=costs.launch_s,
        task_s=costs.task_s,
        open_s=costs.open_s,
        **FAULTS,
    )
    ran = simulate(bins, cluster, seed)
    return _summed_up(scenario, studies, [work for members in bins for work in members], ran, costs)


def _summed_up(
    scenario: Scenario, studies: Sequence[Study], works: Sequence[Work], ran: Outcome, costs: Costs
) -> Prediction:
    n_files = sum(study.n_slices for study in studies)
    planned = plan(n_files, len(studies), scenario.slots, OPEN_FILE_S, costs)
    followed = follow(ran.finished_s, ran.makespan_s, costs)
    plan_s = planned.headers_s + planned.driver_s
    whole_s = plan_s + followed.over_s
    slot_s = scenario.slots * ran.makespan_s
    shares = {state: ran.slot_s[state] / slot_s for state in STATES}
    n = len(studies)
    return Prediction(
        studies_per_hour=3600 * n / whole_s,
        tasks_studies_per_hour=3600 * n / ran.makespan_s,
        gpu_used=shares[GPU],
        shares=shares,
        plan_s=plan_s,
        driver_plan_s=planned.driver_s,
        driver_gb=planned.driver_gb,
        driver_used=followed.busy_s / followed.over_s,
        last_commit_s=followed.last_commit_s,
        retries=ran.retries,
        given_up=ran.given_up,
        to_ideal=1 / (1 - shares[IDLE]),
        demands_s={
            "storage": fmean(work.mb for work in works) / scenario.storage_mb_s,
            "GPU": fmean(work.gpu_s for work in works) / scenario.slots,
            "decoding": fmean(work.mb / STREAM_MB_S + work.decode_s for work in works) / scenario.slots,
            "mask writing": fmean(work.write_s for work in works) / scenario.slots,
            "headers": planned.headers_s / n,
            "driver: planning": planned.driver_s / n,
            "driver: receipts": (followed.busy_s - followed.commit_s) / n,
            "driver: commits": followed.commit_s / n,
        },
    )
