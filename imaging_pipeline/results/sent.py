"""One JSON for each object and destination, written when the destination has it: it is not sent there again."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from pydantic import TypeAdapter, ValidationError

from imaging_pipeline.results.layout import sent_folder, sent_path
from imaging_pipeline.stores import Store


class Commitment(StrEnum):
    """Whether the destination has promised to keep an object."""

    NONE = "none"  # not asked
    PENDING = "pending"  # asked, and no answer yet
    COMMITTED = "committed"
    FAILED = "failed"  # it does not keep it: the object is sent again


@dataclass(frozen=True, slots=True, kw_only=True)
class SentObject:
    """An object that a destination has.

    Attributes:
        destination: `CALLED@host:port`, or a URL.
        path: Of the output, relative to RESULTS.
        digest: SHA-256 of the file.
        size_bytes: Its length.
        status: What the destination answered with: a DIMSE status in hexadecimal digits, or one of HTTP.
        sent_at: UTC, ISO 8601.
        commitment: Whether it is to be kept.
        transaction_uid: Transaction UID (0008,1195) of the request to keep it, where one was made.
        answered_at: When the answer to that came.
    """

    destination: str
    path: str
    series_key: str
    model_name: str
    sop_class_uid: str
    sop_instance_uid: str
    digest: str
    size_bytes: int
    status: str
    sent_at: str
    commitment: Commitment = Commitment.NONE
    transaction_uid: str = ""
    answered_at: str = ""


def write_sent(out: Store, sent: SentObject) -> None:
    """Note that an object has arrived.

    Raises:
        PipelineError: `write-failed`.
    """
    out.publish(sent_path(sent.destination, sent.digest), _adapter().dump_json(sent, indent=2) + b"\n")


def read_sent(out: Store, destination: str, digest: str) -> SentObject | None:
    """What is known of an object at a destination; None where nothing is, or nothing that can be read."""
    try:
        return _adapter().validate_json(out.read(sent_path(destination, digest)))
    except (OSError, ValidationError):
        return None


def sent_digests(out: Store, destination: str) -> set[str]:
    """SHA-256 of every object that a destination has, by one listing.

    Raises:
        OSError: The store does not say.
    """
    folder = sent_folder(destination)
    try:
        names = [entry.path.rpartition("/")[2] for entry in out.list(folder)]
    except FileNotFoundError:
        return set()
    return {name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")}


@cache
def _adapter() -> TypeAdapter[SentObject]:
    return TypeAdapter(SentObject)
