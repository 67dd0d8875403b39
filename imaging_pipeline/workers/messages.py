"""What a supervisor and its worker say to each other.

The supervisor sends objects of ours. What comes back is read as bytes and JSON only: a worker parses what strangers
sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from imaging_pipeline.job import Job
from imaging_pipeline.segment.seat import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Load what series will need, while the supervisor does something else; is not answered.

    Attributes:
        with_network: Torch too.
    """

    with_network: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Open the model. Answered by NOTE for each line that a user should read, then OVER; or by ERROR."""

    job: Job
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Work through series. Each NEXT is answered by a `Series` or by `End`; the last answer is OVER or ERROR."""

    job: Job
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series.

    Attributes:
        task: The packed task.
        contents: Bytes of its files by path, where they do not lie where the worker could open them.
    """

    task: bytes
    contents: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """No further series for now."""


class Answer(bytes, Enum):
    """First byte of what a worker says; the rest is its content."""

    NEXT = b"n"
    """Wants a series."""

    RESULT = b"r"
    """A packed result; its receipt is written."""

    NOTE = b"l"
    """A line for the user."""

    ERROR = b"e"
    """Code, message and hint of an error that ends the request, as JSON."""

    FAULT = b"f"
    """A fault of ours that ends the request, in words."""

    OVER = b"o"
    """The request is done."""
