"""Pictures of the default model's accuracy for its card: how Dice is distributed, and where it is worst."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.settings import Settings

if TYPE_CHECKING:
    from benchmarks.eval_hippocampus import Score

mpl.use("Agg")
COLORS = {"anterior": "#E6550D", "posterior": "#3182BD"}


def draw(scores: Sequence["Score"], dataset: Path, folder: Path, settings: Settings) -> None:
    """Write `distribution.png` and `worst.png`.

    Args:
        scores: Of every crop.
        dataset: Holds images/ and labels/.
        folder: Where the pictures go.
        settings: As the scores were made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _distribution(scores).savefig(folder / "distribution.png", dpi=90)
    worst = sorted(scores, key=lambda score: score.mean)[:6]
    _worst(worst, dataset, settings).savefig(folder / "worst.png", dpi=90)
    plt.close("all")


def _distribution(scores: Sequence["Score"]) -> Any:
    """One point a crop, and the quartiles of each fold."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    folds = sorted({score.fold for score in scores})
    generator = np.random.default_rng(0)
    for side, (label, color) in zip((-0.2, 0.2), COLORS.items(), strict=True):
        for fold in folds:
            values = [getattr(score, label) for score in scores if score.fold == fold]
            place = folds.index(fold) + side
            axes.boxplot(values, positions=[place], widths=0.3, showfliers=False, medianprops={"color": "black"})
            scatter = place + generator.uniform(-0.1, 0.1, len(values))
            axes.scatter(scatter, values, s=8, color=color, alpha=0.6, label=label if fold == folds[0] else None)
    axes.set_xticks(range(len(folds)), [f"fold {fold}" for fold in folds])
    axes.set_ylabel("Dice, subjects not seen")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


def _worst(scores: Sequence["Score"], dataset: Path, settings: Settings) -> Any:
    """The sagittal slice with most reference voxels: reference above, model below."""
    from benchmarks.eval_hippocampus import canonical, fold_engine, segmented

    figure, axes = plt.subplots(2, len(scores), figsize=(2.1 * len(scores), 4.6), layout="constrained")
    for column, score in enumerate(scores):
        image = canonical(dataset / "images" / f"{score.case}.nii.gz").array
        reference = canonical(dataset / "labels" / f"{score.case}.nii.gz").array
        found = segmented(fold_engine(score.fold, settings), dataset / "images" / f"{score.case}.nii.gz")
        plane = int(np.argmax((reference > 0).sum(axis=(1, 2))))
        for row, labels in enumerate((reference, found)):
            _panel(axes[row][column], image[plane], labels[plane])
        axes[0][column].set_title(f"{score.case[12:]}\n{score.anterior:.2f} / {score.posterior:.2f}", fontsize=9)
    axes[0][0].set_ylabel("reference")
    axes[1][0].set_ylabel("model")
    return figure


def _panel(axes: Any, plane: NDArray[Any], labels: NDArray[Any]) -> None:
    axes.imshow(plane.T, cmap="gray", origin="lower")
    for label, color in enumerate(COLORS.values(), start=1):
        if (labels == label).any():
            axes.contour((labels == label).T.astype(float), levels=[0.5], colors=[color], linewidths=1.2)
    axes.set_xticks([])
    axes.set_yticks([])
