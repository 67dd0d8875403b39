"""Very many small CT instances whose headers are as long as real ones: about 3 KB before the pixels.

pydicom writes one instance a series; the others are its bytes with their own identifiers, numbers and positions in
place, all of one width.
"""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid

from sample_data.phantom import CtSpec, write_ct

N_SLICES = 200
"""Slices of a series."""
SERIES_PER_STUDY = 2

_SIDE = 64
_UID, _NUMBER, _Z_MM = b"9" * 8, b"77777777", b"5555.50"  # found once a place: nothing else in a header repeats so
_ADDED = {
    "InstanceCreationDate": "20200102",
    "InstanceCreationTime": "030405.123000",
    "InstitutionName": "University Hospital",
    "InstitutionAddress": "1 Hospital Road, 12345 Town, District, Country",
    "StationName": "CT-ROOM-2",
    "InstitutionalDepartmentName": "Department of Radiology",
    "PhysiciansOfRecord": "Physician^Of^Record",
    "OperatorsName": "Operator^Name",
    "PatientAge": "063Y",
    "PatientSize": "1.78",
    "PatientWeight": "81.5",
    "BodyPartExamined": "ABDOMEN",
    "ScanOptions": "HELICAL MODE",
    "DataCollectionDiameter": "500",
    "SoftwareVersions": "phantom 1.0",
    "ProtocolName": "Abdomen portal venous 1.0 mm standard",
    "ContrastBolusAgent": "Iodinated contrast 350 mg/ml",
    "ContrastBolusRoute": "IV",
    "ContrastBolusVolume": "100",
    "ReconstructionDiameter": "360",
    "DistanceSourceToDetector": "1085.6",
    "DistanceSourceToPatient": "595",
    "TableHeight": "155.5",
    "RotationDirection": "CW",
    "ExposureTime": "500",
    "XRayTubeCurrent": "240",
    "Exposure": "160",
    "FilterType": "FLAT",
    "GeneratorPower": "28",
    "FocalSpots": "1.2",
    "ConvolutionKernel": ["Br40d", "3"],
    "RevolutionTime": 0.5,
    "SingleCollimationWidth": 0.6,
    "TotalCollimationWidth": 38.4,
    "TableSpeed": 46.0,
    "TableFeedPerRotation": 23.0,
    "SpiralPitchFactor": 0.6,
    "CTDIvol": 8.35,
    "ExposureModulationType": "XYZ_EC",
    "EstimatedDoseSaving": 21.5,
    "ImageComments": "Portal venous phase, reconstructed with a medium soft kernel",
    "WindowCenter": ["40", "300"],
    "WindowWidth": ["400", "1500"],
    "WindowCenterWidthExplanation": ["SOFT TISSUE", "BONE"],
    "RequestingPhysician": "Requesting^Physician",
    "RequestedProcedureDescription": "CT abdomen and pelvis with contrast",
    "PerformedProcedureStepStartDate": "20200102",
    "PerformedProcedureStepStartTime": "030000",
    "PerformedProcedureStepID": "STEP0001",
    "PerformedProcedureStepDescription": "CT abdomen and pelvis with contrast",
}


def make_instances(folder: Path, n: int) -> int:
    """Write `n` instances, a folder for each study and series.

    Args:
        folder: Where to.
        n: Instances; a multiple of `N_SLICES`.

    Returns:
        Bytes from the start of a file to the end of its header, of the first instance.
    """
    header_bytes = 0
    for number in range(n // N_SLICES):
        study = number // SERIES_PER_STUDY
        template = _template(folder, study, number)
        header_bytes = header_bytes or len(template) - 2 * _SIDE * _SIDE
        series = folder / f"study{study:03d}" / f"series{number:03d}"
        series.mkdir(parents=True)
        for k in range(N_SLICES):
            (series / f"IM{k:06d}").write_bytes(_fill_in(template, number, k))
    return header_bytes


def _template(folder: Path, study: int, number: int) -> bytes:
    """One instance with a marked place for all that differs within a series."""
    spec = CtSpec(
        shape=(_SIDE, _SIDE, 1),
        patient_id=f"PHANTOM-{study:04d}",
        series_number=number % SERIES_PER_STUDY + 2,
        description="Abdomen portal venous 1.0 mm",
        extra=_ADDED,
        edit=_mark,
    )
    (path,) = write_ct(spec, folder).paths
    content = path.read_bytes()
    path.unlink()
    return content


def _mark(dataset: Dataset, _k: int) -> None:
    """Sequences and private elements as scanners write them, and the places that differ from slice to slice."""
    dataset.ReferencedImageSequence = Sequence([_reference() for _ in range(3)])
    dataset.SourceImageSequence = Sequence([_reference()])
    dataset.ProcedureCodeSequence = Sequence([_code("CTABDPEL", "CT abdomen and pelvis")])
    dataset.RequestAttributesSequence = Sequence([_request()])
    block = dataset.private_block(0x0029, "PHANTOM CSA HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    block.add_new(0x10, "OB", np.random.default_rng(0).bytes(256))
    block.add_new(0x20, "SQ", Sequence([_reference()]))
    other = dataset.private_block(0x0019, "PHANTOM CT VA0 COAD", create=True)
    for element in range(0x10, 0x20):
        other.add_new(element, "DS", f"{element * 1.5:.4f}")
    uid = UID(f"{dataset.SOPInstanceUID[:40].rstrip('.')}.{_UID.decode()}")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.InstanceNumber = _NUMBER.decode()
    dataset.ImagePositionPatient = ["-157.5", "-157.5", _Z_MM.decode()]
    dataset.SliceLocation = _Z_MM.decode()


def _reference() -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    item.ReferencedSOPInstanceUID = generate_uid(entropy_srcs=["reference"])
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99PHANTOM", meaning
    return item


def _request() -> Dataset:
    item = Dataset()
    item.ScheduledProcedureStepDescription = "CT abdomen and pelvis with contrast"
    item.ScheduledProcedureStepID, item.RequestedProcedureID = "SPS0001", "RP0001"
    item.ScheduledProtocolCodeSequence = Sequence([_code("CTABDPEL", "CT abdomen and pelvis")])
    return item


def _fill_in(template: bytes, series: int, k: int) -> bytes:
    """The instance of slice `k`: everything keeps its width, so all lengths stay right."""
    content = template.replace(_UID, b"%08d" % (10_000_000 + series * N_SLICES + k))
    content = content.replace(_NUMBER, b"%08d" % (k + 1))
    return content.replace(_Z_MM, b"%07.2f" % (k * 2.5))
