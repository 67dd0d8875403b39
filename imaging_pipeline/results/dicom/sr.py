"""Measurement report (PS3.16 TID 1500): volume, mean and standard deviation of each label, referring to the SEG."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import highdicom
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.dicom.coding import PRIVATE, Coded, explain_private
from imaging_pipeline.results.dicom.seg import code_of, segment_numbers, tracking_uid
from imaging_pipeline.results.dicom.source import TYPE_2, Origin
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
from imaging_pipeline.results.measure import Measurement
from imaging_pipeline.segment.labels import Concept

_INTENSITY = Concept(code="INTENSITY", meaning="Intensity in the unit of the image", scheme=PRIVATE)
_PROCEDURES = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}
_IMAGING = codes.SCT.ImagingProcedure


def make_sr(
    seg: Dataset, structures: Sequence[Coded], measures: Mapping[int, Measurement], origin: Origin, maker: Maker
) -> FileDataset:
    """A report with one measurement group for each label that is found.

    Args:
        seg: The SEG of the same mask.
        structures: Labels with their codes.
        measures: Label number to what was measured of it.
        origin: The series.
        maker: What made the mask.

    Raises:
        PipelineError: `nothing-found`.
    """
    found = [each for each in structures if each.label.index in measures]
    if not found:
        message = f"none of {len(structures)} labels has a voxel: there is nothing to measure"
        raise PipelineError(Code.NOTHING_FOUND, message, "nothing to do: the NIfTI says so too")
    text = " ".join(f"{each.label.index} {_told(measures[each.label.index])}" for each in found)
    content = hashlib.sha256(f"{seg.SOPInstanceUID} {text}".encode()).hexdigest()
    numbers = segment_numbers(structures, is_binary=seg.SegmentationType == "BINARY")
    date, time = origin.moment
    report = highdicom.sr.MeasurementReport(
        observation_context=_observer(maker),
        procedure_reported=_PROCEDURES.get(origin.task.identity.modality, _IMAGING),
        imaging_measurements=[
            _group(each, measures[each.label.index], numbers[each.label.index], seg, origin, maker) for each in found
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )
    sr = highdicom.sr.EnhancedSR(
        evidence=_evidence(seg, origin),
        content=report,
        series_instance_uid=series_uid(origin, maker, "sr"),
        series_number=series_number(origin, "sr"),
        sop_instance_uid=instance_uid(origin, maker, "sr", content),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        content_date=date,
        content_time=time,
    )
    stamp(sr, origin, maker, "sr", content)
    explain_private(sr, (*(each.category for each in found), *(each.type for each in found), _intensity(origin)[0]))
    return as_file(sr, ExplicitVRLittleEndian)


def _observer(maker: Maker) -> highdicom.sr.ObservationContext:
    attributes = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=uid("device", MANUFACTURER, maker.model_digest),
        name=plain(f"{maker.model_name} {maker.version}"),
        manufacturer_name=MANUFACTURER,
        model_name=plain(maker.model_name),
        serial_number=maker.model_digest[:16],
    )
    device = highdicom.sr.ObserverContext(codes.DCM.Device, attributes)
    return highdicom.sr.ObservationContext(observer_device_context=device)


def _group(
    each: Coded, measures: Measurement, number: int, seg: Dataset, origin: Origin, maker: Maker
) -> highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    modifier = [] if each.modifier is None else [code_of(each.modifier)]
    return highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=tracking_uid(origin, maker, each), identifier=f"{plain(maker.model_name, 32)} {each.label.index}"
        ),
        referenced_segment=highdicom.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=highdicom.sr.SourceSeriesForSegmentation(origin.text("SeriesInstanceUID")),
        ),
        finding_category=code_of(each.category),
        finding_type=code_of(each.type),
        finding_sites=[highdicom.sr.FindingSite(code_of(each.type), topographical_modifier=code) for code in modifier],
        algorithm_id=highdicom.sr.AlgorithmIdentification(
            name=plain(maker.model_name),
            version=plain(maker.version),
            parameters=[f"model_sha256={maker.model_digest}", f"fingerprint={maker.fingerprint}"],
        ),
        measurements=list(_measurements(measures, origin)),
    )


def _measurements(measures: Measurement, origin: Origin) -> Iterator[highdicom.sr.Measurement]:
    volume_mm3 = round(measures.volume_ml * 1000, 3)
    yield highdicom.sr.Measurement(name=codes.SCT.Volume, value=volume_mm3, unit=codes.UCUM.CubicMillimeter)
    name, unit = _intensity(origin)
    values = ((measures.mean, codes.SCT.Mean), (measures.sd, codes.SCT.StandardDeviation))
    for value, derivation in values:
        if value is not None:
            yield highdicom.sr.Measurement(name=code_of(name), value=value, unit=unit, derivation=derivation)


def _told(measures: Measurement) -> tuple[float | None, ...]:
    """What a report says of a label."""
    return measures.volume_ml, measures.mean, measures.sd


def _intensity(origin: Origin) -> tuple[Concept, CodedConcept]:
    """What the values of a series are, and their unit."""
    modality = origin.task.identity.modality
    none = CodedConcept.from_code(codes.UCUM.NoUnits)
    if modality == "CT":
        is_hu = origin.text("RescaleType") in ("", "HU")
        name = codes.DCM.AttenuationCoefficient
        unit = CodedConcept.from_code(codes.UCUM.HounsfieldUnit) if is_hu else none
        return Concept(code=name.value, meaning=name.meaning, scheme="DCM"), unit
    if modality == "MR":
        name = codes.DCM.MRSignalIntensity
        return Concept(code=name.value, meaning=name.meaning, scheme="DCM"), none
    is_activity = origin.text("Units") == "BQML"
    return _INTENSITY, CodedConcept.from_code(codes.UCUM.BecquerelsPerMilliliter) if is_activity else none


def _evidence(seg: Dataset, origin: Origin) -> list[Dataset]:
    """What the report refers to, as far as highdicom looks at it; patient and study come from `stamp`."""
    instances = dict.fromkeys(ref.sop_instance_uid for ref in origin.task.slices)
    images = (_instance(origin.sop_class_uid, uid_, origin.text("SeriesInstanceUID"), origin) for uid_ in instances)
    return [_instance(seg.SOPClassUID, seg.SOPInstanceUID, seg.SeriesInstanceUID, origin), *images]


def _instance(sop_class: str, instance: str, series: str, origin: Origin) -> Dataset:
    dataset = Dataset()
    for keyword in TYPE_2:
        setattr(dataset, keyword, None)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = sop_class, instance, series
    dataset.StudyInstanceUID = origin.text("StudyInstanceUID")
    return dataset
