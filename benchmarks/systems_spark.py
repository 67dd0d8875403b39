"""Ways to run the whole job that `bench_spark` compares, and what is read off a finished run."""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.balance import balance_of
from benchmarks.harness import Row, interleave, summarise
from benchmarks.measure import DRIVER, DRIVER_JVM, EXECUTOR_JVMS, WORKERS, Command, Measurement
from benchmarks.peer_account import Account, read_account

STEPS = ("session_s", "headers_s", "plan_s", "check_s", "results_s")
ROLES = (DRIVER, DRIVER_JVM, EXECUTOR_JVMS, WORKERS)

Figures = dict[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A way to run the command.

    Attributes:
        name: What the table calls it.
        way: spark or pool:N, for `benchmarks.peer_spark`.
        slots: Bins that run beside each other.
        arguments: Further ones of the command.
    """

    name: str
    way: str
    slots: int
    arguments: tuple[str, ...] = ()


SPARK = System(name="Spark local[2]", way="spark", slots=2, arguments=("--master", "local[2]"))
POOL = System(name="plain Python, 2 processes", way="pool:2", slots=2)
ONE = System(name="local-cluster, 1 executor", way="spark", slots=1, arguments=("--master", "local-cluster[1,1,1024]"))
TWO = System(name="local-cluster, 2 executors", way="spark", slots=2, arguments=("--master", "local-cluster[2,1,1024]"))
SINGLE = System(name="plain Python, 1 process", way="pool:1", slots=1)


def run_systems(
    case: str, systems: Sequence[System], arguments: Sequence[str], repeats: int, where: Path, peer: System
) -> list[Row]:
    """Run the command by each system in turn, round by round.

    Args:
        case: What the table calls it.
        systems: Ways to run it.
        arguments: Of the command, without those of a system.
        repeats: Rounds.
        where: Folder to make for results and accounts.
        peer: The system that ratios are taken against.

    Returns:
        A row a system; its seconds are those from an open session to the last row of the index.
    """
    print(case, flush=True)
    where.mkdir()
    runs = interleave({item.name: _commands(item, arguments, where) for item in systems}, repeats)
    work, figures = {}, {}
    for item in systems:
        places = [_place(item, where, number) for number in range(repeats)]
        told = [_told(item, place) for place in places]
        pairs = zip(runs[item.name], told, strict=True)
        work[item.name] = [replace(run, seconds=one.parts["job_s"]) for run, one in pairs]
        figures[item.name] = _figures(item, told, runs[item.name], places)
    return summarise(case, work, peer=peer.name, figures=figures)


def with_figures(row: Row, **figures: float) -> Row:
    """A row that has more to say."""
    return replace(row, figures={**row.figures, **figures})


def _commands(system: System, arguments: Sequence[str], where: Path) -> Callable[[int], Command]:
    def command(number: int) -> Command:
        place = _place(system, where, number)
        place.mkdir()
        peer = ("benchmarks.peer_spark", system.way, str(place / "account.json"))
        named = ("--out", str(place / "results"), "--quiet", *system.arguments)
        return Command(
            argv=(sys.executable, "-W", "ignore", "-m", *peer, *arguments, *named), environment={"TMPDIR": str(place)}
        )

    return command


def _place(system: System, where: Path, number: int) -> Path:
    return where / f"{''.join(filter(str.isalnum, system.name))}_{number}"


def _told(system: System, place: Path) -> Account:
    told = read_account(place / "account.json")
    if told.refusal:
        raise RuntimeError(f"{system.name}: {told.refusal}")
    return told


def _figures(system: System, told: Sequence[Account], runs: Sequence[Measurement], places: Sequence[Path]) -> Figures:
    """Medians over the rounds: steps, balance, memory by role."""
    balances = [balance_of(place / "results", one, system.slots) for place, one in zip(places, told, strict=True)]
    steps = {name: statistics.median(one.parts.get(name, 0.0) for one in told) for name in STEPS}
    cpu = {f"{role}_cpu_s": statistics.median(run.cpu_seconds_of.get(role, 0.0) for run in runs) for role in ROLES}
    memory = {f"{role}_mb": statistics.median(run.peak_mb_of.get(role, 0.0) for run in runs) for role in ROLES}
    return {
        **steps,
        "whole_process_s": statistics.median(run.seconds for run in runs),
        "bins": balances[0].n_bins,
        "predicted_s": statistics.median(one.predicted_s for one in balances),
        "makespan_s": statistics.median(one.makespan_s for one in balances),
        "makespan_to_ideal": statistics.median(one.to_ideal for one in balances),
        "between_bins_s": statistics.median(one.between_s for one in balances),
        **cpu,
        "cpu_s": statistics.median(sum(run.cpu_seconds_of.values()) for run in runs),
        **memory,
    }
