"""Whether the planes of one stack form one regular grid: sorted along the normal, one step from plane to plane.

Image Position (Patient) (0020,0032), Image Orientation (Patient) (0020,0037) and Pixel Spacing (0028,0030) alone
decide (DICOM PS3.3 section C.7.6.2.1.1); Instance Number, Slice Location and Spacing Between Slices do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.errors import Code
from imaging_pipeline.records import SliceHeader, Vector
from imaging_pipeline.settings import Settings

SAME_POSITION_MM = 1e-3
"""Planes nearer to each other than this lie at one position."""
TILT_DEGREES = 0.1
"""A step that leaves the normal by more than this is reported as a tilt."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Planes in order along the normal, and the vector from one to the next (LPS, mm)."""

    planes: tuple[SliceHeader, ...]
    step_mm: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A grid, or the reason code with message and hint; notes say what is unusual about a grid."""

    code: Code | None = None
    message: str = ""
    hint: str = ""
    grid: Grid | None = None
    notes: tuple[str, ...] = ()


def judge(planes: Sequence[SliceHeader], settings: Settings) -> Verdict:
    """Judge one stack: planes of one matrix, orientation and pixel spacing, in any order."""
    return _attributes(planes) or _size(planes, settings) or _regularity(planes, settings)


def _attributes(planes: Sequence[SliceHeader]) -> Verdict | None:
    damaged = [plane for plane in planes if plane.problem_code is not None]
    if damaged and damaged[0].problem_code is not None:
        return Verdict(
            code=damaged[0].problem_code,
            message=f"{len(damaged)} of {len(planes)} planes: {damaged[0].problem}",
            hint="send the series again from its source",
        )
    for name, absent in (
        ("Image Position (Patient) (0020,0032)", [plane.position_mm is None for plane in planes]),
        ("Image Orientation (Patient) (0020,0037)", [not _is_rotation(plane.orientation) for plane in planes]),
        ("Pixel Spacing (0028,0030)", [not _are_positive(plane.pixel_spacing_mm) for plane in planes]),
    ):
        if any(absent):
            return Verdict(
                code=Code.MISSING_GEOMETRY,
                message=f"{name} is absent or damaged in {sum(absent)} of {len(planes)} planes",
                hint="such planes have no place in the patient: send the original series",
            )
    return None


def _size(planes: Sequence[SliceHeader], settings: Settings) -> Verdict | None:
    first = planes[0]
    n_voxels = first.rows * first.columns * len(planes)
    if len(planes) < settings.intake.min_slices:
        return Verdict(
            code=Code.TOO_FEW_SLICES,
            message=f"{len(planes)} planes of one orientation, {settings.intake.min_slices} are needed",
            hint="lower intake.min_slices if such a stack is a volume to you",
        )
    if n_voxels > settings.intake.max_voxels:
        return Verdict(
            code=Code.TOO_LARGE,
            message=f"{first.columns} x {first.rows} x {len(planes)} = {n_voxels} voxels, "
            f"limit {settings.intake.max_voxels}",
            hint="raise intake.max_voxels if the machine has the memory",
        )
    return None


def _regularity(planes: Sequence[SliceHeader], settings: Settings) -> Verdict:
    normal = _normal(planes[0])
    positions = np.array([plane.position_mm for plane in planes], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    along, positions = along[order], positions[order]
    gaps = np.diff(along)
    if (gaps < SAME_POSITION_MM).any():
        return _duplicates(along, gaps)
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    grid = positions[0] + np.arange(len(planes))[:, None] * step
    off_mm = np.linalg.norm(positions - grid, axis=1)
    if off_mm.max() <= settings.geometry.spacing_tolerance * np.linalg.norm(step):
        ordered = tuple(planes[index] for index in order)
        return Verdict(
            grid=Grid(ordered, (float(step[0]), float(step[1]), float(step[2]))), notes=_tilt_note(step, normal)
        )
    return _irregular(along, gaps, settings.geometry.spacing_tolerance, float(off_mm.max()))


def _duplicates(along: NDArray[np.float64], gaps: NDArray[np.float64]) -> Verdict:
    n_shared = int((gaps < SAME_POSITION_MM).sum())
    return Verdict(
        code=Code.DUPLICATE_POSITIONS,
        message=f"{n_shared} of {len(along)} planes share the position of another, "
        f"the first at {along[np.argmin(gaps)]:.2f} mm along the normal",
        hint="no attribute tells the copies apart: send the stacks as series of their own",
    )


def _irregular(along: NDArray[np.float64], gaps: NDArray[np.float64], tolerance: float, off_mm: float) -> Verdict:
    """Gaps that are whole multiples of the smallest are missing slices; anything else is variable spacing."""
    multiples = np.round(gaps / gaps.min())
    unit = float(gaps.sum() / multiples.sum())
    if (multiples > 1).any() and np.abs(gaps - multiples * unit).max() <= 2 * tolerance * unit:
        first = int(np.argmax(multiples > 1))
        return Verdict(
            code=Code.MISSING_SLICES,
            message=f"{int(multiples.sum()) - len(gaps)} slices missing; the first gap of {gaps[first]:.3g} mm "
            f"is between slices {first + 1} and {first + 2} "
            f"({along[first]:.2f} and {along[first + 1]:.2f} mm along the normal), "
            f"expected {unit:.3g} mm",
            hint="send the series again in full",
        )
    return Verdict(
        code=Code.VARIABLE_SPACING,
        message=f"distances between slices run from {gaps.min():.3g} to {gaps.max():.3g} mm; "
        f"a slice lies {off_mm:.3g} mm off any regular grid",
        hint="send a reconstruction of even spacing, or raise geometry.spacing_tolerance",
    )


def _tilt_note(step: NDArray[np.float64], normal: NDArray[np.float64]) -> tuple[str, ...]:
    cosine = float(step @ normal / np.linalg.norm(step))
    angle = float(np.degrees(np.arccos(min(1.0, cosine))))
    return (f"gantry-tilt: {angle:.1f} degrees, carried by the affine",) if angle > TILT_DEGREES else ()


def _normal(plane: SliceHeader) -> NDArray[np.float64]:
    cosines = np.array(plane.orientation, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    return normal / float(np.linalg.norm(normal))


def _is_rotation(orientation: tuple[float, ...] | None) -> bool:
    """Two unit vectors at right angles, within 1e-2: writers round cosines to few digits."""
    if orientation is None:
        return False
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.array([row @ row, column @ column])
    return bool(np.abs(lengths - 1).max() < 2e-2 and abs(float(row @ column)) < 1e-2)


def _are_positive(spacing: tuple[float, ...] | None) -> bool:
    return spacing is not None and min(spacing) > 0
