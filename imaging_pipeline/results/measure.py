"""What is measured of each label on the native grid: volume, place, parts, and the values of the image under it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.compiled import compiled
from imaging_pipeline.results.runs import scan_plane
from imaging_pipeline.results.sides import side_of
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.geometry import in_file_order

PERCENTILES = (5, 25, 50, 75, 95)

_FACES = ("left", "posterior", "inferior", "right", "anterior", "superior")
"""First and last planes of the axes closest to RAS+."""

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_PART_BYTES = 8 << 20
_MOST_BINS = 1 << 24
"""A histogram of all labels takes four bytes a bin, so 64 MiB at most."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What is measured of a label; None where the label is not in the mask, or values are no finite numbers.

    Lengths are mm in DICOM's patient space (LPS: x to the left, y to the back, z to the head), voxels count from 0
    along the written axes (RAS+), and values are the modality's, HU for CT.

    Attributes:
        label: Number in the mask.
        name: Its name; `label N` for a number that the model's table does not name.
        side: left or right, where its name or code says so; else empty.
        n_voxels: Voxels.
        volume_ml: Volume.
        mean: Mean of the image's values.
        sd: Their standard deviation, that of a population (divided by n).
        p5: Their 5th percentile, linear between two values; p25 to p95 likewise.
        centroid_x_mm: Centre of its voxels, LPS; y and z likewise.
        first_i: Its lowest voxel along the first written axis; j and k likewise.
        last_i: Its highest, which belongs to it; j and k likewise.
        box_min_x_mm: Low end of the box of these voxels, faces included, LPS; y and z likewise.
        box_max_x_mm: High end; y and z likewise.
        borders: Faces of the volume that it touches, by spaces: left right posterior anterior inferior superior.
        n_parts: Parts that touch each other by no face, edge or corner (26 neighbours).
        largest_share: Share of its voxels in the largest part, 0 to 1.
        agreement: Mean pairwise Dice of the networks and mirror images that the mask is the mean of, 0 to 1; None
            where one network looked once, or none of them found the label.
    """

    label: int
    name: str
    side: str = ""
    n_voxels: int = 0
    volume_ml: float = 0.0
    mean: float | None = None
    sd: float | None = None
    p5: float | None = None
    p25: float | None = None
    p50: float | None = None
    p75: float | None = None
    p95: float | None = None
    centroid_x_mm: float | None = None
    centroid_y_mm: float | None = None
    centroid_z_mm: float | None = None
    first_i: int | None = None
    first_j: int | None = None
    first_k: int | None = None
    last_i: int | None = None
    last_j: int | None = None
    last_k: int | None = None
    box_min_x_mm: float | None = None
    box_min_y_mm: float | None = None
    box_min_z_mm: float | None = None
    box_max_x_mm: float | None = None
    box_max_y_mm: float | None = None
    box_max_z_mm: float | None = None
    borders: str = ""
    n_parts: int = 0
    largest_share: float | None = None
    agreement: float | None = None


def measure(
    mask: Volume, image: Volume, labels: Sequence[Label], agreement: Mapping[int, float] | None = None
) -> tuple[Measurement, ...]:
    """Measure every label that is named, found or not, and every number that is found.

    One pass over mask and image, plane by plane; memory does not grow with the volume but for values that are no
    integers: those under one label are taken out of the image at a time.

    Args:
        mask: Label numbers.
        image: Values on the same grid.
        labels: Structures that the model names.
        agreement: Of the members of an ensemble by label number.

    Returns:
        One for each label, in the order of their numbers.
    """
    named = {label.index: label for label in labels}
    scan = _scan(mask, image, max(named, default=0))
    for index in np.flatnonzero(scan.sums[:, 0]).tolist():
        named.setdefault(index, Label(index=index, name=f"label {index}"))
    measured = (_measured(named[index], scan, mask, image) for index in sorted(named))
    return tuple(replace(item, agreement=(agreement or {}).get(item.label)) for item in measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    """What one pass found, by label number.

    Attributes:
        sums: (label, 4) voxels, and the sums of their I, J and K.
        boxes: (label, 6) lowest I, J, K and highest I, J, K.
        n_parts: (label) connected components.
        largest: (label) voxels of the largest of them.
        histogram: (label, value - low) voxels; None where values are not counted.
        low: The smallest value.
    """

    sums: NDArray[np.int64]
    boxes: NDArray[np.int64]
    n_parts: NDArray[np.int64]
    largest: NDArray[np.int64]
    histogram: NDArray[np.uint32] | None
    low: int


def _scan(mask: Volume, image: Volume, last_label: int) -> _Scan:
    labels, values = mask.array, image.array
    n_labels = max(int(labels.max(initial=0)), last_label) + 1
    low, n_bins = _bins(values, n_labels)
    histogram = np.zeros((n_labels, n_bins), np.uint32)
    sums = np.zeros((n_labels, 4), np.int64)
    boxes = np.repeat([[np.iinfo(np.int64).max] * 3 + [-1] * 3], n_labels, axis=0)
    width, n_rows = labels.shape[0], labels.shape[1]
    runs = [np.empty((n_rows * width, 4), np.int64) for _ in range(2)]
    rows = [np.zeros(n_rows + 1, np.int64) for _ in range(2)]
    parts, n_parts = np.empty((n_rows * width, 3), np.int64), np.zeros(1, np.int64)
    for plane, (numbers, binned) in enumerate(_planes(labels, values if n_bins else None, low)):
        now, before = plane % 2, 1 - plane % 2
        if not numbers.any():
            rows[now][:] = 0
            continue
        if n_parts[0] + n_rows * width > len(parts):
            parts = np.concatenate((parts, np.empty_like(parts)))
        _compiled()(
            numbers, binned, plane, histogram, sums, boxes,
            runs[now], rows[now], runs[before], rows[before], parts, n_parts,
        )  # fmt: skip
    count, largest = _joined(parts[: n_parts[0]], n_labels)
    return _Scan(
        sums=sums, boxes=boxes, n_parts=count, largest=largest, histogram=histogram if n_bins else None, low=low
    )


@cache
def _compiled() -> Callable[..., None]:
    return compiled(scan_plane)


def _bins(values: NDArray[Any], n_labels: int) -> tuple[int, int]:
    """The smallest value and how many there may be; none are counted where they are no integers, or too many."""
    if values.dtype.kind not in "iu" or not values.size:
        return 0, 0
    low, high = int(values.min()), int(values.max())
    n_bins = high - low + 1
    return low, n_bins if n_bins * n_labels <= _MOST_BINS else 0


def _planes(
    labels: NDArray[Any], values: NDArray[Any] | None, low: int
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.int32]]]:
    """(J, I) label numbers and bins of their values, in the order of K, however arrays lie in memory."""
    none = np.zeros((0, 0), np.int32)
    n_planes = max(_PART_BYTES // max(labels[..., 0].nbytes, 1), 1) if labels.size else 1
    for first in range(0, labels.shape[2], n_planes):
        part = slice(first, first + n_planes)
        numbers = in_file_order(labels[:, :, part])
        beneath = None if values is None else in_file_order(values[:, :, part])
        for n, plane in enumerate(numbers):
            binned = none
            if beneath is not None and plane.any():
                binned = np.subtract(beneath[n], low, dtype=np.int64).astype(np.int32)
            yield plane.astype(np.uint16), binned


def _joined(parts: NDArray[np.int64], n_labels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By label: how many parts, and the voxels of the largest."""
    roots = parts[:, 0]
    while not np.array_equal(further := roots[roots], roots):
        roots = further
    sizes = np.bincount(roots, parts[:, 1], minlength=len(parts)).astype(np.int64)
    is_root = roots == np.arange(len(parts))
    count = np.bincount(parts[is_root, 2], minlength=n_labels)
    largest = np.zeros(n_labels, np.int64)
    np.maximum.at(largest, parts[:, 2], sizes)
    return count, largest


