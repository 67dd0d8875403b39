"""What each side of a comparison holds, and which of its series are the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import Status
from imaging_pipeline.results.reading import read_series
from imaging_pipeline.stores import Store

_COLUMNS = (
    *("series_key", "model_name", "series_uid", "stack", "inputs_digest", "modality", "status", "reason_code"),
    *("geometry_verdict", "mask_path", "measurements_path", "flags"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One set of masks.

    Attributes:
        out: RESULTS.
        model: Model name.
        rows: What the index says of each series under this model.
    """

    out: Store
    model: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One series on both sides: rows of the index."""

    first: dict[str, Any]
    second: dict[str, Any]

    @property
    def has_masks(self) -> bool:
        """Whether there are two masks to compare."""
        return all(row["status"] == Status.DONE and row["mask_path"] for row in (self.first, self.second))


def open_side(out: Store, model: str | None) -> Side:
    """Rows of one model.

    Args:
        out: RESULTS.
        model: Its name; None: the only one that there are masks of.

    Raises:
        PipelineError: `results-not-found`, `nothing-to-compare`, `usage` or `index-damaged`.
    """
    rows = read_series(out, _COLUMNS).to_pylist()
    models = sorted({row["model_name"] for row in rows if row["mask_path"]})
    if not models:
        message = f"{out} has no mask"
        raise PipelineError(Code.NOTHING_TO_COMPARE, message, "name a RESULTS of a run with a model")
    if model is None and len(models) > 1:
        message = f"{out} has masks of {len(models)} models: {', '.join(models)}"
        raise PipelineError(Code.USAGE, message, "say which by --models A B")
    if model is not None and model not in models:
        message = f"{out} has no mask of {model}"
        raise PipelineError(Code.NOTHING_TO_COMPARE, message, f"it has those of {', '.join(models)}")
    name = model or models[0]
    return Side(out=out, model=name, rows=[row for row in rows if row["model_name"] == name])


def matches(first: Side, second: Side) -> Iterator[Match]:
    """Series of both sides, by the digest of their inputs, else by Series Instance UID and stack.

    Keys do not say it: each RESULTS makes its own.
    """
    by_inputs = {row["inputs_digest"]: row for row in second.rows}
    by_uid = {(row["series_uid"], row["stack"]): row for row in second.rows if row["series_uid"]}
    for row in sorted(first.rows, key=lambda row: (row["series_uid"], row["stack"])):
        other = by_inputs.get(row["inputs_digest"]) or by_uid.get((row["series_uid"], row["stack"]))
        if other is not None:
            yield Match(first=row, second=other)
