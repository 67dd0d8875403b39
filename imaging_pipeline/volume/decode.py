"""Pixels of one series into one preallocated array, in modality units."""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import Blend, SeriesTask, SliceRef
from imaging_pipeline.sources import Source, open_source
from imaging_pipeline.volume.geometry import to_canonical
from imaging_pipeline.volume.pixels import PixelFile, Plane, open_pixels
from imaging_pipeline.volume.types import Volume

_WIDER = {np.dtype(np.int16): np.int32, np.dtype(np.int32): np.float64}


def decode(task: SeriesTask, source: Source = open_source) -> Volume:
    """Decode a series: slices in order along the normal, rescaled each by its own slope and intercept.

    The array is int16 where every slope and intercept is a whole number and the values fit, int32 or float64 where
    they need more, else float32 (Rescale Slope (0028,1053) and Modality LUT Sequence (0028,3000), DICOM PS3.3
    section C.11.1).
    Values are what the modality means: neither MONOCHROME1 nor a Pixel Padding Value (0028,0120), both a matter of
    display, changes them. Philips' private scale slope (2005,100E) is not applied: Rescale Slope is what every other
    reader of the file applies too.

    Args:
        task: The series.
        source: Opens its files.

    Raises:
        PipelineError: `input-vanished`, `unsupported-transfer-syntax`, `truncated-pixels`, `precision-loss` or
            `decode-failed`, with the slice that it concerns.
    """
    _keep_heap()
    whole = all(_is_whole(ref.slope) and _is_whole(ref.intercept) for ref in task.slices)
    shape = (task.rows, task.columns)
    planes: NDArray[Any] = np.empty((len(task.slices), *shape), dtype=np.int16 if whole else np.float32)
    with contextlib.ExitStack() as opened:
        file = None
        for number, ref in enumerate(task.slices):
            try:
                if file is None or file.path != ref.path:
                    opened.close()
                    file = opened.enter_context(contextlib.closing(open_pixels(ref.path, source)))
                planes = _put(planes, number, _stored(file, ref, shape), ref)
            except PipelineError as error:
                where = f"slice {number + 1} of {len(task.slices)}"
                raise PipelineError(error.code, f"{where}: {error.message}", error.hint) from None
    return to_canonical(_fill(planes, task.blends) if task.blends else planes, task)


def _keep_heap() -> None:
    """Let glibc keep freed memory up to 31 MiB instead of giving it back after every slice.

    Freeing a block raises its thresholds (mallopt(3), M_MMAP_THRESHOLD). Without it, decoding lossless JPEG spends a
    third of its time on page faults. The block's pages are never touched.
    """
    np.empty(31 << 20, np.uint8)


def _fill(planes: NDArray[Any], blends: tuple[Blend, ...]) -> NDArray[Any]:
    """The slices of a repaired volume: those that were read as they are, the others between their neighbours."""
    filled: NDArray[Any] = np.empty((len(blends), *planes.shape[1:]), planes.dtype)
    for number, blend in enumerate(blends):
        filled[number] = planes[blend.lower]
        if blend.weight > 0:
            below, above = planes[blend.lower].astype(np.float32), planes[blend.lower + 1].astype(np.float32)
            between = below + np.float32(blend.weight) * (above - below)
            filled[number] = between if planes.dtype.kind == "f" else np.rint(between)
    return filled


def _stored(file: PixelFile, ref: SliceRef, shape: tuple[int, int]) -> Plane:
    stored = file.plane(ref.frame, with_lut=ref.has_modality_lut)
    if stored.shape != shape:
        found, expected = (f"{columns} x {rows}" for rows, columns in (stored.shape[:2], shape))
        raise PipelineError(
            Code.DECODE_FAILED, f"{found} pixels, the header said {expected}", "run again: the file has changed"
        )
    return stored


def _put(planes: NDArray[Any], number: int, stored: Plane, ref: SliceRef) -> NDArray[Any]:
    """Write one rescaled slice; the array it is in, wider than before where a value did not fit."""
    if planes.dtype.kind == "f":
        np.multiply(stored, ref.slope, out=planes[number], casting="unsafe")
        planes[number] += planes.dtype.type(ref.intercept)
        return planes
    if stored.dtype.kind == "f":
        return _put(planes.astype(np.float32), number, stored, ref)
    slope, intercept = int(ref.slope), int(ref.intercept)
    bounds = sorted((*(int(value) * slope + intercept for value in (stored.min(), stored.max())), slope, intercept))
    while planes.dtype.kind == "i" and not _fits(bounds, planes.dtype):
        planes = planes.astype(_WIDER[planes.dtype])
    if planes.dtype.kind == "f":
        return _put(planes, number, stored, ref)
    if slope == 1 and intercept == 0:
        planes[number] = stored
    else:  # wraps around on the way and back: the bounds say that the result fits
        np.multiply(stored, planes.dtype.type(slope), out=planes[number], casting="unsafe")
        planes[number] += planes.dtype.type(intercept)
    return planes


def _is_whole(number: float) -> bool:
    return number.is_integer() and abs(number) < 2**31


def _fits(bounds: list[int], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return bounds[0] >= limits.min and bounds[-1] <= limits.max
