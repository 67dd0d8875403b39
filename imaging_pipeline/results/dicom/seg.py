"""DICOM Segmentation (PS3.3 section A.51, label maps A.90), one frame for each plane of each label."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.dicom.coding import Coded, explain_private, item
from imaging_pipeline.results.dicom.frames import put_frames
from imaging_pipeline.results.dicom.references import decimal, place_and_sources, source_images, to_instances
from imaging_pipeline.results.dicom.source import TYPE_2, Origin, Plane
from imaging_pipeline.results.dicom.stamp import (
    MANUFACTURER,
    Maker,
    as_file,
    instance_uid,
    plain,
    series_number,
    series_uid,
    stamp,
    uid,
)
from imaging_pipeline.segment.labels import Concept

LARGEST_BYTES = 2**31
"""Pixels of one object; beyond it (and in many a viewer before) readers fail. The format ends at 2^32."""

_STAND_IN = "1."


def make_seg(
    planes: NDArray[Any],
    found: NDArray[np.bool_],
    structures: Sequence[Coded],
    origin: Origin,
    maker: Maker,
    content: str,
    seg_type: str,
) -> FileDataset:
    """A segmentation of all labels; frames without a voxel are left out.

    Segments of a binary one are numbered 1, 2, 3, ... in the order of the label table, found or not; in a label map
    the segment's number is the label's. A mask of nothing has one empty plane.

    Args:
        planes: (slice, row, column) of label numbers.
        found: (plane, number): which of them occur where.
        structures: Labels with their codes, in ascending order; all numbers of `planes` are among them.
        origin: The series.
        maker: What made the mask.
        content: Digest of `planes`.
        seg_type: binary or labelmap.

    Raises:
        PipelineError: `seg-too-large`.
    """
    labels, places = [each.label.index for each in structures], origin.planes()
    if not found[:, 1:].any():  # one plane says so as well as all of them
        planes, places, found = planes[:1], places[:1], np.isin(np.arange(found.shape[1]), labels)[None]
    if seg_type == "labelmap":
        seg = _by_highdicom(planes, structures, origin, maker, content, seg_type)
        # GDCM, which pydicom would take, ends the process over rows of an odd length
        seg.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        return seg
    _check_size(int(found[:, 1:].sum()), planes)
    seg = _by_highdicom(np.zeros_like(planes[:1]), structures, origin, maker, content, seg_type)
    put_frames(seg, planes, found, labels, [place_and_sources(origin, place) for place in places])
    return seg


def _by_highdicom(
    planes: NDArray[Any], structures: Sequence[Coded], origin: Origin, maker: Maker, content: str, seg_type: str
) -> FileDataset:
    """All of the object but for the frames of a binary one."""
    content += seg_type
    places = origin.planes()[: len(planes)]
    numbers = segment_numbers(structures, is_binary=seg_type == "binary")
    date, time = origin.moment
    seg = highdicom.seg.Segmentation(
        source_images=[_stand_in(origin, place, number) for number, place in enumerate(places)],
        pixel_array=planes,
        segmentation_type=seg_type.upper(),
        segment_descriptions=[_description(each, numbers[each.label.index], origin, maker) for each in structures],
        series_instance_uid=series_uid(origin, maker, "seg"),
        series_number=series_number(origin, "seg"),
        sop_instance_uid=instance_uid(origin, maker, "seg", content),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=plain(maker.model_name),
        software_versions="",
        device_serial_number=maker.model_digest[:16],
        content_label="AI_SEGMENTATION",
        content_description=f"by {plain(maker.model_name, 61)}",
        content_creator_name="",
        content_date=date,
        content_time=time,
        omit_empty_frames=bool(planes.any()),
    )
    _refer(seg, origin, places)
    _same_every_time(seg)
    stamp(seg, origin, maker, "seg", content)
    explain_private(seg, (concept for each in structures for concept in (each.category, each.type, each.modifier)))
    return as_file(seg, ExplicitVRLittleEndian)


def segment_numbers(structures: Sequence[Coded], *, is_binary: bool) -> dict[int, int]:
    """Label number to segment number."""
    return {each.label.index: rank if is_binary else each.label.index for rank, each in enumerate(structures, start=1)}


def _check_size(n_frames: int, planes: NDArray[Any]) -> None:
    """Refuse what no reader would open."""
    n_bytes = n_frames * planes[0].size // 8
    if n_bytes > LARGEST_BYTES:
        raise PipelineError(
            Code.SEG_TOO_LARGE,
            f"{n_frames} frames of {planes.shape[2]} x {planes.shape[1]} bits take {n_bytes} bytes, "
            f"{LARGEST_BYTES} are allowed",
            "set output.seg_type=labelmap; the NIfTI is right",
        )


def _stand_in(origin: Origin, plane: Plane, number: int) -> Dataset:
    """A single-frame image in the place of a plane of any kind of source: all that highdicom looks at.

    Its UID tells the plane until `_refer` puts the true reference there.
    """
    task, image = origin.task, Dataset()
    spacing_mm = abs(float(np.dot(task.step_mm, np.cross(task.orientation[:3], task.orientation[3:]))))
    for keyword in TYPE_2:
        setattr(image, keyword, None)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"{_STAND_IN}{number + 1}"
    image.StudyInstanceUID = origin.text("StudyInstanceUID")
    image.SeriesInstanceUID = origin.text("SeriesInstanceUID")
    image.Modality = task.identity.modality
    image.FrameOfReferenceUID = origin.frame_of_reference_uid
    image.PositionReferenceIndicator = origin.header.get("PositionReferenceIndicator")
    image.Rows, image.Columns = task.rows, task.columns
    image.PixelSpacing = [decimal(value) for value in task.pixel_spacing_mm]
    image.SliceThickness = decimal(_thickness_mm(origin) or spacing_mm)
    image.SpacingBetweenSlices = decimal(spacing_mm)
    image.ImageOrientationPatient = [decimal(value) for value in task.orientation]
    image.ImagePositionPatient = [decimal(value) for value in plane.position_mm]
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in origin.header:
            image[keyword] = origin.header[keyword]
    return image


def _thickness_mm(origin: Origin) -> float:
    try:
        return max(float(origin.header.get("SliceThickness") or 0), 0.0)
    except (TypeError, ValueError):
        return 0.0


def _description(each: Coded, number: int, origin: Origin, maker: Maker) -> highdicom.seg.SegmentDescription:
    parameters = {"model_sha256": maker.model_digest, "fingerprint": maker.fingerprint}
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=plain(maker.model_name),
        family=codes.DCM.ArtificialIntelligence,
        version=plain(maker.version),
        source=MANUFACTURER,
        parameters=parameters,
    )
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=each.name,
        segmented_property_category=code_of(each.category),
        segmented_property_type=code_of(each.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid(origin, maker, each),
        tracking_id=f"{plain(maker.model_name, 32)} {each.label.index}",
        display_color=highdicom.color.CIELabColor.from_rgb(*each.rgb),
    )
    description.SegmentDescription = f"label {each.label.index} of the model"
    if each.modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            item(each.modifier)
        ]
    return description


def tracking_uid(origin: Origin, maker: Maker, each: Coded) -> str:
    """Tracking UID (0062,0021) by which SEG and SR call the same structure."""
    return uid("tracking", series_uid(origin, maker, "seg"), str(each.label.index))


def code_of(concept: Concept) -> highdicom.sr.CodedConcept:
    """A concept as highdicom takes it."""
    return highdicom.sr.CodedConcept(concept.code, concept.scheme, concept.meaning)


def _refer(seg: Dataset, origin: Origin, places: Sequence[Plane]) -> None:
    """Put the references to the true planes in the place of those to their stand-ins."""
    sources = {f"{_STAND_IN}{number + 1}": source_images(origin, place) for number, place in enumerate(places)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        derivation = frame.DerivationImageSequence[0]
        derivation.SourceImageSequence = sources[derivation.SourceImageSequence[0].ReferencedSOPInstanceUID]
    series = Dataset()
    series.SeriesInstanceUID = origin.text("SeriesInstanceUID")
    series.ReferencedInstanceSequence = to_instances(origin)
    seg.SourceImageSequence, seg.ReferencedSeriesSequence = to_instances(origin), [series]


def _same_every_time(seg: Dataset) -> None:
    """Replace the random UIDs of the dimensions by ones that follow from the object's own."""
    known: dict[str, str] = defaultdict(lambda: uid("dimensions", str(seg.SOPInstanceUID), str(len(known))))
    for dimension in (*seg.DimensionOrganizationSequence, *seg.get("DimensionIndexSequence", ())):
        dimension.DimensionOrganizationUID = known[dimension.DimensionOrganizationUID]
