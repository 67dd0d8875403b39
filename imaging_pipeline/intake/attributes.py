"""What selection rules can ask of a series: derived attributes by name, any DICOM attribute by its keyword."""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from imaging_pipeline.records import SeriesTask, SliceHeader

OBLIQUE_DEGREES = 30.0
"""Slices whose normal leaves every axis of the patient by more are oblique; a gantry tilts by up to 30 degrees."""
LENGTH_DIGITS = 3
"""Lengths in mm are compared to this many decimals: writers round positions."""

Value = bool | float | str
Values = tuple[Value, ...]

_NUMBER_VRS = frozenset("AS DA DS FD FL IS SL SS TM UL US".split())
_TEXT_VRS = frozenset("AE CS DT LO LT PN SH ST UC UI UR UT".split())
_PATIENT_GROUP = 0x0010
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}  # units of an Age String, PS3.5 table 6.2-1

_OPEN_KEYWORDS = frozenset(
    "ConvolutionKernel FilterType Manufacturer ManufacturerModelName SOPClassUID SequenceName TransferSyntaxUID".split()
)
_OPEN_NUMBER_VRS = _NUMBER_VRS - {"AS", "DA", "TM"}
_OPEN_TEXT = re.compile(r"[\w .,+/*#:-]{1,64}")

_FIELDS = {
    "AcquisitionNumber": "acquisition_number",
    "BitsAllocated": "bits_allocated",
    "Columns": "columns",
    "DiffusionBValue": "b_value",
    "EchoTime": "echo_time_ms",
    "ImageType": "image_type",
    "InversionTime": "inversion_time_ms",
    "Modality": "modality",
    "NumberOfFrames": "n_frames",
    "PatientID": "patient_id",
    "PhotometricInterpretation": "photometric",
    "PixelSpacing": "pixel_spacing_mm",
    "Rows": "rows",
    "SOPClassUID": "sop_class_uid",
    "SeriesDescription": "series_description",
    "SeriesInstanceUID": "series_uid",
    "SeriesNumber": "series_number",
    "SliceThickness": "slice_thickness_mm",
    "StudyInstanceUID": "study_uid",
    "TransferSyntaxUID": "transfer_syntax_uid",
    "TriggerTime": "trigger_time_ms",
}
"""Keyword to the field of `SliceHeader` that holds it: right for Enhanced instances too."""


class Kind(Enum):
    """What conditions an attribute allows."""

    NUMBER = auto()
    TEXT = auto()
    FLAG = auto()


class Privacy(Enum):
    """What messages may tell of an attribute.

    OPEN: its value. WITHHELD: patterns that rules hold against it. PATIENT: no more than its name.
    """

    OPEN = auto()
    WITHHELD = auto()
    PATIENT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A volume that rules decide about, with the header of one of its planes."""

    task: SeriesTask
    head: SliceHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One thing that rules can ask for.

    Attributes:
        name: As rules write it.
        title: As messages write it.
        values: Reads it of a candidate; empty where it is absent or damaged.
        unit: Behind its numbers in messages.
        choices: All values that it can have; empty where any may occur.
        keyword: DICOM keyword that header reading must be told of, or empty.
    """

    name: str
    title: str
    kind: Kind
    values: Callable[[Candidate], Values]
    unit: str = ""
    choices: tuple[str, ...] = ()
    keyword: str = ""
    privacy: Privacy = Privacy.OPEN

    def in_words(self, values: Values) -> str:
        """Values as messages may tell them; empty where they may not."""
        if self.privacy is not Privacy.OPEN or not values:
            return ""
        if any(isinstance(value, str) and not _OPEN_TEXT.fullmatch(value) for value in values):
            return ""
        between = "\\" if self.kind is Kind.TEXT else " x "
        return f"{between.join(map(figure, values))} {self.unit}".rstrip()


