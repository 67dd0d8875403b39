"""Whether the planes of one stack form one regular grid: sorted along the normal, one step from plane to plane.

Image Position (Patient) (0020,0032), Image Orientation (Patient) (0020,0037) and Pixel Spacing (0028,0030) alone
decide (DICOM PS3.3 section C.7.6.2.1.1); Instance Number, Slice Location and Spacing Between Slices do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.errors import Code
from imaging_pipeline.records import Blend, Finding, SliceHeader, Vector
from imaging_pipeline.settings import GeometrySettings, Settings

SAME_POSITION_MM = 1e-3
"""Planes nearer to each other than this lie at one position."""
FARTHEST_MM, FINEST_MM = 1e5, 1e-4
"""No patient is 100 m long, no scanner resolves a tenth of a micrometre."""
TILT_DEGREES = 0.1
"""A step that leaves the normal by more than this is reported as a tilt."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Planes in order along the normal, the vector from one slice to the next (LPS, mm), and how gaps are filled."""

    planes: tuple[SliceHeader, ...]
    step_mm: Vector
    blends: tuple[Blend, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A grid, or the reason code with message and hint.

    Attributes:
        grid: The regular grid; None where there is none.
        findings: What is unusual about it.
        repaired: Something was filled in, left out or assumed.
    """

    code: Code | None = None
    message: str = ""
    hint: str = ""
    grid: Grid | None = None
    findings: tuple[Finding, ...] = ()
    repaired: bool = False


def judge(planes: Sequence[SliceHeader], settings: Settings) -> Judgement:
    """Judge one stack: planes of one matrix, orientation and pixel spacing, in any order."""
    return _attributes(planes) or _size(planes, settings) or _regularity(planes, settings.geometry)


def _attributes(planes: Sequence[SliceHeader]) -> Judgement | None:
    damaged = [plane for plane in planes if plane.problem_code is not None]
    if damaged:
        return Judgement(
            code=damaged[0].problem_code,
            message=f"{len(damaged)} of {len(planes)} planes: {damaged[0].problem}",
            hint="send the series again from its source",
        )
    for name, keyword, unusable in (
        ("Image Position (Patient) (0020,0032)", "position_mm", [not _is_near(plane.position_mm) for plane in planes]),
        ("Image Orientation (Patient) (0020,0037)", "orientation", [not _is_rotation(p.orientation) for p in planes]),
        ("Pixel Spacing (0028,0030)", "pixel_spacing_mm", [not _are_positive(p.pixel_spacing_mm) for p in planes]),
    ):
        if any(unusable):
            no_numbers = any(keyword in plane.damaged for plane in planes)
            return Judgement(
                code=Code.DAMAGED_DECIMALS if no_numbers else Code.MISSING_GEOMETRY,
                message=f"{name} is {'no number' if no_numbers else 'absent or unusable'} in {sum(unusable)} of "
                f"{len(planes)} planes",
                hint="such planes have no place in the patient: send the original series",
            )
    return None


def _size(planes: Sequence[SliceHeader], settings: Settings) -> Judgement | None:
    first = planes[0]
    n_voxels = first.rows * first.columns * len(planes)
    if len(planes) < settings.intake.min_slices:
        return Judgement(
            code=Code.TOO_FEW_SLICES,
            message=f"{len(planes)} planes of one orientation, {settings.intake.min_slices} are needed",
            hint="lower intake.min_slices if such a stack is a volume to you",
        )
    if n_voxels > settings.intake.max_voxels:
        return Judgement(
            code=Code.TOO_LARGE,
            message=f"{first.columns} x {first.rows} x {len(planes)} = {n_voxels} voxels, "
            f"limit {settings.intake.max_voxels}",
            hint="raise intake.max_voxels if the machine has the memory",
        )
    return None


def _regularity(planes: Sequence[SliceHeader], settings: GeometrySettings) -> Judgement:
    normal = _normal(planes[0])
    by_number = sorted(planes, key=lambda plane: (plane.instance_number or 0, plane.path, plane.frame or 0))
    along = np.array([plane.position_mm for plane in by_number]) @ normal
    order = np.argsort(along, kind="stable")
    ordered, along = [by_number[index] for index in order], along[order]
    findings: tuple[Finding, ...] = ()
    copies = np.diff(along) < SAME_POSITION_MM
    if copies.any():
        message = (
            f"{int(copies.sum())} of {len(along)} planes share the position of another, "
            f"the first at {along[int(np.argmax(copies))]:.2f} mm along the normal"
        )
        if settings.duplicate_positions == "reject" or len(along) - copies.sum() < 2:
            return Judgement(code=Code.DUPLICATE_POSITIONS, message=message, hint=_DUPLICATES_HINT)
        kept = np.concatenate([[True], ~copies])
        ordered, along = [plane for plane, keep in zip(ordered, kept, strict=True) if keep], along[kept]
        findings = (Finding(code=Code.DUPLICATE_POSITIONS, message=f"{message}; left out"),)
    return _fit(tuple(ordered), along, normal, settings, findings)


_DUPLICATES_HINT = (
    "no attribute tells the copies apart: send the stacks as series of their own, "
    "or set geometry.duplicate_positions=first"
)


def _fit(
    planes: tuple[SliceHeader, ...],
    along: Array,
    normal: Array,
    settings: GeometrySettings,
    findings: tuple[Finding, ...],
) -> Judgement:
    """One step for all planes, or the reason why none fits."""
    positions = np.array([plane.position_mm for plane in planes])
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    off = positions - (positions[0] + np.arange(len(planes))[:, None] * step)
    off_voxels = np.abs(np.linalg.solve(_voxel_axes(planes[0], step), off.T))
    if off_voxels.max() <= settings.spacing_tolerance:
        tilt = _tilt(step, normal)
        return Judgement(
            grid=Grid(planes=planes, step_mm=_vector(step)), findings=(*findings, *tilt), repaired=bool(findings)
        )
    return _irregular(planes, along, normal, settings, findings)


def _irregular(
    planes: tuple[SliceHeader, ...],
    along: Array,
    normal: Array,
    settings: GeometrySettings,
    findings: tuple[Finding, ...],
) -> Judgement:
    """Gaps that are whole multiples of the smallest are missing slices; anything else is variable spacing."""
    gaps = np.diff(along)
    multiples = np.round(gaps / gaps.min())
    unit = float(gaps.sum() / multiples.sum())
    if (multiples > 1).any() and np.abs(gaps - multiples * unit).max() <= 2 * settings.spacing_tolerance * unit:
        first = int(np.argmax(multiples > 1))
        code, policy = Code.MISSING_SLICES, settings.missing_slices
        message = (
            f"{int(multiples.sum()) - len(gaps)} slices missing; the first gap of {gaps[first]:.3g} mm is between "
            f"slices {first + 1} and {first + 2} ({along[first]:.2f} and {along[first + 1]:.2f} mm along the normal), "
            f"expected {unit:.3g} mm"
        )
    else:
        code, policy, unit = Code.VARIABLE_SPACING, settings.variable_spacing, float(np.median(gaps))
        message = f"distances between slices run from {gaps.min():.3g} to {gaps.max():.3g} mm"
    grid = _fill(planes, along, unit, settings) if policy == "interpolate" else None
    if grid is None:
        hint = _GAPS_HINT[code] if policy == "reject" else _TOO_MANY_GAPS_HINT
        return Judgement(code=code, message=message, hint=hint, findings=findings)
    filled = f"{message}; {sum(blend.weight > 0 for blend in grid.blends)} of {len(grid.blends)} slices interpolated"
    step = np.array(grid.step_mm)
    findings = (*findings, Finding(code=code, message=filled), *_tilt(step, normal))
    return Judgement(grid=grid, findings=findings, repaired=True)


_GAPS_HINT = {
    Code.MISSING_SLICES: "send the series again in full, or set geometry.missing_slices=interpolate",
    Code.VARIABLE_SPACING: "send a reconstruction of even spacing, or set geometry.variable_spacing=interpolate",
}


_MOST_FILLED = 10_000
_TOO_MANY_GAPS_HINT = (
    "more slices would be invented than geometry.max_filled_share allows: send the series again in full"
)


def _fill(planes: tuple[SliceHeader, ...], along: Array, unit: float, settings: GeometrySettings) -> Grid | None:
    """A regular grid of about `unit` mm between the first and the last plane; None where too much were invented.

    Slices that stand on the grid are kept as they are, the others blended linearly from their two neighbours; that is
    right for a tilted stack too, whose slices step aside evenly.
    """
    positions = np.array([plane.position_mm for plane in planes])
    n_slices = round(float(along[-1] - along[0]) / unit) + 1
    if n_slices - len(planes) > min(settings.max_filled_share * n_slices, _MOST_FILLED):
        return None
    targets = np.linspace(along[0], along[-1], n_slices)
    lower = np.clip(np.searchsorted(along, targets, side="right") - 1, 0, len(along) - 2)
    weights = (targets - along[lower]) / (along[lower + 1] - along[lower])
    lower = np.where(weights > 1 - settings.spacing_tolerance, lower + 1, lower)
    weights = np.where((weights < settings.spacing_tolerance) | (weights > 1 - settings.spacing_tolerance), 0, weights)
    if (weights > 0).sum() > settings.max_filled_share * n_slices:
        return None
    step = (positions[-1] - positions[0]) / (n_slices - 1)
    blends = tuple(Blend(lower=int(index), weight=float(weight)) for index, weight in zip(lower, weights, strict=True))
    return Grid(planes=planes, step_mm=_vector(step), blends=blends)


def _tilt(step: Array, normal: Array) -> tuple[Finding, ...]:
    cosine = float(step @ normal / np.linalg.norm(step))
    angle = float(np.degrees(np.arccos(min(1.0, cosine))))
    if angle <= TILT_DEGREES:
        return ()
    return (Finding(code=Code.GANTRY_TILT, message=f"{angle:.1f} degrees, carried by the affine"),)


def _voxel_axes(plane: SliceHeader, step: Array) -> Array:
    """(3, 3) matrix whose columns are the edges of a voxel, LPS in mm."""
    assert plane.orientation is not None
    assert plane.pixel_spacing_mm is not None
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    return np.column_stack((row * plane.pixel_spacing_mm[1], column * plane.pixel_spacing_mm[0], step))


def _vector(values: Array) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _normal(plane: SliceHeader) -> Array:
    assert plane.orientation is not None
    return _normal_of(plane.orientation)


@lru_cache(maxsize=64)
def _normal_of(orientation: tuple[float, ...]) -> Array:
    """Planes of a series share it; on single vectors numpy's own cross product takes longer than all the rest."""
    ax, ay, az, bx, by, bz = orientation
    normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
    return normal / float(np.linalg.norm(normal))


@lru_cache(maxsize=64)
def _is_rotation(orientation: tuple[float, ...] | None) -> bool:
    """Two unit vectors at right angles, within 1e-2: writers round cosines to few digits."""
    if orientation is None:
        return False
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.array([row @ row, column @ column])
    return bool(np.abs(lengths - 1).max() < 2e-2 and abs(float(row @ column)) < 1e-2)


def _is_near(position: tuple[float, ...] | None) -> bool:
    return position is not None and max(map(abs, position)) <= FARTHEST_MM


def _are_positive(spacing: tuple[float, ...] | None) -> bool:
    return spacing is not None and min(spacing) >= FINEST_MM and max(spacing) <= FARTHEST_MM
