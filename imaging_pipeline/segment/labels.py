"""Names, numbers, codes and colours of a model's labels, from its `labels.tsv`."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError

SNOMED_CT = "SCT"
"""Coding Scheme Designator (0008,0102) of SNOMED CT, DICOM PS3.16 table 8-1."""

_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
_LONGEST = {"code": 16, "scheme": 16, "meaning": 64}
"""Characters of a Short String (SH) and a Long String (LO), DICOM PS3.5 table 6.2-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """What a structure is, in the words of a terminology.

    Attributes:
        code: Code Value (0008,0100).
        meaning: Code Meaning (0008,0104).
        scheme: Coding Scheme Designator (0008,0102).
    """

    code: str
    meaning: str
    scheme: str = SNOMED_CT


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One structure that a model finds.

    Attributes:
        index: Its number in the mask; 0 is background and is no label.
        name: Its name in plain words.
        colour: As #RRGGBB; empty where the table names none.
        category: Kind of the structure, such as Anatomical Structure; None where the table has no code.
        type: The structure itself.
        modifier: Which one, such as Left or Anterior.
        plausible_ml: Lowest and highest volume that is not worth a look; None where the table names none.
    """

    index: int
    name: str
    colour: str = ""
    category: Concept | None = None
    type: Concept | None = None
    modifier: Concept | None = None
    plausible_ml: tuple[float, float] | None = None


def read_labels(path: Path) -> tuple[Label, ...]:
    """Labels of a table with columns `index` and `name` (BIDS derivatives, dseg.tsv), background left out.

    Further columns, empty or absent where they are not known: `color` as #RRGGBB; `category_code` and
    `category_meaning`, and the same for `type` and `modifier`, of the terminology that `category_scheme`, ... names
    (SCT, which is SNOMED CT, by default); `plausible_min_ml` and `plausible_max_ml`.

    Raises:
        PipelineError: `model-invalid` for a table without the first two, with a bad or repeated index, a colour that
            is none, half a code, or a plausible volume that is no range.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            labels = [_label(row, path) for row in csv.DictReader(stream, delimiter="\t")]
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


def _label(row: Mapping[str, str | None], path: Path) -> Label:
    name, colour = row["name"] or "", row.get("color") or ""
    if colour and not _COLOUR.fullmatch(colour):
        message = f"{path}: the color of {name!r} is {colour!r}"
        raise PipelineError(Code.MODEL_INVALID, message, "write #RRGGBB, six hexadecimal digits, or leave it empty")
    return Label(
        index=int(row["index"] or ""),
        name=name,
        colour=colour,
        category=_concept(row, "category", path),
        type=_concept(row, "type", path),
        modifier=_concept(row, "modifier", path),
        plausible_ml=_range(row, path),
    )


def _range(row: Mapping[str, str | None], path: Path) -> tuple[float, float] | None:
    low, high = ((row.get(f"plausible_{end}_ml") or "").strip() for end in ("min", "max"))
    if not low and not high:
        return None
    try:
        found = float(low), float(high)
    except ValueError:
        found = (1.0, 0.0)
    if not 0 <= found[0] < found[1] < float("inf"):
        message = f"{path}: the plausible volume of {row['name']!r} is {low!r} to {high!r} ml"
        raise PipelineError(
            Code.MODEL_INVALID,
            message,
            "fill in plausible_min_ml and plausible_max_ml, the first the smaller, or neither",
        )
    return found


def _concept(row: Mapping[str, str | None], kind: str, path: Path) -> Concept | None:
    """The code of a row; None where both its columns are empty or absent."""
    parts = {part: (row.get(f"{kind}_{part}") or "").strip() for part in _LONGEST}
    if not parts["code"] and not parts["meaning"]:
        return None
    for part, longest in _LONGEST.items():
        if len(parts[part]) > longest or (part != "scheme" and not parts[part]):
            message = f"{path}: {kind}_{part} of {row['name']!r} is {parts[part]!r}, not 1 to {longest} characters"
            raise PipelineError(Code.MODEL_INVALID, message, f"fill in {kind}_code and {kind}_meaning, or neither")
    return Concept(code=parts["code"], meaning=parts["meaning"], scheme=parts["scheme"] or SNOMED_CT)
