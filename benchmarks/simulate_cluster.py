"""Predicts a cluster of GPUs: studies an hour, where slots wait, and what would hold up the next study.

    python -m benchmarks.simulate_cluster [--quick] [--studies N] [--json FILE] [--chart PNG]

100 000 CT studies of 500 MB in the mean, dealt into bins by the project's own code, on 10 and 100 nodes of four GPUs.
Seconds of each step on a CPU are measured ones (benchmarks/costs.json; `python -m benchmarks.measure_costs` takes
them anew); of the GPU they are assumed. Nothing of Spark runs here.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.chart_simulation import draw
from benchmarks.costs import FILE, read_costs
from benchmarks.simulated_runs import FAULTS, OPEN_FILE_S, STREAM_MB_S, Prediction, Scenario, predict
from benchmarks.simulated_studies import make_studies
from benchmarks.simulated_values import DECODE, DRAIN, IDLE, LAUNCH, READ, RESTART, WRITER

N_STUDIES, FEW_STUDIES = 100_000, 4_000
NODES = (10, 100)
GPU_S = (1.0, 2.0, 6.0)
STORAGE_MB_S = (500, 1_000, 2_000, 5_000, 20_000, 50_000)
USUAL = Scenario(nodes=10, gpu_s=2.0, storage_mb_s=5_000)
BINS_PER_SLOT = (1, 2, 4, 8, 16)
GOAL_PER_HOUR = 2_000

Run = tuple[Scenario, Prediction]


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{FEW_STUDIES} studies")
    parser.add_argument("--studies", type=int, metavar="N", default=N_STUDIES, help=f"{N_STUDIES} unless given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--chart", type=Path, metavar="PNG", help="draw them")
    arguments = parser.parse_args(argv)
    n = FEW_STUDIES if arguments.quick else arguments.studies
    studies, costs = make_studies(n), read_costs()
    runs = [(scenario, predict(scenario, studies, costs)) for scenario in _scenarios()]
    print(f"{n} studies; costs of {FILE.name}; assumed: {FAULTS}, {STREAM_MB_S:g} MB/s a reader, ", end="")
    print(f"{1000 * OPEN_FILE_S:g} ms to open a file\n")
    print(_table(runs))
    print(_goal(runs))
    if arguments.json:
        content = [{**asdict(one), **asdict(found), "bottleneck": found.bottleneck} for one, found in runs]
        arguments.json.write_text(json.dumps({"studies": n, "runs": content}, indent=2) + "\n", encoding="utf-8")
    if arguments.chart:
        draw(runs, USUAL, n, arguments.chart)


def _scenarios() -> list[Scenario]:
    """Storage by GPU by nodes, and bins around the usual case of each cluster; each once."""
    wide = [Scenario(nodes=n, gpu_s=g, storage_mb_s=mb) for n in NODES for g in GPU_S for mb in STORAGE_MB_S]
    binned = [replace(usual_for(n), bins_per_slot=bins) for n in NODES for bins in BINS_PER_SLOT]
    return list(dict.fromkeys([*wide, *binned]))


def usual_for(nodes: int) -> Scenario:
    """The case that stands for a cluster: storage grows with it."""
    return replace(USUAL, nodes=nodes, storage_mb_s=USUAL.storage_mb_s * nodes // USUAL.nodes)


def _table(runs: Sequence[Run]) -> str:
    heads = (
        "nodes", "bins/slot", "GPU s", "storage MB/s", "studies/h", "tasks alone", "GPU", "waits: read", "decode",
        "writer", "task ends", "restart", "no task", "planning h", "driver GB", "driver", "last commit s", "retries",
        "bottleneck", "next",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for one, found in runs:
        share = found.shares
        waits = (share[READ], share[DECODE], share[WRITER], share[DRAIN] + share[LAUNCH], share[RESTART], share[IDLE])
        cells = (
            one.nodes, one.bins_per_slot, f"{one.gpu_s:g}", f"{one.storage_mb_s:g}", f"{found.studies_per_hour:,.0f}",
            f"{found.tasks_studies_per_hour:,.0f}", f"{found.gpu_used:.0%}", *(f"{wait:.1%}" for wait in waits),
            f"{found.plan_s / 3600:.2f}", f"{found.driver_gb:.0f}", f"{found.driver_used:.0%}",
            f"{found.last_commit_s:.1f}", found.retries, found.bottleneck, found.next_bottleneck,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _goal(runs: Sequence[Run]) -> str:
    fewest = min(NODES)
    reached = [found.studies_per_hour for one, found in runs if one.nodes == fewest]
    enough = sorted(
        one.storage_mb_s for one, found in runs if one.nodes == fewest and found.studies_per_hour >= GOAL_PER_HOUR
    )
    least = f"from {enough[0]:g} MB/s of storage on" if enough else "nowhere here"
    return (
        f"\ngoal, {GOAL_PER_HOUR} studies an hour on {fewest} nodes: reached {least}; "
        f"{min(reached):,.0f} to {max(reached):,.0f} an hour over all cases"
    )


if __name__ == "__main__":
    main()