def _measured(label: Label, scan: _Scan, mask: Volume, image: Volume) -> Measurement:
    n_voxels = int(scan.sums[label.index, 0])
    known = Measurement(label=label.index, name=label.name, side=side_of(label), n_voxels=n_voxels)
    if not n_voxels:
        return known
    box = scan.boxes[label.index]
    found: dict[str, Any] = {
        "volume_ml": round(n_voxels * mask.voxel_ml, 6),
        **_placed(scan.sums[label.index, 1:] / n_voxels, box, mask),
        **_valued(label.index, scan, mask, image),
        "borders": _borders(box, mask.shape),
        "n_parts": int(scan.n_parts[label.index]),
        "largest_share": round(int(scan.largest[label.index]) / n_voxels, 6),
    }
    return replace(known, **found)


def _placed(centre: Floats, box: NDArray[np.int64], mask: Volume) -> dict[str, Any]:
    """Centroid and bounding box, in voxels and in mm."""
    ends = np.stack((box[:3] - 0.5, box[3:] + 0.5))
    corners = np.array([[ends[n >> axis & 1, axis] for axis in range(3)] for n in range(8)])
    corners_mm = _in_patient(corners, mask)
    places = {
        "centroid": _in_patient(centre[None], mask)[0],
        "box_min": corners_mm.min(axis=0),
        "box_max": corners_mm.max(axis=0),
    }
    lengths = {
        f"{name}_{axis}_mm": _rounded(place[n]) for name, place in places.items() for n, axis in enumerate("xyz")
    }
    ends_of_box = {"first": box[:3], "last": box[3:]}
    voxels = {f"{end}_{axis}": int(place[n]) for end, place in ends_of_box.items() for n, axis in enumerate("ijk")}
    return {**lengths, **voxels}


