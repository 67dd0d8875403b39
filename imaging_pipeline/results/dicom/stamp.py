"""What all DICOM outputs have in common: whose they are, who made them, under which UIDs, and when."""

import hashlib
import unicodedata
import uuid
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID

from imaging_pipeline import __version__
from imaging_pipeline.results.dicom.source import Origin, take_over

MANUFACTURER = "imaging_pipeline"
NOTICE = "(AI, not for clinical use)"
"""Ends every Series Description (0008,103E)."""

_SERIES = {"seg": (7000, "segmentation"), "rtstruct": (8000, "structures"), "sr": (9000, "measurements")}
"""What is added to the source's Series Number, and what the object is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """What made a mask.

    Attributes:
        model_name: Name of the model.
        model_version: Its own version; may be empty.
        model_digest: SHA-256 of the model.
        fingerprint: Inputs, model, settings and package version in one digest.
    """

    model_name: str
    model_version: str
    model_digest: str
    fingerprint: str

    @property
    def version(self) -> str:
        """Version of the model, or the start of its digest where it has none."""
        return self.model_version or self.model_digest[:16]


def uid(*parts: str) -> UID:
    """A UID that follows from its parts: a UUID of version 5 as in PS3.5 section B.2, by SHA-256."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")


def series_uid(origin: Origin, maker: Maker, kind: str) -> UID:
    """Series Instance UID of an output: another mask of another fingerprint is another series."""
    identity = origin.task.identity
    return uid("series", kind, identity.series_uid, str(identity.stack), maker.fingerprint)


def instance_uid(origin: Origin, maker: Maker, kind: str, content: str) -> UID:
    """SOP Instance UID of an output: the same for the same content of the same patient and study, else another.

    Args:
        origin: The series.
        maker: What made the mask.
        kind: seg, rtstruct or sr.
        content: Digest of what the object holds.
    """
    whose = Dataset()
    take_over(origin, whose)
    return uid("instance", series_uid(origin, maker, kind), content, whose.to_json(suppress_invalid_tags=True))


def series_number(origin: Origin, kind: str) -> int:
    """Series Number (0020,0011)."""
    return _SERIES[kind][0] + abs(origin.task.identity.series_number or 0) % 1000


def plain(text: str, longest: int = 64) -> str:
    """Text that any Specific Character Set (0008,0005) can hold: ASCII, no backslash."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().replace("\\", "/")
    return " ".join("".join(letter for letter in letters if letter.isprintable()).split())[:longest].strip()


def stamp(dataset: Dataset, origin: Origin, maker: Maker, kind: str, content: str) -> None:
    """Make an object one of its source's patient and study, and tell who made it.

    Args:
        dataset: The object; its SOP Class UID (0008,0016) is there.
        origin: The series.
        maker: What made the mask.
        kind: seg, rtstruct or sr.
        content: Digest of what the object holds.
    """
    take_over(origin, dataset)
    what = plain(maker.model_name, 63 - len(NOTICE) - len(_SERIES[kind][1]) - 1)
    dataset.SeriesDescription = f"{what} {_SERIES[kind][1]} {NOTICE}"
    dataset.SeriesInstanceUID = series_uid(origin, maker, kind)
    dataset.SeriesNumber = series_number(origin, kind)
    dataset.SOPInstanceUID = instance_uid(origin, maker, kind, content)
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = plain(maker.model_name)
    dataset.DeviceSerialNumber = maker.model_digest[:16]
    dataset.SoftwareVersions = [__version__, f"model {plain(maker.version, 50)}"]
    # whenever it is made again, it is the same
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence"):
        dataset.pop(keyword, None)


def as_file(dataset: Dataset, transfer_syntax: str) -> FileDataset:
    """An object with its File Meta Information, ready to be written."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = uid(MANUFACTURER)
    meta.ImplementationVersionName = f"IMGPIPE {__version__}"[:16]
    return FileDataset("", dataset, file_meta=meta, preamble=b"\0" * 128)