def figure(value: Value) -> str:
    """A value as messages write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.0f}" if value == round(value) else f"{value:.6g}"


def find_attribute(name: str) -> Attribute:
    """The attribute that rules call by a name.

    Raises:
        ValueError: Neither a derived attribute nor the keyword of a DICOM attribute with text or numbers.
    """
    if name in DERIVED:
        return DERIVED[name]
    tag = tag_for_keyword(name) if name else None  # retired tags share the empty keyword
    if tag is None:
        raise ValueError(f"unknown attribute {name}; {_suggest(name)}")
    vr = dictionary_VR(tag)[:2]  # the first of "US or SS": both are numbers
    if vr not in _NUMBER_VRS | _TEXT_VRS:
        raise ValueError(f"{name} ({tag >> 16:04x},{tag & 0xFFFF:04x}) holds neither text nor numbers, but {vr}")
    kind = Kind.NUMBER if vr in _NUMBER_VRS else Kind.TEXT
    return Attribute(
        name=name,
        title=name,
        kind=kind,
        values=lambda candidate: _stored(candidate.head, name, kind),
        keyword="" if name in _FIELDS else name,
        privacy=_privacy(name, tag, vr),
    )


def _suggest(name: str) -> str:
    known = {word.lower(): word for word in (*keyword_dict, *DERIVED) if word}
    near = [known[word] for word in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.7)]
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(DERIVED)}, or a DICOM keyword"


def _privacy(name: str, tag: int, vr: str) -> Privacy:
    if tag >> 16 == _PATIENT_GROUP or vr == "PN":
        return Privacy.PATIENT
    return Privacy.OPEN if vr == "CS" or vr in _OPEN_NUMBER_VRS or name in _OPEN_KEYWORDS else Privacy.WITHHELD


def _stored(head: SliceHeader, keyword: str, kind: Kind) -> Values:
    raw = getattr(head, _FIELDS[keyword]) if keyword in _FIELDS else head.attributes.get(keyword, "")
    several = raw if isinstance(raw, tuple) else str("" if raw is None else raw).split("\\")
    texts = [text for text in (str(value).strip() for value in several) if text]
    if kind is Kind.TEXT:
        return tuple(texts)
    try:
        numbers = tuple(_number(text) for text in texts)
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _number(text: str) -> float:
    """A number, also of a date, a time of day (both as their digits) or an age (in years)."""
    factor = _YEARS.get(text[-1])
    return float(text) if factor is None else float(text[:-1]) * factor


def spacing_mm(candidate: Candidate) -> tuple[float, float, float]:
    """Distances between columns, rows and slices."""
    between_rows, between_columns = candidate.task.pixel_spacing_mm
    return between_columns, between_rows, float(np.linalg.norm(candidate.task.step_mm))


def _field_of_view(candidate: Candidate) -> Values:
    task = candidate.task
    counts = (task.columns, task.rows, task.depth)
    return _lengths(count * step for count, step in zip(counts, spacing_mm(candidate), strict=True))


def _lengths(lengths: Iterable[float]) -> Values:
    return tuple(round(length, LENGTH_DIGITS) for length in lengths)


def _orientation(candidate: Candidate) -> Values:
    cosines = np.array(candidate.task.orientation, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    shares = np.abs(normal) / np.linalg.norm(normal)
    axis = int(np.argmax(shares))
    angle = math.degrees(math.acos(min(1.0, float(shares[axis]))))
    return (PLANES[axis] if angle <= OBLIQUE_DEGREES + 0.01 else PLANES[3],)


def _original(candidate: Candidate) -> Values:
    image_type = candidate.head.image_type
    return (image_type[0].upper() == "ORIGINAL",) if image_type and image_type[0] else ()


PLANES = ("sagittal", "coronal", "axial", "oblique")
"""Names of orientation, by the patient's axis (x, y, z) that the slices' normal is nearest to."""


def _derived() -> tuple[Attribute, ...]:
    def length(name: str, title: str, values: Callable[[Candidate], Values]) -> Attribute:
        return Attribute(name=name, title=title, kind=Kind.NUMBER, unit="mm", values=values)

    def count(name: str, title: str, values: Callable[[Candidate], Values]) -> Attribute:
        return Attribute(name=name, title=title, kind=Kind.NUMBER, values=values)

    return (
        Attribute(name="modality", title="modality", kind=Kind.TEXT, values=_modality),
        count("n_slices", "number of slices", lambda candidate: (float(candidate.task.depth),)),
        count("n_voxels", "number of voxels", lambda candidate: (float(candidate.task.n_voxels),)),
        length("slice_spacing_mm", "slice spacing", lambda candidate: _lengths(spacing_mm(candidate)[2:])),
        length("pixel_spacing_mm", "pixel spacing", lambda candidate: _lengths(spacing_mm(candidate)[:2])),
        length("spacing_mm", "spacing", lambda candidate: _lengths(spacing_mm(candidate))),
        length("field_of_view_mm", "field of view", _field_of_view),
        Attribute(name="orientation", title="orientation", kind=Kind.TEXT, choices=PLANES, values=_orientation),
        Attribute(name="original", title="original", kind=Kind.FLAG, values=_original),
    )


def _modality(candidate: Candidate) -> Values:
    modality = candidate.task.identity.modality
    return (modality,) if modality else ()


DERIVED = {attribute.name: attribute for attribute in _derived()}
"""Attributes that are not read as they stand, by name."""
