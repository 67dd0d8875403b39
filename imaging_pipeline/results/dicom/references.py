"""References of an object to its source: to every instance of the series, and to planes of it."""

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DSfloat

from imaging_pipeline.records import SliceRef
from imaging_pipeline.results.dicom.source import Origin, Plane


def to_instances(origin: Origin) -> list[Dataset]:
    """References to every instance of a series (PS3.3 table 10-11)."""
    return [_to_instance(origin, uid) for uid in dict.fromkeys(ref.sop_instance_uid for ref in origin.task.slices)]


def to_plane(origin: Origin, ref: SliceRef) -> Dataset:
    """A reference to one plane, by its frame where the instance has several (PS3.3 table 10-3)."""
    image = _to_instance(origin, ref.sop_instance_uid)
    if ref.frame is not None:
        image.ReferencedFrameNumber = ref.frame + 1
    return image


def place_and_sources(origin: Origin, place: Plane) -> Dataset:
    """The functional groups that all frames of a plane share: Derivation Image and Plane Position."""
    derivation, position, groups = Dataset(), Dataset(), Dataset()
    derivation.DerivationCodeSequence = [CodedConcept.from_code(codes.CID7203.SegmentationImageDerivation)]
    derivation.SourceImageSequence = source_images(origin, place)
    position.ImagePositionPatient = [decimal(value) for value in place.position_mm]
    groups.DerivationImageSequence = [derivation]
    groups.PlanePositionSequence = [position]
    return groups


def source_images(origin: Origin, place: Plane) -> list[Dataset]:
    """Items of Source Image Sequence (0008,2112) for one plane; a plane that was filled in has two."""
    items = []
    for ref in place.sources:
        image = to_plane(origin, ref)
        purpose = CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
        image.PurposeOfReferenceCodeSequence = [purpose]
        image.SpatialLocationsPreserved = "NO" if place.is_filled else "YES"
        items.append(image)
    return items


def decimal(value: float) -> DSfloat:
    """A number as a Decimal String of at most 16 characters."""
    return DSfloat(value, auto_format=True)


def _to_instance(origin: Origin, uid: str) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID = origin.sop_class_uid
    image.ReferencedSOPInstanceUID = uid
    return image
