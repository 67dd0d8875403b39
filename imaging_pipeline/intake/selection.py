"""Which of the volumes a model takes, by the rules in its `selection.yaml`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesTask, SkippedSeries


class Range(BaseModel):
    """Closed interval; every one of several values must lie in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    min: float = -np.inf
    max: float = np.inf


class Requirements(BaseModel):
    """Conditions that a series must meet, all of them; one that is absent is met.

    Attributes:
        modality: Modality (0008,0060).
        n_slices: Number of slices.
        spacing_mm: Distances between voxels along columns, rows and slices.
        field_of_view_mm: Extent along columns, rows and slices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    modality: str | None = None
    n_slices: Range = Range()
    spacing_mm: Range = Range()
    field_of_view_mm: Range = Range()


class SelectionRules(BaseModel):
    """The content of a `selection.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    require: Requirements = Requirements()


def read_rules(path: Path | None) -> SelectionRules:
    """Rules of a model; without a file every volume is taken.

    Raises:
        PipelineError: `model-invalid` for a file that holds anything but known conditions.
    """
    if path is None:
        return SelectionRules()
    try:
        return SelectionRules.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise PipelineError(
            Code.MODEL_INVALID, f"{path}: {' '.join(str(error).split())}", "correct the selection rules"
        ) from None


def select(
    tasks: Iterable[SeriesTask], rules: SelectionRules, model: str
) -> tuple[list[SeriesTask], list[SkippedSeries]]:
    """Tasks that the rules take, and the others with the rule that each breaks."""
    taken: list[SeriesTask] = []
    refused: list[SkippedSeries] = []
    for task in tasks:
        reason = _broken_rule(task, rules.require)
        if reason is None:
            taken.append(task)
            continue
        refused.append(
            SkippedSeries(
                identity=task.identity,
                code=Code.NOT_SELECTED,
                message=f"model {model}: {reason}",
                hint="choose a model for such series, or --model none for volumes only",
            )
        )
    return taken, refused


def _broken_rule(task: SeriesTask, require: Requirements) -> str | None:
    if require.modality is not None and task.identity.modality != require.modality:
        return f"modality {task.identity.modality}, {require.modality} is taken"
    spacing_mm = (*reversed(task.pixel_spacing_mm), float(np.linalg.norm(task.step_mm)))
    counts = (task.columns, task.rows, len(task.slices))
    field_of_view_mm = tuple(count * step for count, step in zip(counts, spacing_mm, strict=True))
    checks: tuple[tuple[str, tuple[Any, ...], Range], ...] = (
        ("number of slices", (len(task.slices),), require.n_slices),
        ("spacing in mm", spacing_mm, require.spacing_mm),
        ("field of view in mm", field_of_view_mm, require.field_of_view_mm),
    )
    for name, values, allowed in checks:
        if any(not allowed.min <= value <= allowed.max for value in values):
            return (
                f"{name} {' x '.join(f'{value:.4g}' for value in values)}, {allowed.min:g} to {allowed.max:g} is taken"
            )
    return None