def _in_patient(voxels: Floats, mask: Volume) -> Floats:
    """(n, 3) voxel indices as LPS in mm."""
    lps: Floats = (voxels @ mask.affine[:3, :3].T + mask.affine[:3, 3]) * _RAS_TO_LPS
    return lps


def _borders(box: NDArray[np.int64], shape: tuple[int, ...]) -> str:
    touched = (*(box[:3] == 0), *(box[3:] == np.array(shape) - 1))
    return " ".join(face for face, touches in zip(_FACES, touched, strict=True) if touches)


def _valued(index: int, scan: _Scan, mask: Volume, image: Volume) -> dict[str, Any]:
    """Mean, standard deviation and percentiles."""
    if scan.histogram is not None:
        mean, sd, percentiles = _of_histogram(scan.histogram[index], scan.low)
    else:
        first, last = scan.boxes[index, :3], scan.boxes[index, 3:] + 1
        box = tuple(slice(int(start), int(stop)) for start, stop in zip(first, last, strict=True))
        values = image.array[box][mask.array[box] == index].astype(np.float64)
        mean, sd, percentiles = float(values.mean()), float(values.std()), np.percentile(values, PERCENTILES).tolist()
    named = zip((f"p{share}" for share in PERCENTILES), percentiles, strict=True)
    return {"mean": _rounded(mean), "sd": _rounded(sd), **{name: _rounded(value) for name, value in named}}


def _of_histogram(counts: NDArray[np.uint32], low: int) -> tuple[float, float, list[float]]:
    """As NumPy has them of the values one by one."""
    bins = np.flatnonzero(counts)
    numbers, values = counts[bins].astype(np.int64), bins + low
    n = int(numbers.sum())
    mean = int((numbers * values).sum()) / n
    sd = float(np.sqrt((numbers * (values - mean) ** 2).sum() / n))
    behind = np.cumsum(numbers)
    places = np.array(PERCENTILES) / 100 * (n - 1)
    lower, upper = (values[np.searchsorted(behind, ends, side="right")] for ends in (np.floor(places), np.ceil(places)))
    return mean, sd, (lower + (upper - lower) * (places - np.floor(places))).tolist()


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
