"""What a DICOM output takes over from the series that it was made of."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.frames import PARSER_FAULTS, Thrifty
from imaging_pipeline.records import SeriesTask, SliceRef, Vector
from imaging_pipeline.sources import Source, in_memory

TYPE_2 = tuple(
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID "
    "AccessionNumber".split()
)
"""Attributes that every object has, empty where the source has none (type 2 in PS3.3 sections C.7.1.1 and C.7.2.1)."""

COPIED = (
    *TYPE_2,
    *(
        "SpecificCharacterSet TimezoneOffsetFromUTC "
        # Patient, PS3.3 section C.7.1.1
        "IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence PatientBirthTime QualityControlSubject "
        "OtherPatientNames OtherPatientIDsSequence EthnicGroup EthnicGroupCodeSequence PatientComments "
        "PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence "
        "BreedRegistrationSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization "
        "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
        # Clinical Trial Subject and Study, sections C.7.1.3 and C.7.2.3
        "ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID "
        "ClinicalTrialSiteName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID "
        "ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialProtocolEthicsCommitteeApprovalNumber "
        "ClinicalTrialTimePointID ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent "
        "LongitudinalTemporalEventType "
        # General Study and Patient Study, sections C.7.2.1 and C.7.2.2
        "StudyInstanceUID IssuerOfAccessionNumberSequence StudyDescription PhysiciansOfRecord "
        "NameOfPhysiciansReadingStudy ProcedureCodeSequence AdmittingDiagnosesDescription PatientAge PatientSize "
        "PatientWeight MedicalAlerts Allergies PregnancyStatus PatientSexNeutered AdmissionID "
        "IssuerOfAdmissionIDSequence ServiceEpisodeID ServiceEpisodeDescription PatientState"
    ).split(),
)
"""Attributes of patient and study, which every object of the study shares: copied as they stand."""

_FURTHER = (
    "SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesNumber Modality FrameOfReferenceUID PositionReferenceIndicator "
    "SliceThickness Units RescaleType LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod"
).split()
_MOMENTS = ("Content", "Acquisition", "Series", "Study")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One plane of the mask, where it lies and what it was made of.

    Attributes:
        position_mm: Centre of its first pixel, LPS.
        sources: The plane of the series, or the two that it was interpolated between.
    """

    position_mm: Vector
    sources: tuple[SliceRef, ...]

    @property
    def is_filled(self) -> bool:
        """Whether the series has no such plane."""
        return len(self.sources) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A series as its DICOM outputs see it.

    Attributes:
        task: The series.
        header: What they take over from its first instance; an attribute that is absent there is absent here.
        problem: Why nothing could be read of it; empty normally.
    """

    task: SeriesTask
    header: Dataset
    problem: str = ""

    @property
    def sop_class_uid(self) -> UID:
        """SOP Class UID (0008,0016) of its instances."""
        return UID(self.text("SOPClassUID"))

    @property
    def frame_of_reference_uid(self) -> str:
        """Frame of Reference UID (0020,0052)."""
        return self.text("FrameOfReferenceUID")

    @property
    def moment(self) -> tuple[str, str]:
        """Date and time of the content, as DA and TM: those of the source, so that an object is the same every time."""
        for name in _MOMENTS:
            date, time = self.text(f"{name}Date"), self.text(f"{name}Time")[:6]
            if _is_moment(date, "%Y%m%d"):
                return date, time if _is_moment(time, "%H%M%S") else "000000"
        return "19000101", "000000"

    def text(self, keyword: str) -> str:
        """An attribute as text; empty where it is absent."""
        return str(self.header.get(keyword) or "").strip()

    def check(self) -> None:
        """Refuse a series that no object could refer to.

        Raises:
            PipelineError: `not-encodable`, `no-frame-of-reference` or `missing-uid`.
        """
        if self.problem:
            message = f"the header of the first slice cannot be parsed: {self.problem}"
            raise PipelineError(
                Code.NOT_ENCODABLE, message, "send the series again from its source; the NIfTI is right"
            )
        if not self.frame_of_reference_uid:
            message = "no Frame of Reference UID (0020,0052): positions of another object could not be told to agree"
            raise PipelineError(Code.NO_FRAME_OF_REFERENCE, message, "send the series with it; the NIfTI is right")
        absent = [name for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID") if not self.text(name)]
        n_nameless = sum(not ref.sop_instance_uid for ref in self.task.slices)
        if n_nameless:
            absent.append(f"SOPInstanceUID in {n_nameless} of {len(self.task.slices)} planes")
        if absent:
            message = f"nothing to refer to: no {', '.join(absent)}"
            raise PipelineError(Code.MISSING_UID, message, "send the series with its UIDs; the NIfTI is right")

    def planes(self) -> tuple[Plane, ...]:
        """Planes of the volume, in its order."""
        task = self.task
        if not task.blends:
            return tuple(Plane(position_mm=ref.position_mm, sources=(ref,)) for ref in task.slices)
        return tuple(self._filled(number) for number in range(len(task.blends)))

    def _filled(self, number: int) -> Plane:
        task, blend = self.task, self.task.blends[number]
        lower = task.slices[blend.lower]
        if blend.weight == 0:
            return Plane(position_mm=lower.position_mm, sources=(lower,))
        x, y, z = (start + number * step for start, step in zip(task.slices[0].position_mm, task.step_mm, strict=True))
        return Plane(position_mm=(x, y, z), sources=(lower, task.slices[blend.lower + 1]))


def read_origin(task: SeriesTask, source: Source) -> Origin:
    """What DICOM outputs need of a series' first instance. A header that cannot be parsed is a problem of theirs alone.

    Args:
        task: The series.
        source: Opens its files.

    Raises:
        PipelineError: `input-vanished`.
    """
    first = task.slices[0]
    moments = [f"{name}{part}" for name in _MOMENTS for part in ("Date", "Time")]
    wanted = [*COPIED, *_FURTHER, *moments]
    try:
        with contextlib.closing(in_memory(source(first.path), first.path)) as stream:
            thrifty = cast(BinaryIO, Thrifty(stream))
            found = pydicom.dcmread(thrifty, stop_before_pixels=True, force=True, specific_tags=wanted)
            header = Dataset()
            for element in _readable(found, wanted):
                header.add(element)
            for name in ("SOPClassUID", "SOPInstanceUID"):
                setattr(header, name, header.get(name) or found.file_meta.get(f"MediaStorage{name}") or "")
    except PARSER_FAULTS as error:
        if not isinstance(error, OSError) or error.errno is None:  # pydicom raises bare ones on damage
            return Origin(task=task, header=Dataset(), problem=" ".join(f"{error}".split())[:300] or "damaged")
        message = f"the first slice cannot be read any more: {error.strerror}"
        raise PipelineError(Code.INPUT_VANISHED, message, "run again when it is back") from None
    if first.sop_instance_uid and header.SOPInstanceUID != first.sop_instance_uid:
        message = f"the first slice is {header.SOPInstanceUID or 'nameless'}, and was {first.sop_instance_uid}"
        raise PipelineError(Code.INPUT_VANISHED, message, "run again: the file has changed")
    return Origin(task=task, header=header)


def take_over(origin: Origin, into: Dataset) -> None:
    """Give an object the patient and study of its source: every value as it stands there, absent ones empty."""
    for keyword in COPIED:
        if keyword in origin.header:
            into[keyword] = copy.deepcopy(origin.header[keyword])
        elif keyword in TYPE_2:
            setattr(into, keyword, None)
        elif keyword in into:
            del into[keyword]


def _readable(dataset: Dataset, keywords: list[str]) -> Iterator[Any]:
    """Elements whose values can be read at all."""
    for keyword in keywords:
        with contextlib.suppress(*PARSER_FAULTS):
            if keyword in dataset:
                yield dataset[keyword]


def _is_moment(text: str, form: str) -> bool:
    with contextlib.suppress(ValueError):
        return datetime.strptime(text, form).year >= 1900 and text.isdigit()
    return False
