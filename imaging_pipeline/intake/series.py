"""Planes grouped into series and, where one UID holds several, into stacks; each stack judged."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from imaging_pipeline.errors import Code
from imaging_pipeline.identity import Keys, cut_description
from imaging_pipeline.intake.stacks import Grid, Verdict, judge
from imaging_pipeline.records import SeriesIdentity, SeriesTask, SkippedSeries, SliceHeader, SliceRef
from imaging_pipeline.settings import Settings

ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines of one stack differ by less than this (0.06 degrees)."""
SPACING_TOLERANCE_MM = 1e-3
"""Pixel spacings of one stack differ by less than this."""

Planes = Sequence[SliceHeader]
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True, slots=True)
class Grouped:
    """What intake makes of all planes.

    Attributes:
        tasks: Series that are volumes.
        heads: Series key to a header of each task, for selection.
        skipped: Series that are not, and why.
        n_duplicates: Second copies of an instance that were left out.
    """

    tasks: tuple[SeriesTask, ...]
    heads: dict[str, SliceHeader]
    skipped: tuple[SkippedSeries, ...]
    n_duplicates: int


def group_series(planes: Iterable[SliceHeader], keys: Keys, settings: Settings) -> Grouped:
    """One `SeriesTask` or `SkippedSeries` for every series, or stack of a series, among the planes.

    Args:
        planes: Headers in any order.
        keys: Names for subjects, studies and series.
        settings: Limits of intake and geometry.
    """
    unique, n_duplicates = _without_copies(planes)
    tasks: list[SeriesTask] = []
    heads: dict[str, SliceHeader] = {}
    skipped: list[SkippedSeries] = []
    for name, members in sorted(_by_series(unique).items()):
        for stack, part in enumerate(_stacks(members, settings)):
            item = _task_or_skip(part, _identify(name, stack, part, keys, settings), settings)
            if isinstance(item, SeriesTask):
                tasks.append(item)
                heads[item.identity.series_key] = part[0]
            else:
                skipped.append(item)
    return Grouped(tuple(tasks), heads, tuple(skipped), n_duplicates)


def _without_copies(planes: Iterable[SliceHeader]) -> tuple[list[SliceHeader], int]:
    """Planes with distinct SOP Instance UIDs, the first path in sorted order kept."""
    kept: dict[tuple[str, int | None], SliceHeader] = {}
    n_planes = 0
    for plane in sorted(planes, key=lambda plane: (plane.path, plane.frame or 0)):
        n_planes += 1
        kept.setdefault((plane.sop_instance_uid or plane.path, plane.frame), plane)
    return list(kept.values()), n_planes - len(kept)


def _by_series(planes: Planes) -> dict[str, list[SliceHeader]]:
    """Planes by Series Instance UID; without one, by folder, series number and modality."""
    groups: defaultdict[str, list[SliceHeader]] = defaultdict(list)
    for plane in planes:
        fallback = f"{os.path.dirname(plane.path)} {plane.series_number} {plane.modality}"
        groups[plane.series_uid or fallback].append(plane)
    return groups


def _identify(name: str, stack: int, planes: Planes, keys: Keys, settings: Settings) -> SeriesIdentity:
    first = planes[0]
    digest = hashlib.sha256()
    for plane in sorted(planes, key=lambda plane: (plane.sop_instance_uid, plane.frame or 0)):
        digest.update(f"{plane.sop_instance_uid} {plane.frame} {plane.size_bytes}\n".encode())
    return SeriesIdentity(
        series_key=keys.series(name, stack),
        stack=stack,
        subject_key=keys.subject(first.patient_id, first.study_uid),
        session_key=keys.session(first.study_uid),
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        series_number=first.series_number,
        modality=first.modality,
        series_description=cut_description(first.series_description, settings.identity.series_description),
        n_slices=len(planes),
        inputs_digest=digest.hexdigest(),
    )


def _stacks(members: Planes, settings: Settings) -> Iterator[Planes]:
    """The stacks of one series, in a stable order: one, unless its planes cannot form one grid."""
    if _verdict_of_kind(members) is not None:
        yield members
        return
    for part in _split(members):
        yield from _split_copies(part, settings)


def _split(members: Planes) -> list[list[SliceHeader]]:
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
            *(plane.rows, plane.columns, plane.samples_per_pixel, plane.photometric, plane.sop_class_uid),
            *(plane.frame_of_reference_uid, "LOCALIZER" in plane.image_type, plane.position_mm is None),
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


