"""Planes grouped into series and stacks; each becomes a task, or a reason why not."""

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from imaging_pipeline.errors import Code
from imaging_pipeline.identity import Keys, cut_description
from imaging_pipeline.intake.kinds import refuse_kind
from imaging_pipeline.intake.splits import Stack, stacks
from imaging_pipeline.intake.stacks import Grid, Judgement, judge
from imaging_pipeline.records import (
    Finding,
    GeometryVerdict,
    SeriesIdentity,
    SeriesTask,
    SkippedSeries,
    SliceHeader,
    SliceRef,
)
from imaging_pipeline.settings import Settings

SQUARE_TOLERANCE = 1e-3
"""Distances between rows and between columns that differ by less than this share make square pixels."""

Planes = Sequence[SliceHeader]


@dataclass(frozen=True, slots=True)
class Grouped:
    """What intake makes of all planes.

    Attributes:
        tasks: Series that are volumes.
        heads: Series key to a header of each task, for selection.
        skipped: Series that are not, and why.
        n_duplicates: Files left out because they hold second copies of instances.
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
        for number, stack in enumerate(stacks(members, settings)):
            identity = _identify(name, number, stack.planes, keys, settings)
            item = _task_or_skip(stack, identity, settings)
            if isinstance(item, SeriesTask):
                tasks.append(item)
                heads[identity.series_key] = stack.planes[0]
            else:
                skipped.append(item)
    return Grouped(tuple(tasks), heads, tuple(skipped), n_duplicates)


def _without_copies(planes: Iterable[SliceHeader]) -> tuple[list[SliceHeader], int]:
    """Planes with distinct SOP Instance UIDs: the first intact one in the order of paths; and the files left out."""
    kept: dict[tuple[str, int | None], SliceHeader] = {}
    paths = set()
    for plane in sorted(planes, key=precedence):
        paths.add(plane.path)
        kept.setdefault(instance_of(plane), plane)
    return list(kept.values()), len(paths - {plane.path for plane in kept.values()})


def instance_of(plane: SliceHeader) -> tuple[str, int | None]:
    """What two copies of a plane have in common."""
    return plane.sop_instance_uid or plane.path, plane.frame


def precedence(plane: SliceHeader) -> tuple[bool, str, int]:
    """Sorts copies of a plane: the first is taken."""
    return plane.problem_code is not None, plane.path, plane.frame or 0


def series_of(plane: SliceHeader) -> str:
    """Series Instance UID; without one, folder, series number and modality."""
    return plane.series_uid or f"{os.path.dirname(plane.path)} {plane.series_number} {plane.modality}"


def _by_series(planes: Planes) -> dict[str, list[SliceHeader]]:
    groups: defaultdict[str, list[SliceHeader]] = defaultdict(list)
    for plane in planes:
        groups[series_of(plane)].append(plane)
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


def _task_or_skip(stack: Stack, identity: SeriesIdentity, settings: Settings) -> SeriesTask | SkippedSeries:
    judgement = (
        refuse_kind(stack.planes, settings.geometry)
        or _unsettled(stack.planes, settings.intake.settle_seconds)
        or _time_series(stack, settings)
        or stack.judgement
        or judge(stack.planes, settings)
    )
    findings = (*stack.split, *judgement.findings)
    if judgement.grid is not None:
        return _task(judgement.grid, identity, findings, repaired=judgement.repaired)
    return SkippedSeries(
        identity=identity,
        code=judgement.code or Code.MISSING_GEOMETRY,
        message=judgement.message,
        hint=judgement.hint,
        findings=findings,
    )


def _unsettled(planes: Planes, settle_seconds: float) -> Judgement | None:
    """Files that may still be written; a clock that is behind or ahead by more does not hold a series up for ever."""
    age = time.time() - max(plane.modified_at for plane in planes)
    if abs(age) >= settle_seconds:
        return None
    return Judgement(
        code=Code.NOT_SETTLED,
        message=f"the newest of {len(planes)} files is {age:.0f} s old, {settle_seconds:.0f} s are waited for",
        hint="nothing to do: the next run takes it",
    )


def _time_series(stack: Stack, settings: Settings) -> Judgement | None:
    if not stack.is_one_of_a_time_series or settings.geometry.time_series == "split":
        return None
    return Judgement(
        code=Code.TIME_SERIES,
        message=stack.split[-1].message,
        hint="set geometry.time_series=split to take each volume by itself",
    )


def _task(grid: Grid, identity: SeriesIdentity, findings: tuple[Finding, ...], *, repaired: bool) -> SeriesTask:
    first = grid.planes[0]
    assert first.orientation is not None
    assert first.pixel_spacing_mm is not None
    assumed = tuple(_assumed(grid.planes))
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
        blends=grid.blends,
        verdict=GeometryVerdict.REPAIRED if repaired or assumed else GeometryVerdict.OK,
        findings=(*findings, *assumed, *_remarks(grid.planes)),
        arrived_at=max(plane.modified_at for plane in grid.planes),
    )


def _assumed(planes: Planes) -> Iterator[Finding]:
    """What had to be assumed to make a volume of the planes."""
    overlong = sorted({name for plane in planes for name in plane.overlong})
    if overlong:
        message = f"{', '.join(overlong)}: decimal strings of more than 16 characters, read as numbers all the same"
        yield Finding(code=Code.DAMAGED_DECIMALS, message=message)
    if not planes[0].series_uid:
        message = "no Series Instance UID: grouped by folder, Series Number and Modality"
        yield Finding(code=Code.MISSING_UID, message=message)


def _remarks(planes: Planes) -> Iterator[Finding]:
    """What is unusual and yet right."""
    first = planes[0]
    assert first.pixel_spacing_mm is not None
    between_rows, between_columns = first.pixel_spacing_mm
    if abs(between_rows - between_columns) > SQUARE_TOLERANCE * between_rows:
        message = f"{between_rows:g} mm between rows, {between_columns:g} mm between columns"
        yield Finding(code=Code.NON_SQUARE_PIXELS, message=message)
    if first.frame is not None:
        n_files = len({plane.path for plane in planes})
        yield Finding(code=Code.MULTI_FRAME, message=f"{len(planes)} frames of {n_files} Enhanced instances")
    n_flat = sum(plane.slope == 0 for plane in planes)
    if n_flat:
        message = f"Rescale Slope (0028,1053) is 0 in {n_flat} of {len(planes)} planes, read as 1"
        yield Finding(code=Code.DAMAGED_DECIMALS, message=message)
    n_lossy = sum(plane.is_lossy for plane in planes)
    if n_lossy:
        message = f"{n_lossy} of {len(planes)} planes say Lossy Image Compression (0028,2110)"
        yield Finding(code=Code.PRECISION_LOSS, message=message)
    if first.image_type[:1] == ("DERIVED",):
        yield Finding(code=Code.DERIVED, message=f"Image Type {'/'.join(first.image_type)}")


def _slice_ref(plane: SliceHeader) -> SliceRef:
    assert plane.position_mm is not None
    return SliceRef(
        path=plane.path,
        frame=plane.frame,
        position_mm=(plane.position_mm[0], plane.position_mm[1], plane.position_mm[2]),
        slope=plane.slope or 1.0,
        intercept=plane.intercept or 0.0,
        has_modality_lut=plane.has_modality_lut,
        sop_instance_uid=plane.sop_instance_uid,
    )
