"""The chart of `bench_inference`: seconds and peak memory, against slices and against classes.

python -m benchmarks.chart_inference FIGURES.json CHART.png
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

STYLES = {
    "ours": ("imaging_pipeline", "#0072B2", "o", "-"),
    "written1": ("MONAI as written, 1 window", "#D55E00", "s", "-"),
    "written4": ("MONAI as written, 4 windows", "#D55E00", "D", "--"),
    "thrifty1": ("MONAI, argmax first, 1 window", "#009E73", "^", "-"),
    "thrifty4": ("MONAI, argmax first, 4 windows", "#009E73", "v", "--"),
    "ours_bf16": ("imaging_pipeline, bf16", "#56B4E9", "o", "--"),
    "written1_bf16": ("MONAI as written, bf16", "#E69F00", "s", "-."),
    "thrifty1_bf16": ("MONAI, argmax first, bf16", "#000000", "^", "-."),
    "nnunet": ("nnU-Net predictor and resampling", "#CC79A7", "P", ":"),
}
"""Label, colour (Okabe and Ito: told apart by colour-blind readers), marker and line of a system."""

STAGES = ("load_s", "preprocess_s", "network_s", "restore_s", "write_s")
"""From DICOM to NIfTI: what a further series of the same run costs."""

MEASURES = {
    "chain_s": (1.0, "seconds from DICOM to NIfTI"),
    "high_water_mb": (1024.0, "peak memory of the process, GiB"),
}
CLASSES = 14

RowFigures = Mapping[str, Any]


def main() -> None:
    """Draw what a run of the benchmark wrote with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, metavar="FIGURES.json")
    parser.add_argument("chart", type=Path, metavar="CHART.png")
    arguments = parser.parse_args()
    draw(json.loads(arguments.figures.read_text())["rows"], arguments.chart)


def draw(rows: Sequence[RowFigures], path: Path) -> None:
    """Draw the synthetic CTs of the grid that most rows have.

    Args:
        rows: Flat rows of the report.
        path: PNG to write.
    """
    cts = [_with_chain(row) for row in rows if str(row["case"]).startswith("ct")]
    if not cts:
        raise ValueError("no row of a synthetic CT to draw")
    grid_mm, _ = Counter(row["grid_mm"] for row in cts).most_common(1)[0]
    cts = [row for row in cts if row["grid_mm"] == grid_mm]
    n_slices = min(row["slices"] for row in cts)
    by_slices = [row for row in cts if row["classes"] == CLASSES]
    by_classes = [row for row in cts if row["slices"] == n_slices]
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for line, (measure, (unit, name)) in zip(panels, MEASURES.items(), strict=True):
        _panel(line[0], by_slices, "slices", measure, unit)
        line[0].set(xlabel=f"slices ({CLASSES} classes)", ylabel=name)
        _panel(line[1], by_classes, "classes", measure, unit)
        line[1].set(xlabel=f"classes ({n_slices} slices)", ylabel=name)
    handles, labels = _legend(panels.flat)
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"DICOM to NIfTI: same UNet, weights and windows, grid of {grid_mm:g} mm; windows a batch as named")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _with_chain(row: RowFigures) -> RowFigures:
    return {**row, "chain_s": sum(float(row.get(stage) or 0) for stage in STAGES)}


def _panel(axes: Axes, rows: Sequence[RowFigures], against: str, measure: str, unit: float) -> None:
    """One line a system; a run that did not fit leaves its point out and is named at the upper edge."""
    for system, (label, colour, marker, line) in STYLES.items():
        points = sorted(
            (row[against], row[measure] / unit) for row in rows if row["system"] == system and row["repeats"]
        )
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, linestyle=line)
    absent = sorted({(row[against], row["system"]) for row in rows if not row["repeats"]})
    for rank, (value, system) in enumerate(absent):
        axes.annotate(
            f"{STYLES[system][0]}: not run ",
            (value, 1 - 0.06 * rank),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="top",
            fontsize=8,
            color=STYLES[system][1],
        )
    values = sorted({row[against] for row in rows})
    if against == "classes":
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    """Every system once, whichever panels it stands in."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


if __name__ == "__main__":
    main()
