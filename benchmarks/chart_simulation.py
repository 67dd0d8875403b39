"""The chart of `simulate_cluster`: throughput against storage, what GPUs do, balance, and what a study asks for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from benchmarks.simulated_runs import Prediction, Scenario
from benchmarks.simulated_values import DECODE, DRAIN, GPU, IDLE, LAUNCH, READ, RESTART, WRITER

GPU_COLOURS = {1.0: "#0072B2", 2.0: "#009E73", 6.0: "#D55E00"}
"""Okabe and Ito's colours: told apart by colour-blind readers."""
NODE_STYLES = {10: ("o", "-"), 100: ("s", "--")}
STATES = (
    ((GPU,), "GPU works", "#0072B2"),
    ((READ,), "waits for storage", "#E69F00"),
    ((DECODE,), "waits for decoding", "#56B4E9"),
    ((WRITER,), "waits for the mask's writer", "#CC79A7"),
    ((DRAIN, LAUNCH, RESTART), "start and end of a task, restart", "#999999"),
    ((IDLE,), "no task left", "#F0E442"),
)
GOAL_PER_HOUR = 2_000

Run = tuple[Scenario, Prediction]


def draw(runs: Sequence[Run], usual: Scenario, n_studies: int, path: Path) -> None:
    """Draw all runs.

    Args:
        runs: Scenarios and what comes of them.
        usual: The case of ten nodes that the others differ from.
        n_studies: Studies of each run.
        path: PNG to write.
    """
    figure, panels = plt.subplots(2, 2, figsize=(13, 9.5), layout="constrained")
    found = dict(runs)
    _throughput(panels[0][0], found, usual)
    _waits(panels[0][1], found, usual)
    _bins(panels[1][0], found, usual)
    _demands(panels[1][1], found, usual)
    figure.suptitle(f"Simulated: {n_studies:,} CT studies of 500 MB in the mean, four GPUs a node")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _usual(found: dict[Scenario, Prediction], usual: Scenario) -> list[Scenario]:
    """The usual case of each cluster: as much storage a node."""
    nodes = sorted({one.nodes for one in found})
    scaled = (replace(usual, nodes=n, storage_mb_s=usual.storage_mb_s * n // usual.nodes) for n in nodes)
    return [one for one in scaled if one in found]


def _throughput(axes: Axes, found: dict[Scenario, Prediction], usual: Scenario) -> None:
    for nodes, (marker, line) in NODE_STYLES.items():
        for gpu_s, colour in GPU_COLOURS.items():
            points = sorted(
                (one.storage_mb_s, prediction.studies_per_hour)
                for one, prediction in found.items()
                if (one.nodes, one.gpu_s, one.bins_per_slot) == (nodes, gpu_s, usual.bins_per_slot)
            )
            label = f"{nodes} nodes, {gpu_s:g} s of GPU a study"
            axes.plot(*zip(*points, strict=True), marker=marker, linestyle=line, color=colour, label=label)
    axes.axhline(GOAL_PER_HOUR, color="black", linewidth=1, linestyle=":", label="goal for 10 nodes: 2,000 an hour")
    axes.set(xscale="log", yscale="log", xlabel="storage, MB/s for all nodes together", ylabel="studies an hour")
    axes.set_title("Throughput of a whole run, planning included")
    thousands = FuncFormatter(lambda value, _: f"{value:,.0f}")
    for axis, ticks in ((axes.xaxis, (500, 1000, 2000, 5000, 20000, 50000)), (axes.yaxis, _decades(axes))):
        axis.set_ticks(ticks)
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(thousands)
    axes.legend(fontsize=8, loc="upper left")
    _tidy(axes)


def _decades(axes: Axes) -> list[float]:
    low, high = axes.get_ylim()
    return [value for power in range(2, 7) for value in (10**power, 2 * 10**power, 5 * 10**power) if low < value < high]


def _waits(axes: Axes, found: dict[Scenario, Prediction], usual: Scenario) -> None:
    cases = [replace(one, gpu_s=gpu_s) for one in _usual(found, usual) for gpu_s in GPU_COLOURS]
    cases += [replace(cases[0], gpu_s=usual.gpu_s, storage_mb_s=1_000)]
    cases = [one for one in cases if one in found]
    names = [f"{one.nodes} nodes, {one.gpu_s:g} s,\n{one.storage_mb_s:,.0f} MB/s" for one in cases]
    left = [0.0] * len(cases)
    for states, label, colour in STATES:
        shares = [sum(found[one].shares[state] for state in states) for one in cases]
        axes.barh(names, shares, left=left, color=colour, label=label, edgecolor="white", linewidth=0.5)
        left = [one + other for one, other in zip(left, shares, strict=True)]
    for row, one in enumerate(cases):
        axes.text(0.01, row, f"{found[one].gpu_used:.0%}", va="center", color="white", fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the GPUs' time while tasks run")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("What GPUs do (nodes, GPU seconds a study, storage)")
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    _tidy(axes)


def _bins(axes: Axes, found: dict[Scenario, Prediction], usual: Scenario) -> None:
    for one, (marker, line) in zip(_usual(found, usual), NODE_STYLES.values(), strict=False):
        points = sorted(
            (other.bins_per_slot, prediction.to_ideal)
            for other, prediction in found.items()
            if replace(other, bins_per_slot=usual.bins_per_slot) == one
        )
        label = f"{one.nodes} nodes"
        axes.plot(*zip(*points, strict=True), marker=marker, linestyle=line, color="#0072B2", label=label)
        axes.set_xticks([n for n, _ in points])
    axes.axhline(1.15, color="black", linewidth=1, linestyle=":", label="goal: 1.15")
    axes.set(xlabel="bins for each slot (setting spark.bins_per_slot)", ylabel="time of the tasks / mean busy time")
    axes.set_ylim(bottom=1.0)
    axes.set_title("Balance, with slow slots and failures")
    axes.legend(fontsize=8)
    _tidy(axes)


def _demands(axes: Axes, found: dict[Scenario, Prediction], usual: Scenario) -> None:
    cases = _usual(found, usual)
    names = sorted(found[cases[-1]].demands_s, key=lambda name: found[cases[-1]].demands_s[name])
    height = 0.8 / len(cases)
    for place, (one, colour) in enumerate(zip(cases, ("#56B4E9", "#0072B2"), strict=False)):
        rows = [row + (place - (len(cases) - 1) / 2) * height for row in range(len(names))]
        seconds = [max(found[one].demands_s[name], 1e-6) for name in names]
        label = f"{one.nodes} nodes, {one.gpu_s:g} s of GPU, {one.storage_mb_s:,.0f} MB/s"
        axes.barh(rows, seconds, height=height, color=colour, label=label)
        for row, value in zip(rows, seconds, strict=True):
            axes.text(value * 1.05, row, f"{1000 * value:,.1f} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlabel="seconds that one study more keeps it busy, the whole cluster's share")
    axes.set_xlim(right=axes.get_xlim()[1] * 4)
    axes.set_title("The longest bar is the bottleneck")
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3, axis="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
