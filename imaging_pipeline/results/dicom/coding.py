"""Labels in the words of terminologies: those of the model's table, or private codes that say so."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.dataset import Dataset

from imaging_pipeline.results.dicom.stamp import MANUFACTURER, plain
from imaging_pipeline.segment.labels import Concept, Label

PRIVATE = "99IMGPIPE"
"""Coding Scheme Designator (0008,0102) of codes that no terminology has; 99 as in PS3.3 section 8.2."""

STRUCTURE = Concept(code="STRUCTURE", meaning="Structure that a model names", scheme=PRIVATE)
"""Category of a label whose table gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """What a label is.

    Attributes:
        name: Its name, as text that every character set has.
        rgb: Colour, 0 to 255 each.
    """

    label: Label
    name: str
    category: Concept
    type: Concept
    modifier: Concept | None
    rgb: tuple[int, int, int]


def coded(label: Label, model: str) -> Coded:
    """A label with codes: those of its table; else private ones made of the model's name and the label's."""
    name = plain(label.name) or f"label {label.index}"
    digest = hashlib.sha256(f"{model}\0{label.name}".encode()).digest()
    return Coded(
        label=label,
        name=name,
        category=_plain(label.category) or STRUCTURE,
        type=_plain(label.type) or Concept(code=digest[:6].hex().upper(), meaning=name, scheme=PRIVATE),
        modifier=_plain(label.modifier),
        rgb=_rgb(label.colour) if label.colour else (64 + digest[0] // 2, 64 + digest[1] // 2, 64 + digest[2] // 2),
    )


def item(concept: Concept) -> Dataset:
    """A code sequence's item (PS3.3 section 8)."""
    dataset = Dataset()
    dataset.CodeValue = concept.code
    dataset.CodingSchemeDesignator = concept.scheme
    dataset.CodeMeaning = concept.meaning
    return dataset


def explain_private(dataset: Dataset, concepts: Iterable[Concept | None]) -> None:
    """Tell in an object whose the private codes are, if it holds any (PS3.3 section C.12.1, SOP Common)."""
    if any(concept is not None and concept.scheme == PRIVATE for concept in concepts):
        scheme = Dataset()
        scheme.CodingSchemeDesignator = PRIVATE
        scheme.CodingSchemeName = "Labels of segmentation models without a code in a terminology"
        scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
        dataset.CodingSchemeIdentificationSequence = [scheme]


def _plain(concept: Concept | None) -> Concept | None:
    if concept is None:
        return None
    return Concept(code=plain(concept.code, 16), meaning=plain(concept.meaning), scheme=plain(concept.scheme, 16))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
