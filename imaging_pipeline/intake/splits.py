"""The stacks of one series: most have one, but a UID can hold several orientations, echoes, b-values or time points."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from imaging_pipeline.errors import Code
from imaging_pipeline.intake.kinds import is_colour, refuse_kind
from imaging_pipeline.intake.stacks import Judgement, judge
from imaging_pipeline.records import Finding, SliceHeader
from imaging_pipeline.settings import Settings

ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines of one stack differ by less than this (0.06 degrees)."""
SPACING_TOLERANCE_MM = 1e-3
"""Pixel spacings of one stack differ by less than this."""

Planes = Sequence[SliceHeader]

_TELLS_APART: tuple[tuple[str, Callable[[SliceHeader], object]], ...] = (
    ("Echo Time", lambda plane: plane.echo_time_ms),
    ("Inversion Time", lambda plane: plane.inversion_time_ms),
    ("b-value", lambda plane: plane.b_value),
    ("Temporal Position", lambda plane: plane.temporal_position),
    ("Trigger Time", lambda plane: plane.trigger_time_ms),
    ("Stack ID", lambda plane: plane.stack_id),
    ("Image Type", lambda plane: plane.image_type),
    ("Acquisition Number", lambda plane: plane.acquisition_number),
    ("Acquisition Time", lambda plane: plane.acquisition_time),
    ("b-value and Acquisition Number", lambda plane: (plane.b_value, plane.acquisition_number)),
    ("Echo Time and Temporal Position", lambda plane: (plane.echo_time_ms, plane.temporal_position)),
    ("Echo Time and Image Type", lambda plane: (plane.echo_time_ms, plane.image_type)),
)


@dataclass(frozen=True, slots=True)
class Stack:
    """Planes that may form one volume, how they were told from others of their series, and what `judge` says of them.

    Attributes:
        judgement: None where nobody has asked yet.
    """

    planes: Planes
    split: tuple[Finding, ...] = ()
    judgement: Judgement | None = None

    @property
    def is_one_of_a_time_series(self) -> bool:
        """Whether others of its series lie at the same place."""
        return any(finding.code is Code.TIME_SERIES for finding in self.split)


def stacks(members: Planes, settings: Settings) -> Iterator[Stack]:
    """The stacks of one series, in a stable order."""
    if refuse_kind(members, settings.geometry) is not None:
        yield Stack(members)
        return
    parts = _by_grid(members)
    for number, part in enumerate(parts):
        split: tuple[Finding, ...] = ()
        if len(parts) > 1:
            message = f"part {number + 1} of {len(parts)}: matrix, orientation, spacing or kind of pixel differ"
            split = (Finding(code=Code.SPLIT_STACK, message=message),)
        yield from _by_attribute(part, split, settings)


def _by_grid(members: Planes) -> list[list[SliceHeader]]:
    """Split by kind, matrix, frame of reference, orientation and pixel spacing."""
    parts: list[list[SliceHeader]] = []
    for plane in sorted(members, key=lambda plane: (plane.instance_number or 0, plane.path, plane.frame or 0)):
        home = next((part for part in parts if _same_grid(part[0], plane)), None)
        if home is None:
            parts.append([plane])
        else:
            home.append(plane)
    return parts


def _same_grid(one: SliceHeader, other: SliceHeader) -> bool:
    def exact(plane: SliceHeader) -> tuple[object, ...]:
        return (
            *(plane.rows, plane.columns, is_colour(plane), plane.sop_class_uid, plane.frame_of_reference_uid),
            *("LOCALIZER" in plane.image_type, plane.position_mm is None),
        )

    return (
        exact(one) == exact(other)
        and _close(one.orientation, other.orientation, ORIENTATION_TOLERANCE)
        and _close(one.pixel_spacing_mm, other.pixel_spacing_mm, SPACING_TOLERANCE_MM)
    )


def _close(one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= tolerance


def _by_attribute(part: Planes, split: tuple[Finding, ...], settings: Settings) -> Iterator[Stack]:
    """Where several planes share a position, the stacks that one attribute tells apart."""
    judgement = judge(part, settings)
    if _is_free_of_copies(judgement):
        yield Stack(part, split, judgement)
        return
    for name, attribute in _TELLS_APART:
        ordered = sorted(part, key=lambda plane: repr(attribute(plane)))
        candidates = [(value, list(planes)) for value, planes in groupby(ordered, key=attribute)]
        if 1 < len(candidates) < len(part) and all(
            _is_free_of_copies(judge(planes, settings)) for _, planes in candidates
        ):
            for number, (value, planes) in enumerate(candidates):
                message = f"volume {number + 1} of {len(candidates)} at one place, told apart by {name} ({value})"
                yield Stack(planes, (*split, Finding(code=Code.TIME_SERIES, message=message)))
            return
    yield Stack(part, split, judgement)


def _is_free_of_copies(judgement: Judgement) -> bool:
    found = {judgement.code, *(finding.code for finding in judgement.findings)}
    return Code.DUPLICATE_POSITIONS not in found
