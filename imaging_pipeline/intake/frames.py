"""Frames of Enhanced multi-frame instances, from their functional groups (DICOM PS3.3 section C.7.6.16)."""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.elements import CHUNK_BYTES, DEFLATED, Elements, inflate
from imaging_pipeline.records import SliceHeader

PARSER_FAULTS = (
    *(InvalidDicomError, BytesLengthException, ValueError, KeyError, AttributeError, TypeError, IndexError, EOFError),
    *(OverflowError, NotImplementedError, RuntimeError, RecursionError, OSError, struct.error),
)
"""What pydicom is known to raise on a damaged data set."""

_SHARED_GROUPS = 0x52009229


def has_functional_groups(elements: Elements) -> bool:
    """Whether an instance carries Shared Functional Groups (5200,9229)."""
    return _SHARED_GROUPS in elements.values


def read_frames(stream: BinaryIO, instance: SliceHeader) -> Iterator[SliceHeader]:
    """One header a frame, its geometry and rescale from its own group or the shared one.

    Args:
        stream: The multi-frame instance; closed when read.
        instance: What its top level says.

    Raises:
        PipelineError: `damaged-header` where the functional groups cannot be read.
    """
    try:
        with stream:
            frames = list(_frames(_read(stream, instance), instance))
    except PARSER_FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:  # pydicom raises bare ones on damage
            raise
        message = f"the functional groups cannot be parsed: {error}"[:300]
        raise PipelineError(Code.DAMAGED_HEADER, message, "send the instance again from its source") from None
    yield from frames or (instance,)


class Thrifty:
    """A stream as pydicom reads it, that takes memory for bytes that are there, not for those that are announced."""

    def __init__(self, stream: BinaryIO) -> None:
        """Read what another stream holds."""
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, or all."""
        if size <= CHUNK_BYTES:
            return self._stream.read(size)
        pieces = []
        while size > 0 and (piece := self._stream.read(min(size, CHUNK_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _read(stream: BinaryIO, instance: SliceHeader) -> Dataset:
    source = cast(BinaryIO, inflate(stream)) if instance.transfer_syntax_uid == DEFLATED else stream
    return pydicom.dcmread(cast(BinaryIO, Thrifty(source)), stop_before_pixels=True, force=True)


def _frames(dataset: Dataset, instance: SliceHeader) -> Iterator[SliceHeader]:
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    for number, own in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or ()):
        yield _frame(instance, number, own, shared)


def _frame(instance: SliceHeader, number: int, own: Dataset, shared: Dataset) -> SliceHeader:
    def find(sequence: str, attribute: str) -> Any:
        for group in (own, shared):
            item = next(iter(group.get(sequence) or ()), None)
            if item is not None and item.get(attribute) is not None:
                return item.get(attribute)
        return None

    measures = "PixelMeasuresSequence"
    rescale = "PixelValueTransformationSequence"
    geometry = {
        "position_mm": (find("PlanePositionSequence", "ImagePositionPatient"), 3),
        "orientation": (find("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        "pixel_spacing_mm": (find(measures, "PixelSpacing"), 2),
    }
    numbers = {name: _floats(value, count) for name, (value, count) in geometry.items()}
    return replace(
        instance,
        frame=number,
        position_mm=numbers["position_mm"],
        orientation=numbers["orientation"],
        pixel_spacing_mm=numbers["pixel_spacing_mm"],
        damaged=tuple(name for name, (value, _) in geometry.items() if value and numbers[name] is None),
        slice_thickness_mm=_number(find(measures, "SliceThickness")),
        slope=_number(find(rescale, "RescaleSlope")),
        intercept=_number(find(rescale, "RescaleIntercept")),
        echo_time_ms=_number(find("MREchoSequence", "EffectiveEchoTime")),
        trigger_time_ms=_number(find("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")),
        temporal_position=_integer(find("FrameContentSequence", "TemporalPositionIndex")),
        stack_id=str(find("FrameContentSequence", "StackID") or ""),
        image_type=_frame_type(find) or instance.image_type,
        b_value=_number(find("MRDiffusionSequence", "DiffusionBValue")),
    )


def _frame_type(find: Callable[[str, str], Any]) -> tuple[str, ...]:
    """Frame Type (0008,9007) of whichever modality the instance is."""
    for modality in ("MR", "CT", "PET"):
        found = find(f"{modality}ImageFrameTypeSequence" if modality != "PET" else "PETFrameTypeSequence", "FrameType")
        if found:
            return (found,) if isinstance(found, str) else tuple(map(str, found))
    return ()


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _floats(value: Any, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers; None where absent or damaged."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return None
    numbers = tuple(number for number in map(_number, value) if number is not None)
    return numbers if len(numbers) == len(value) == count else None


def _number(value: Any) -> float | None:
    """A finite number; None where absent or damaged."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
