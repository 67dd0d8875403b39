"""What pages for people show of each series: rows of the index without what identifies a patient."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imaging_pipeline.contents import Contents
from imaging_pipeline.errors import Code
from imaging_pipeline.host import give_back_memory
from imaging_pipeline.records import GeometryVerdict, Status
from imaging_pipeline.results.index import kind_in
from imaging_pipeline.results.reading import read_series_batches
from imaging_pipeline.stores import Store

Row = dict[str, Any]

_COLUMNS = (
    "series_key stack series_number modality series_description n_slices model_name status reason_code message hint "
    "geometry_verdict findings shape spacing_mm volumes_ml agreement image_path mask_path preview_path formats_refused "
    "stage_seconds peak_rss_mb device backend windows_total windows_skipped memory_steps attempt run_id finished_at "
    "recomputed_because"
).split()
"""Subject, study and their UIDs stay in the index."""

_ORDERED = pa.schema(
    [
        pa.field("fate", pa.int8()),
        pa.field("is_clean", pa.bool_()),
        pa.field("key", pa.string()),
        pa.field("model", pa.string()),
        pa.field("at", pa.int64()),
        pa.field("n_bytes", pa.int64()),
    ]
)
"""What rows are sorted by, and where their JSON lies."""

_ORDER = {Status.FAILED.value: 0, Status.DONE.value: 1, Status.SKIPPED.value: 2}

_CHECKS = {
    Code.GANTRY_TILT: "slices are sheared: outlines may look stepped in the sagittal plane",
    Code.MISSING_SLICES: "look at the slices that were filled in: the anatomy there is interpolated",
    Code.VARIABLE_SPACING: "look at the slices that were resampled",
    Code.DUPLICATE_POSITIONS: "see that the copy that was kept is the right one",
    Code.DAMAGED_DECIMALS: "see that spacing and orientation are plausible",
    Code.MISSING_UID: "see that the slices belong to one series",
    Code.DERIVED: "a reformat: see that the model was made for such images",
    Code.PRECISION_LOSS: "compressed with loss: look at fine structures",
    Code.SPLIT_STACK: "one of several stacks of its series: see that it is the one you want",
    Code.TIME_SERIES: "one of several volumes of its series: see that it is the one you want",
}
"""What to look at where a volume has a finding."""

_ABROAD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
"""Characters that could hide or reorder text on a page."""


class Rows(Sequence[Row]):
    """Rows as JSON in a file, each an object while it is looked at."""

    def __init__(self, contents: Contents, places: NDArray[np.int64]) -> None:
        """Take them as they are.

        Args:
            contents: JSON of each.
            places: Where in it a row begins and how many bytes it has, of shape (rows, 2).
        """
        self._contents = contents
        self._places = places

    def __len__(self) -> int:
        """How many there are."""
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> "Rows": ...

    def __getitem__(self, place: int | slice) -> "Row | Rows":
        """One of them, made anew each time, or some."""
        if isinstance(place, slice):
            return Rows(self._contents, self._places[place])
        row: Row = json.loads(self._contents.read(*self._places[place].tolist()))
        return row


def read_rows(out: Store) -> Rows:
    """All series of a RESULTS, those first that somebody should look at; what an older index lacks is empty.

    Raises:
        PipelineError: `index-damaged` or `store-unreachable`.
    """
    contents, parts = Contents(), [_ORDERED.empty_table()]
    if kind_in(out) is not None:
        for batch in read_series_batches(out, [*_COLUMNS, "flags"]):
            rows = [_row(values) for values in batch.to_pylist(maps_as_pydicts="strict")]
            packed = [json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() for row in rows]
            placed = zip(rows, contents.add(packed), map(len, packed), strict=True)
            columns = zip(*((*_rank(row), at, n_bytes) for row, at, n_bytes in placed), strict=True)
            arrays = [pa.array(column, item.type) for column, item in zip(columns, _ORDERED, strict=True)]
            parts.append(pa.table(arrays, schema=_ORDERED))
    ordered = pa.concat_tables(parts).sort_by([(name, "ascending") for name in _ORDERED.names])
    give_back_memory()
    return Rows(contents, np.stack([ordered[name].to_numpy() for name in ("at", "n_bytes")], axis=1))


def _rank(row: Row) -> tuple[int, bool, str, str]:
    return _ORDER[row["status"]], not row["flags"], row["key"], row["model"]


def _row(values: Mapping[str, Any]) -> Row:
    stages = {name: round(seconds, 3) for name, seconds in (values.get("stage_seconds") or {}).items()}
    return {
        "key": values["series_key"],
        "stack": values["stack"],
        "number": values["series_number"],
        "modality": _clean(values["modality"])[:16],
        "description": _clean(values["series_description"]),
        "slices": values["n_slices"],
        "model": values["model_name"],
        "status": values["status"],
        "code": values["reason_code"],
        "message": _clean(values["message"]),
        "hint": _clean(values["hint"]),
        "verdict": values["geometry_verdict"] or "",
        "findings": [{"code": item["code"], "message": _clean(item["message"])} for item in values["findings"] or ()],
        "flags": _flags(values),
        "shape": list(values["shape"] or ()),
        "spacing": [round(length, 4) for length in values["spacing_mm"] or ()],
        "volumes": {name: round(ml, 4) for name, ml in (values["volumes_ml"] or {}).items()},
        "agreement": dict(values.get("agreement") or {}),
        "image": values["image_path"],
        "mask": values["mask_path"],
        "preview": values.get("preview_path") or "",
        "stages": stages,
        "seconds": round(sum(stages.values()), 3),
        "device": values["device"],
        "backend": values["backend"] or "",
        "memory_mb": round(values["peak_rss_mb"] or 0),
        "attempt": values["attempt"],
        "run": values["run_id"],
        "finished": values["finished_at"],
        "again": values.get("recomputed_because") or "",
    }


def _flags(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """Why somebody should look at a series that is done, and at what."""
    if values["status"] != Status.DONE:
        return []
    found = list(_of_measurements(values))
    if values["geometry_verdict"] == GeometryVerdict.REPAIRED and "geometry" not in {item["code"] for item in found}:
        found += [
            _flag("geometry", item["message"], _CHECKS.get(item["code"], "")) for item in values["findings"] or ()
        ]
    found += [_flag(f"no-{item['format']}", item["message"], item["hint"]) for item in values["formats_refused"] or ()]
    if values.get("memory_steps"):
        steps = ", ".join(values["memory_steps"])
        found.append(_flag("memory", f"short of memory: {steps}", "nothing about the mask; give tasks more memory"))
    return found


def _of_measurements(values: Mapping[str, Any]) -> Iterable[dict[str, str]]:
    """Flags of the index; of an index without that column what the volumes tell."""
    if values.get("flags") is not None:
        return [_flag(item["code"], item["message"], item["hint"]) for item in values["flags"]]
    empty = [name for name, ml in (values["volumes_ml"] or {}).items() if not ml]
    if not values["mask_path"] or not empty:
        return []
    if len(empty) == len(values["volumes_ml"]):
        return [_flag("empty-mask", "no label was found", "see that the series shows what the model was made for")]
    return [_flag("label-missing", f"not found: {', '.join(empty)}", "see whether it is in the field of view")]


def _flag(code: str, message: str, check: str) -> dict[str, str]:
    return {"code": code, "message": _clean(message), "check": _clean(check)}


def _clean(text: str | None) -> str:
    return _ABROAD.sub("\N{REPLACEMENT CHARACTER}", text or "")
