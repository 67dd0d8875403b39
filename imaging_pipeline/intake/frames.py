"""Frames of Enhanced multi-frame instances, from their functional groups (DICOM PS3.3 section C.7.6.16)."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.elements import Elements
from imaging_pipeline.records import FileRef, SliceHeader
from imaging_pipeline.sources import open_source

_SHARED_GROUPS = 0x52009229


def has_functional_groups(elements: Elements) -> bool:
    """Whether an instance carries Shared Functional Groups (5200,9229)."""
    return _SHARED_GROUPS in elements.values


def read_frames(file: FileRef, instance: SliceHeader) -> Iterator[SliceHeader]:
    """One header a frame, its geometry and rescale from its own group or the shared one.

    Args:
        file: The multi-frame instance.
        instance: What its top level says.

    Raises:
        PipelineError: `damaged-header` where the functional groups cannot be read.
    """
    dataset = _read(file)
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    own_groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    for number, own in enumerate(own_groups):
        yield _frame(instance, number, own, shared)
    if not own_groups:
        yield instance


def read_deflated(file: FileRef, wanted: frozenset[int]) -> Elements:
    """Raw elements of a deflated data set, inflated by pydicom.

    Raises:
        PipelineError: `damaged-header` where it cannot be inflated.
    """
    dataset = _read(file)
    elements = Elements(transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID))
    for tag in wanted:
        if tag in dataset and dataset[tag].VR != "SQ":
            elements.values[tag] = _raw_value(dataset[tag].VR, dataset[tag].value)
        elif tag in dataset:
            elements.values[tag] = b""
    if "Rows" in dataset:
        elements.pixel_bytes = 0
    return elements


def _raw_value(vr: str, value: Any) -> bytes:
    if vr == "US":
        return int(value).to_bytes(2, "little")
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return "\\".join("" if item is None else str(item) for item in values).encode("utf-8", "replace")


def _read(file: FileRef) -> Dataset:
    try:
        with open_source(file.path) as stream:
            return pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    except OSError:
        raise
    except (InvalidDicomError, ValueError, KeyError, AttributeError, TypeError, io.UnsupportedOperation) as error:
        raise PipelineError(
            Code.DAMAGED_HEADER, f"the header cannot be parsed: {error}", "send the instance again from its source"
        ) from None


def _frame(instance: SliceHeader, number: int, own: Dataset, shared: Dataset) -> SliceHeader:
    def find(sequence: str, attribute: str) -> Any:
        for group in (own, shared):
            item = next(iter(group.get(sequence) or ()), None)
            if item is not None and item.get(attribute) is not None:
                return item.get(attribute)
        return None

    measures = "PixelMeasuresSequence"
    rescale = "PixelValueTransformationSequence"
    return replace(
        instance,
        frame=number,
        position_mm=_floats(find("PlanePositionSequence", "ImagePositionPatient")),
        orientation=_floats(find("PlaneOrientationSequence", "ImageOrientationPatient")),
        pixel_spacing_mm=_floats(find(measures, "PixelSpacing")),
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
            return tuple(found)
    return ()


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


def _floats(value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(float(part) for part in value)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
