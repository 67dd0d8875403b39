"""Names and numbers of a model's labels, from its `labels.tsv`."""

import csv
from dataclasses import dataclass
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One structure that a model finds.

    Attributes:
        index: Its number in the mask; 0 is background and is no label.
        name: Its name in plain words.
    """

    index: int
    name: str


def read_labels(path: Path) -> tuple[Label, ...]:
    """Labels of a table with columns `index` and `name` (BIDS derivatives, dseg.tsv), background left out.

    Raises:
        PipelineError: `model-invalid` for a table without those columns, or with a bad or repeated index.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            labels = [
                Label(index=int(row["index"]), name=row["name"]) for row in csv.DictReader(stream, delimiter="\t")
            ]
    except (OSError, KeyError, ValueError) as error:
        raise PipelineError(
            Code.MODEL_INVALID, f"{path}: {error!r}", "write a tab-separated table with columns index and name"
        ) from None
    indices = [label.index for label in labels]
    if len(set(indices)) != len(indices) or any(not 0 <= index < 2**16 for index in indices):
        raise PipelineError(
            Code.MODEL_INVALID, f"{path}: indices {indices} repeat or leave 0..65535", "number every label once"
        )
    return tuple(label for label in labels if label.index != 0)
