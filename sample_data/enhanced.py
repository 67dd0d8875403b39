"""The header of an Enhanced CT Image object: what all frames share, and what each has of its own."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import EnhancedCTImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from sample_data.ct_spec import CtSpec
from sample_data.headers import common_header, decimals, orientation, pixel_header, position

FRAME_CONTENT = Tag("FrameContentSequence")
INDEXED = ((Tag("StackID"), FRAME_CONTENT), (Tag("InStackPositionNumber"), FRAME_CONTENT))
"""Attributes the frames are indexed by, each with its functional group."""


def functional_groups(spec: CtSpec) -> Dataset:
    """An Enhanced CT header with functional groups (PS3.3 C.7.6.16) for every slice kept, without pixels."""
    ds = common_header(spec, EnhancedCTImageStorage, spec.sop_instance_uid(0))
    ds.ImageType = _enhanced_type(spec)
    ds.InstanceNumber = 1
    ds.AcquisitionDateTime = ds.AcquisitionDate + ds.AcquisitionTime
    ds.ContentQualification, ds.PresentationLUTShape = "RESEARCH", "IDENTITY"
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    pixel_header(ds, spec)
    ds.NumberOfFrames = len(spec.kept)
    _add_dimensions(ds)
    ds.SharedFunctionalGroupsSequence = Sequence([_shared(spec)])
    ds.PerFrameFunctionalGroupsSequence = Sequence([_own(spec, n, k) for n, k in enumerate(spec.kept)])
    return ds


def _enhanced_type(spec: CtSpec) -> list[str]:
    """Frame Type (0008,9007) has four values, the third from a list without AXIAL (PS3.3 C.8.16.1.3)."""
    return [*spec.image_type[:2], "LOCALIZER" if "LOCALIZER" in spec.image_type else "VOLUME", "NONE"]


def _add_dimensions(ds: Dataset) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid(entropy_srcs=["dimensions", ds.SeriesInstanceUID])
    ds.DimensionOrganizationSequence = Sequence([organization])
    ds.DimensionIndexSequence = Sequence()
    for pointer, group in INDEXED:
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = pointer, group
        ds.DimensionIndexSequence.append(index)


def _shared(spec: CtSpec) -> Dataset:
    measures, plane, frame_type, group = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = decimals(spec.spacing_mm[:2])
    measures.SliceThickness = format_number_as_ds(float(spec.spacing_mm[2]))
    plane.ImageOrientationPatient = orientation(spec)
    frame_type.FrameType = _enhanced_type(spec)
    frame_type.PixelPresentation, frame_type.VolumetricProperties = "MONOCHROME", "VOLUME"
    frame_type.VolumeBasedCalculationTechnique = "NONE"
    group.PixelMeasuresSequence = Sequence([measures])
    group.PlaneOrientationSequence = Sequence([plane])
    group.CTImageFrameTypeSequence = Sequence([frame_type])
    return group


def _own(spec: CtSpec, n: int, k: int) -> Dataset:
    """Functional groups of frame `n`, which is slice `k`."""
    content, plane, transformation, group = Dataset(), Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", n + 1
    content.DimensionIndexValues = [1, n + 1]
    plane.ImagePositionPatient = position(spec, k)
    transformation.RescaleSlope, transformation.RescaleIntercept = decimals(spec.rescale(k))
    transformation.RescaleType = "HU"
    group.FrameContentSequence = Sequence([content])
    group.PlanePositionSequence = Sequence([plane])
    group.PixelValueTransformationSequence = Sequence([transformation])
    return group
