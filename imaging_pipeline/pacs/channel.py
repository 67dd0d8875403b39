"""What sending needs of a connection, whatever protocol it speaks."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.pacs.destination import DicomNode, parse_destination
from imaging_pipeline.pacs.settings import SendSettings


class SendError(PipelineError):
    """Why an object, or a whole batch, was not taken.

    Attributes:
        is_passing: The same may work a little later.
        is_link: The connection is lost with it, so the objects behind this one cannot go either.
    """

    def __init__(self, code: Code, message: str, hint: str, *, is_passing: bool = False, is_link: bool = False) -> None:
        super().__init__(code, message, hint)
        self.is_passing = is_passing
        self.is_link = is_link


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A DICOM file that is ready to go.

    Attributes:
        file: On this machine.
        sop_class_uid: Media Storage SOP Class UID (0002,0002).
        sop_instance_uid: Media Storage SOP Instance UID (0002,0003).
        transfer_syntax_uid: Transfer Syntax UID (0002,0010).
        size_bytes: Length of the file.
    """

    file: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size_bytes: int


class Channel(Protocol):
    """An open connection."""

    def store(self, instance: Instance) -> str:
        """Hand one instance over; the status that the other side answered with.

        Raises:
            SendError: It was not stored.
        """


def open_channel(settings: SendSettings, instances: Collection[Instance]) -> AbstractContextManager[Channel]:
    """A connection to the destination of the settings, for these instances.

    Raises:
        SendError: There is none, `send-unreachable` or `send-refused`.
        PipelineError: `settings-invalid` for a certificate or token that cannot be read.
    """
    destination = parse_destination(settings.destination)
    if isinstance(destination, DicomNode):
        from imaging_pipeline.pacs.association import open_association

        return open_association(destination, settings, instances)
    from imaging_pipeline.pacs.stow import open_service

    return open_service(destination, settings)


def read_instance(file: Path) -> Instance:
    """What sending has to know of a file.

    Raises:
        SendError: `send-unreadable`.
    """
    try:
        meta = read_file_meta_info(file)
        return Instance(
            file=file,
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            size_bytes=file.stat().st_size,
        )
    except (InvalidDicomError, AttributeError, OSError, ValueError) as error:
        message = f"{file.name} has no DICOM file meta information: {error}"
        raise SendError(Code.SEND_UNREADABLE, message, "run again with --force to make it anew") from None
