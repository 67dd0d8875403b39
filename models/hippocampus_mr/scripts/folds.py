"""Folds of the training set that never part the two sides of one subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One labelled crop around one hippocampus."""

    case_id: int
    image: Path
    label: Path

    @property
    def subject(self) -> int:
        """Number of the subject: ids 2k-1 and 2k are the two sides of subject k."""
        return (self.case_id + 1) // 2


def cases(dataset_dir: str | Path) -> list[Case]:
    """List the labelled crops of a data set in the order of their ids.

    Args:
        dataset_dir: folder with `images/hippocampus_NNN.nii.gz` and `labels/` of the same names.

    Raises:
        FileNotFoundError: where the folder holds no image, or an image has no label.
    """
    root = Path(dataset_dir)
    found = [_case(image) for image in sorted((root / "images").glob("hippocampus_*.nii.gz"))]
    if not found:
        raise FileNotFoundError(f"no images/hippocampus_*.nii.gz under {root}")
    return found


def split(
    dataset_dir: str | Path, index: int | None, train_on: Sequence[int] | None = None
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Split a data set into MONAI data lists for training and for validation.

    A subject belongs to fold `subject % 5`, so its fold stays the same where other subjects are
    missing.

    Args:
        dataset_dir: folder that `cases` accepts.
        index: fold whose subjects are kept out of training, 0 to 4; None trains on every subject,
            and what fold 0 would keep out then only shows that training goes on.
        train_on: folds to train on, where not on all others: a start that several folds may share.

    Returns:
        The training list and the validation list, each of `{"image": ..., "label": ...}`.

    Raises:
        ValueError: where the fold does not exist.
    """
    if index is not None and not 0 <= index < FOLDS:
        raise ValueError(f"fold {index} does not exist, choose 0 to {FOLDS - 1}")
    chosen = set(range(FOLDS) if train_on is None else train_on) - {index}
    training: list[dict[str, str]] = []
    validation: list[dict[str, str]] = []
    for case in cases(dataset_dir):
        pair = {"image": str(case.image), "label": str(case.label)}
        if case.subject % FOLDS == (index or 0):
            validation.append(pair)
        if case.subject % FOLDS in chosen:
            training.append(pair)
    return training, validation


def _case(image: Path) -> Case:
    label = image.parents[1] / "labels" / image.name
    if not label.is_file():
        raise FileNotFoundError(f"{image.name} has no label at {label}")
    number = image.name.removesuffix(".nii.gz").rsplit("_", 1)[1]
    return Case(case_id=int(number), image=image, label=label)