_TELLS_APART: tuple[Callable[[SliceHeader], object], ...] = (
    lambda plane: plane.echo_time_ms,
    lambda plane: plane.inversion_time_ms,
    lambda plane: plane.b_value,
    lambda plane: plane.temporal_position,
    lambda plane: plane.trigger_time_ms,
    lambda plane: plane.image_type,
    lambda plane: plane.acquisition_number,
    lambda plane: plane.acquisition_time,
)


def _split_copies(part: Planes, settings: Settings) -> Iterator[Planes]:
    """Where several planes share a position, the stacks that one attribute tells apart (echo, b-value, time ...)."""
    if judge(part, settings).code is not Code.DUPLICATE_POSITIONS:
        yield part
        return
    for attribute in _TELLS_APART:
        ordered = sorted(part, key=lambda plane: repr(attribute(plane)))
        candidates = [list(stack) for _, stack in groupby(ordered, key=attribute)]
        if 1 < len(candidates) < len(part) and not any(
            judge(stack, settings).code is Code.DUPLICATE_POSITIONS for stack in candidates
        ):
            yield from candidates
            return
    yield part


def _task_or_skip(planes: Planes, identity: SeriesIdentity, settings: Settings) -> SeriesTask | SkippedSeries:
    verdict = _verdict_of_kind(planes) or judge(planes, settings)
    if verdict.code is not None or verdict.grid is None:
        code = verdict.code or Code.MISSING_GEOMETRY
        return SkippedSeries(identity=identity, code=code, message=verdict.message, hint=verdict.hint)
    return _task(verdict.grid, identity, verdict.notes)


def _task(grid: Grid, identity: SeriesIdentity, notes: tuple[str, ...]) -> SeriesTask:
    first = grid.planes[0]
    assert first.orientation is not None
    assert first.pixel_spacing_mm is not None
    return SeriesTask(
        identity=identity,
        slices=tuple(_slice_ref(plane) for plane in grid.planes),
        rows=first.rows,
        columns=first.columns,
        orientation=first.orientation,
        pixel_spacing_mm=(first.pixel_spacing_mm[0], first.pixel_spacing_mm[1]),
        step_mm=grid.step_mm,
        photometric=first.photometric,
        size_bytes=sum({plane.path: plane.size_bytes for plane in grid.planes}.values()),
        notes=notes,
    )


def _slice_ref(plane: SliceHeader) -> SliceRef:
    assert plane.position_mm is not None
    return SliceRef(
        path=plane.path,
        frame=plane.frame,
        position_mm=(plane.position_mm[0], plane.position_mm[1], plane.position_mm[2]),
        slope=1.0 if plane.slope is None else plane.slope,
        intercept=0.0 if plane.intercept is None else plane.intercept,
    )


def _verdict_of_kind(planes: Planes) -> Verdict | None:
    """Refuse what is no image of a volume, whatever its geometry; None for what may be one."""
    first = planes[0]
    if all(plane.rows == 0 or plane.columns == 0 for plane in planes) or first.modality in _NO_IMAGES:
        return Verdict(
            code=Code.NOT_AN_IMAGE,
            message=f"modality {first.modality or 'unknown'}: {len(planes)} objects that hold no image of a volume",
            hint="nothing to do: such objects are no input of a segmentation",
        )
    if all("LOCALIZER" in plane.image_type for plane in planes):
        return Verdict(
            code=Code.LOCALIZER,
            message=f"a localizer of {len(planes)} planes, Image Type {'/'.join(first.image_type)}",
            hint="nothing to do: localizers are no input of a segmentation",
        )
    if all(plane.samples_per_pixel != 1 for plane in planes):
        return Verdict(
            code=Code.NOT_MONOCHROME,
            message=f"{first.samples_per_pixel} samples a pixel ({first.photometric}), 1 is needed",
            hint="send the series that this one was rendered from",
        )
    if all(plane.sop_class_uid.startswith(_SECONDARY_CAPTURE) and plane.position_mm is None for plane in planes):
        return Verdict(
            code=Code.SECONDARY_CAPTURE,
            message=f"{len(planes)} secondary captures without a place in the patient",
            hint="send the series that they were made from",
        )
    return None


_NO_IMAGES = frozenset(("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "DOC", "AU", "ECG"))
