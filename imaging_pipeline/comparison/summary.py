"""Figures over all series of a comparison, one line a label, and the plot of their volumes."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from imaging_pipeline.comparison.compare import LabelRow
from imaging_pipeline.errors import Code, PipelineError

_LIMITS = 1.96
"""Standard deviations within which 95 % of differences lie (Bland and Altman, Lancet 1986)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """One label over all series.

    Attributes:
        name: Of the label.
        n_series: Series with the label on both sides of the comparison.
        dice: Mean.
        lowest_dice: The smallest.
        mean_surface_mm: Mean over series.
        hausdorff95_mm: The largest.
        bias_ml: Mean of second minus first.
        low_ml: Lower limit of agreement: bias - 1.96 standard deviations; None for one series.
        high_ml: Upper limit.
    """

    name: str
    n_series: int
    dice: float | None
    lowest_dice: float | None
    mean_surface_mm: float | None
    hausdorff95_mm: float | None
    bias_ml: float
    low_ml: float | None
    high_ml: float | None


def summaries(rows: list[LabelRow]) -> list[LabelSummary]:
    """One for each label, in the order in which they come."""
    return [
        _summary(name, [row for row in rows if row.name == name]) for name in dict.fromkeys(row.name for row in rows)
    ]


def bland_altman(rows: list[LabelRow], names: tuple[str, str]) -> bytes:
    """Differences of volumes over their means, with bias and limits of agreement, as PNG.

    Args:
        rows: Labels of series.
        names: What the first and the second are called.

    Raises:
        PipelineError: `extra-missing`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        hint = "pip install 'imaging-pipeline[plots]'"
        raise PipelineError(Code.EXTRA_MISSING, "matplotlib is not installed", hint) from None
    labels = summaries(rows)
    n_columns = min(len(labels), 3)
    n_lines = -(-len(labels) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.4 * n_lines), layout="constrained")
    axes = figure.subplots(n_lines, n_columns, squeeze=False).ravel()
    for axis, label in zip(axes, labels, strict=False):
        _panel(axis, label, [row for row in rows if row.name == label.name])
    for axis in axes[len(labels) :]:
        axis.set_axis_off()
    figure.supxlabel("mean of both volumes, ml")
    figure.supylabel(f"{names[1]} minus {names[0]}, ml")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return content.getvalue()


def _panel(axis: Any, label: LabelSummary, rows: list[LabelRow]) -> None:
    means = [(row.volume_a_ml + row.volume_b_ml) / 2 for row in rows]
    axis.scatter(means, [row.difference_ml for row in rows], s=18, color="#08519C", alpha=0.7)
    axis.axhline(0, color="#999999", linewidth=0.8)
    for value, style in ((label.bias_ml, "-"), (label.low_ml, "--"), (label.high_ml, "--")):
        if value is not None:
            axis.axhline(value, color="#E6550D", linewidth=1, linestyle=style)
            axis.annotate(
                f"{value:+.3f}", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
    axis.set_title(f"{label.name} (n = {label.n_series})", fontsize=10)
    axis.margins(0.15, 0.2)


def _summary(name: str, rows: list[LabelRow]) -> LabelSummary:
    differences = np.array([row.difference_ml for row in rows])
    bias, spread = float(differences.mean()), _LIMITS * float(differences.std(ddof=1)) if len(rows) > 1 else None
    dices = [row.dice for row in rows if row.dice is not None]
    surfaces = [row.mean_surface_mm for row in rows if row.mean_surface_mm is not None]
    return LabelSummary(
        name=name,
        n_series=len(rows),
        dice=float(np.mean(dices)) if dices else None,
        lowest_dice=min(dices, default=None),
        mean_surface_mm=float(np.mean(surfaces)) if surfaces else None,
        hausdorff95_mm=max((row.hausdorff95_mm for row in rows if row.hausdorff95_mm is not None), default=None),
        bias_ml=bias,
        low_ml=None if spread is None else bias - spread,
        high_ml=None if spread is None else bias + spread,
    )
