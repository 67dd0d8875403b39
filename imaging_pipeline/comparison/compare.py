"""Masks of two RESULTS, or of two models in one, series by series and label by label."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from imaging_pipeline.comparison.distance import agreement, boxes
from imaging_pipeline.comparison.sides import Match, Side
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.measurements import read_measurements
from imaging_pipeline.rows import schema_of, to_batch
from imaging_pipeline.stores import Store
from imaging_pipeline.volume import Volume

_SAME_GRID_MM = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One label of one series on both sides; None where a side has no such label, or nothing of it.

    Attributes:
        series_a: Series key in the first.
        series_b: In the second.
        modality: Of the series.
        name: Of the label, by which labels are matched.
        volume_a_ml: Volume in the first.
        volume_b_ml: In the second.
        difference_ml: Second minus first.
        dice: Overlap, 0 to 1; None where both are empty.
        mean_surface_mm: Mean distance of the surfaces.
        hausdorff95_mm: 95 % Hausdorff distance, the larger of both directions.
    """

    series_a: str
    series_b: str
    modality: str
    name: str
    volume_a_ml: float
    volume_b_ml: float
    difference_ml: float
    dice: float | None
    mean_surface_mm: float | None
    hausdorff95_mm: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the index says otherwise of a series: a column, and what stands there on either side."""

    series_a: str
    series_b: str
    column: str
    first: str
    second: str


def compare(match: Match, first: Side, second: Side) -> Iterator[LabelRow]:
    """Every label that both tables of measurements name.

    Raises:
        PipelineError: `grid-mismatch`, `output-missing` or `output-changed`: what a side lacks.
    """
    masks = [_mask(side.out, row["mask_path"]) for side, row in ((first, match.first), (second, match.second))]
    _check_grids(masks, match)
    tables = [_volumes(side.out, row) for side, row in ((first, match.first), (second, match.second))]
    same_numbers = _on_common_numbers(masks, tables)
    places = boxes(masks[0].array, same_numbers)
    for name, (number, volume_ml) in tables[0].items():
        if name not in tables[1]:
            continue
        box = places.get(number, (slice(0, 0),) * 3)
        found = agreement(masks[0].array[box] == number, same_numbers[box] == number, masks[0].affine)
        other_ml = tables[1][name][1]
        yield LabelRow(
            series_a=match.first["series_key"],
            series_b=match.second["series_key"],
            modality=match.first["modality"],
            name=name,
            volume_a_ml=volume_ml,
            volume_b_ml=other_ml,
            difference_ml=round(other_ml - volume_ml, 6),
            dice=_rounded(found.dice),
            mean_surface_mm=_rounded(found.mean_mm),
            hausdorff95_mm=_rounded(found.hausdorff95_mm),
        )


def changes(match: Match) -> Iterator[Change]:
    """Verdicts that are others: status, reason, geometry, flags."""
    for column in ("status", "reason_code", "geometry_verdict", "flags"):
        first, second = (_told(row[column]) for row in (match.first, match.second))
        if first != second:
            keys = {"series_a": match.first["series_key"], "series_b": match.second["series_key"]}
            yield Change(**keys, column=column, first=first, second=second)


def to_table(rows: list[LabelRow]) -> pa.Table:
    """Rows as an Arrow table."""
    return pa.Table.from_batches([to_batch(LabelRow, rows)], schema=schema_of(LabelRow))


def _mask(out: Store, path: str) -> Volume:
    try:
        image = nib.Nifti1Image.from_bytes(gzip.decompress(out.read(path)))
        return Volume(array=np.asarray(image.dataobj), affine=np.asarray(image.affine, np.float64))
    except FileNotFoundError:
        raise _spoilt(Code.OUTPUT_MISSING, f"{out}/{path} is not there") from None
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError) as error:
        raise _spoilt(Code.OUTPUT_CHANGED, f"{out}/{path} is no mask: {error}") from None


def _volumes(out: Store, row: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Name of each label to its number and volume."""
    try:
        found = read_measurements(out, row["measurements_path"] or "")
    except (OSError, ValueError) as error:
        message = f"{out}: measurements of series {row['series_key']} cannot be read: {error}"
        raise _spoilt(Code.OUTPUT_MISSING, message) from None
    return {item.name: (item.label, item.volume_ml) for item in found}


def _check_grids(masks: list[Volume], match: Match) -> None:
    first, second = masks
    if first.shape != second.shape or np.abs(first.affine - second.affine).max() > _SAME_GRID_MM:
        sizes = " and ".join(" x ".join(map(str, mask.shape)) for mask in masks)
        message = f"series {match.first['series_key']}: masks of {sizes} voxels do not lie on one grid"
        raise PipelineError(Code.GRID_MISMATCH, message, "compare runs with the same geometry.* settings")


def _on_common_numbers(masks: list[Volume], tables: list[dict[str, tuple[int, float]]]) -> NDArray[np.uint16]:
    """The second mask in the numbers that the first has for the same names; 0 for names that it does not know."""
    last = max(int(masks[1].array.max(initial=0)), *(number for number, _ in tables[1].values()), 0)
    numbers = np.zeros(last + 1, np.uint16)
    for name, (number, _) in tables[1].items():
        if name in tables[0]:
            numbers[number] = tables[0][name][0]
    renumbered: NDArray[np.uint16] = numbers[masks[1].array]
    return renumbered


def _told(value: Any) -> str:
    return ", ".join(sorted({item["code"] for item in value})) if isinstance(value, list) else str(value or "")


def _spoilt(code: Code, message: str) -> PipelineError:
    return PipelineError(
        code, message, "python -m imaging_pipeline.verify names what is lost; run again to make it anew"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
