"""RT Structure Set (PS3.3 section A.19): outlines of every label in patient space, plane by plane."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.dicom.coding import Coded, explain_private, item
from imaging_pipeline.results.dicom.contours import Ring, outlines
from imaging_pipeline.results.dicom.references import to_instances, to_plane
from imaging_pipeline.results.dicom.source import Origin, Plane
from imaging_pipeline.results.dicom.stamp import Maker, as_file, plain, stamp

KEYHOLES = "Closed planar contours through true positions; holes are joined to their contour by keyholes (cuts)."

_CONTOUR_DATA = Tag(0x30060050)
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired, as PS3.3 table C.8-41 has it


def make_rtstruct(
    planes: NDArray[Any], structures: Sequence[Coded], origin: Origin, maker: Maker, content: str
) -> FileDataset:
    """A structure set with a region of interest for each label that is found; its number is the label's.

    Args:
        planes: (slice, row, column) of label numbers.
        structures: Labels with their codes; all numbers of `planes` are among them.
        origin: The series.
        maker: What made the mask.
        content: Digest of `planes`.

    Raises:
        PipelineError: `nothing-found`.
    """
    boxes = dict(enumerate(ndimage.find_objects(planes), start=1))
    found = [each for each in structures if boxes.get(each.label.index) is not None]
    if not found:
        message = f"none of {len(structures)} labels has a voxel: a structure set without a structure is no valid one"
        raise PipelineError(Code.NOTHING_FOUND, message, "nothing to do: the NIfTI says so too")
    places = origin.planes()
    dataset = _structure_set(origin, maker)
    dataset.StructureSetROISequence = [_roi(each, origin, maker) for each in found]
    dataset.ROIContourSequence = [_contours(each, planes, boxes[each.label.index], origin, places) for each in found]
    dataset.RTROIObservationsSequence = [_observation(number, each) for number, each in enumerate(found, start=1)]
    stamp(dataset, origin, maker, "rtstruct", content)
    explain_private(dataset, (concept for each in found for concept in (each.category, each.type, each.modifier)))
    return as_file(dataset, ImplicitVRLittleEndian)  # values beyond 64 KiB keep their type only there


def _structure_set(origin: Origin, maker: Maker) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.Modality = "RTSTRUCT"
    dataset.InstanceNumber = 1
    dataset.OperatorsName = ""
    dataset.FrameOfReferenceUID = origin.frame_of_reference_uid
    dataset.PositionReferenceIndicator = origin.header.get("PositionReferenceIndicator")
    dataset.StructureSetLabel = "AI_STRUCTURES"
    dataset.StructureSetName = plain(f"{maker.model_name} {maker.version}")
    dataset.StructureSetDescription = f"By {plain(maker.model_name)}, sha256 {maker.model_digest}. {KEYHOLES}"
    dataset.StructureSetDate, dataset.StructureSetTime = origin.moment
    dataset.ApprovalStatus = "UNAPPROVED"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = origin.text("SeriesInstanceUID")
    series.ContourImageSequence = to_instances(origin)
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = origin.text("StudyInstanceUID")
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = origin.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    return dataset


def _roi(each: Coded, origin: Origin, maker: Maker) -> Dataset:
    roi = Dataset()
    roi.ROINumber = each.label.index
    roi.ReferencedFrameOfReferenceUID = origin.frame_of_reference_uid
    roi.ROIName = each.name
    roi.ROIDescription = f"label {each.label.index} of the model"
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = plain(f"{maker.model_name} {maker.version}")
    return roi


def _observation(number: int, each: Coded) -> Dataset:
    code = item(each.type)
    if each.modifier is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [item(each.modifier)]
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = each.label.index
    observation.ROIObservationLabel = plain(each.name, 16)
    observation.SegmentedPropertyCategoryCodeSequence = [item(each.category)]
    observation.RTROIIdentificationCodeSequence = [code]
    observation.RTROIInterpretedType = ""
    observation.ROIInterpreter = ""
    return observation


def _contours(
    each: Coded, planes: NDArray[Any], box: tuple[slice, ...], origin: Origin, places: Sequence[Plane]
) -> Dataset:
    roi = Dataset()
    roi.ROIDisplayColor = list(each.rgb)
    roi.ReferencedROINumber = each.label.index
    roi.ContourSequence = list(_of_planes(planes[box] == each.label.index, box, origin, places))
    for number, contour in enumerate(roi.ContourSequence, start=1):
        contour.ContourNumber = number
    return roi


def _of_planes(
    mask: NDArray[np.bool_], box: tuple[slice, ...], origin: Origin, places: Sequence[Plane]
) -> Iterator[Dataset]:
    corner = np.array([box[2].start, box[1].start], np.float64)
    for number, plane in enumerate(mask, start=box[0].start):
        image = _image_of(places[number], origin)
        for ring in outlines(plane):
            yield _contour(_in_patient(ring + corner, origin, places[number]), image)


def _image_of(place: Plane, origin: Origin) -> list[Dataset]:
    """The plane of the series that contours are on; none for a plane that was filled in."""
    return [] if place.is_filled else [to_plane(origin, place.sources[0])]


def _contour(points: NDArray[np.float64], image: list[Dataset]) -> Dataset:
    contour = Dataset()
    if image:
        contour.ContourImageSequence = image
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    text = _decimals(points)
    # pydicom would make an object of every number, in ten times the memory and most of the time
    contour[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, True, True)
    contour.set_original_encoding(True, True, default_encoding)
    return contour


def _in_patient(ring: Ring, origin: Origin, place: Plane) -> NDArray[np.float64]:
    """(N, 3) LPS in mm, by PS3.3 equation C.7.6.2.1-1."""
    task = origin.task
    between_rows_mm, between_columns_mm = task.pixel_spacing_mm
    along_row = np.array(task.orientation[:3]) * between_columns_mm
    along_column = np.array(task.orientation[3:]) * between_rows_mm
    return np.array(place.position_mm) + ring[:, :1] * along_row + ring[:, 1:] * along_column


def _decimals(points: NDArray[np.float64]) -> bytes:
    """Decimal Strings (DS) to a tenth of a micrometre, of an even length."""
    text = "\\".join(map("{:.4f}".format, points.ravel().tolist())).encode()
    return text + b" " * (len(text) % 2)
