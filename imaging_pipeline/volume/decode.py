"""Pixels of one series into one preallocated array, in modality units."""

from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ImplicitVRLittleEndian

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesTask, SliceRef
from imaging_pipeline.volume.geometry import to_canonical
from imaging_pipeline.volume.types import Volume

Plane = NDArray[Any]

# what pydicom and its plugins are known to raise on damaged pixels
_DECODER_FAULTS = (ValueError, AttributeError, KeyError, TypeError, IndexError, EOFError, RuntimeError)

_INT16 = np.iinfo(np.int16)


def decode(task: SeriesTask) -> Volume:
    """Decode a series: slices in order along the normal, rescaled each by its own slope and intercept.

    The array is int16 where every slope and intercept is a whole number and the values fit, int32 where they do not
    fit, else float32 (Rescale Slope (0028,1053), DICOM PS3.3 section C.11.1).

    Raises:
        PipelineError: `input-vanished`, `unsupported-transfer-syntax`, `truncated-pixels` or `decode-failed`.
    """
    whole = all(ref.slope.is_integer() and ref.intercept.is_integer() for ref in task.slices)
    shape = (len(task.slices), task.rows, task.columns)
    planes: NDArray[Any] = np.empty(shape, dtype=np.int16 if whole else np.float32)
    for number, (ref, stored) in enumerate(_stored_planes(task)):
        if stored.shape != shape[1:]:
            raise _failed(ref, f"pixels of shape {stored.shape}, the header says {shape[1:]}")
        if planes.dtype == np.float32:
            planes[number] = stored * np.float32(ref.slope) + np.float32(ref.intercept)
            continue
        values = _rescale(stored, int(ref.slope), int(ref.intercept))
        if planes.dtype == np.int16 and not _fits_int16(values):
            planes = planes.astype(np.int32)
        planes[number] = values
    return to_canonical(planes, task)


def _rescale(stored: Plane, slope: int, intercept: int) -> Plane:
    if slope == 1 and intercept == 0:
        return stored
    return stored.astype(np.int32) * slope + intercept


def _fits_int16(values: Plane) -> bool:
    if np.can_cast(values.dtype, np.int16):
        return True
    return bool(values.min() >= _INT16.min and values.max() <= _INT16.max)


def _stored_planes(task: SeriesTask) -> Iterator[tuple[SliceRef, Plane]]:
    """Stored values (row, column) of every slice; a multi-frame file is opened once."""
    path, dataset = "", FileDataset("", {})
    for ref in task.slices:
        if ref.path != path:
            path, dataset = ref.path, _read(ref)
        yield ref, _pixels(ref, dataset)


def _read(ref: SliceRef) -> FileDataset:
    try:
        with fsspec.open(ref.path, "rb") as stream:
            return pydicom.dcmread(stream, force=True)
    except OSError as error:
        raise PipelineError(
            Code.INPUT_VANISHED, f"a slice cannot be read any more: {error.strerror}", "run again when it is back"
        ) from None


def _pixels(ref: SliceRef, dataset: FileDataset) -> Plane:
    _check_syntax(dataset)
    try:
        pixels: Plane = dataset.pixel_array
        return pixels if ref.frame is None else pixels[ref.frame]
    except _DECODER_FAULTS as error:
        raise _failed(ref, str(error)) from None


def _check_syntax(dataset: FileDataset) -> None:
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise PipelineError(
            Code.UNSUPPORTED_TRANSFER_SYNTAX,
            f"no installed plugin decodes {syntax.name} ({syntax})",
            "install pylibjpeg with pylibjpeg-openjpeg and pylibjpeg-libjpeg, or python-gdcm; "
            "what none of them reads must be sent in another transfer syntax",
        )


def _failed(ref: SliceRef, message: str) -> PipelineError:
    where = f"frame {ref.frame + 1}" if ref.frame is not None else f"the slice at {ref.position_mm} mm"
    short = " ".join(message.split())[:300]
    return PipelineError(Code.DECODE_FAILED, f"{where}: {short}", "send the series again from its source")
