"""A body cut into slices: ellipsoids of tissue in air on a table, with noise, at any orientation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sample_data.ct_spec import CtSpec, Marker

ENDLESS = np.inf
NOISE_SHIFTS = 1 << 16
"""Slices take their noise from one strip, each at another of this many offsets: far cheaper than drawing it anew."""

Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """One organ. Centre and radii (x, y, z; LPS) are shares of half the extent of the volume, from its centre."""

    name: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float


AIR_HU = -1000.0
BODY = (
    Ellipsoid("skin and fat", (0.0, 0.0, 0.0), (0.86, 0.62, ENDLESS), -90.0),
    Ellipsoid("muscle", (0.0, 0.02, 0.0), (0.78, 0.54, ENDLESS), 50.0),
    Ellipsoid("right lung", (-0.40, 0.0, 0.45), (0.27, 0.42, 0.60), -850.0),
    Ellipsoid("left lung", (0.42, 0.0, 0.50), (0.23, 0.40, 0.52), -850.0),
    Ellipsoid("heart", (0.10, -0.12, 0.40), (0.24, 0.24, 0.28), 40.0),
    Ellipsoid("liver", (-0.36, -0.04, -0.35), (0.36, 0.38, 0.36), 105.0),
    Ellipsoid("spleen", (0.50, 0.16, -0.30), (0.14, 0.18, 0.22), 115.0),
    Ellipsoid("aorta", (0.06, 0.20, 0.0), (0.06, 0.07, ENDLESS), 180.0),
    Ellipsoid("vertebrae", (0.0, 0.36, 0.0), (0.14, 0.13, ENDLESS), 300.0),
    Ellipsoid("spinal canal", (0.0, 0.42, 0.0), (0.05, 0.04, ENDLESS), 20.0),
)
"""Later ones lie over earlier ones. No two sides are alike, so a flip shows."""

TABLE = Ellipsoid("table", (0.0, 1.05, 0.0), (0.95, 0.28, ENDLESS), -150.0)


def slices(spec: CtSpec) -> Iterator[NDArray[np.integer]]:
    """The stored values of every slice in order, missing ones included.

    Yields:
        (rows, columns) of int16 or uint16 within the bits stored; modality units follow through `spec.rescale`.
    """
    strip, offsets = _noise(spec)
    pixels = spec.shape[0] * spec.shape[1]
    for k, offset in enumerate(offsets):
        position_mm = _coordinates(spec, k)
        values = _tissue(spec, position_mm)
        values += strip[offset : offset + pixels].reshape(values.shape)
        if spec.modality != "CT":
            np.maximum(values - AIR_HU, 0, out=values)
        if spec.marker:
            values[_marked(spec, spec.marker, k, position_mm)] = spec.marker.value
        yield _stored(spec, k, values)


def _noise(spec: CtSpec) -> tuple[Plane, NDArray[np.int64]]:
    rng = np.random.default_rng(spec.seed)
    rows, columns, n = spec.shape
    strip = rng.standard_normal(rows * columns + NOISE_SHIFTS, dtype=np.float32) * np.float32(spec.noise_sd)
    return strip, rng.integers(0, NOISE_SHIFTS, n)


def _coordinates(spec: CtSpec, k: int) -> tuple[Plane, Plane, Plane]:
    """Patient x, y, z (LPS, mm) of each pixel of slice `k`, each (rows, columns)."""
    rows, columns, _ = spec.shape
    row, column = np.arange(rows)[:, None], np.arange(columns)[None, :]
    x, y, z = (
        (row * along_row + (column * along_column + k * along_slice + start)).astype(np.float32)
        for along_column, along_row, along_slice, start in spec.affine_lps()[:3]
    )
    return x, y, z


def _tissue(spec: CtSpec, position_mm: tuple[Plane, Plane, Plane]) -> Plane:
    affine = spec.affine_lps()
    size = np.array([spec.shape[1], spec.shape[0], spec.shape[2]])
    centre_mm = affine[:3, :3] @ ((size - 1) / 2) + affine[:3, 3]
    half_mm = np.abs(affine[:3, :3]) @ (size / 2)
    share = [(p - np.float32(c)) / np.float32(h) for p, c, h in zip(position_mm, centre_mm, half_mm, strict=True)]
    values = np.full(share[0].shape, AIR_HU, np.float32)
    for organ in (TABLE, *BODY):
        values[_inside(organ, share)] = organ.hu
    return values


def _inside(organ: Ellipsoid, share: list[Plane]) -> NDArray[np.bool_]:
    distance = np.zeros_like(share[0])
    for axis, centre, radius in zip(share, organ.centre, organ.radii, strict=True):
        if radius != ENDLESS:
            distance += ((axis - np.float32(centre)) / np.float32(radius)) ** 2
    inside: NDArray[np.bool_] = distance < 1
    return inside


def _marked(spec: CtSpec, marker: Marker, k: int, position_mm: tuple[Plane, Plane, Plane]) -> NDArray[np.bool_]:
    rows, columns, _ = spec.shape
    inside = np.ones((rows, columns), bool)
    for axis, centre in zip(position_mm, marker.centre_mm, strict=True):
        inside &= np.abs(axis - np.float32(centre)) <= marker.size_mm / 2
    voxel = np.linalg.inv(spec.affine_lps()) @ np.append(marker.centre_mm, 1.0)
    column, row, nearest_k = (round(index) for index in voxel.tolist()[:3])
    if nearest_k == k and 0 <= column < columns and 0 <= row < rows:
        inside[row, column] = True
    return inside


def _stored(spec: CtSpec, k: int, values: Plane) -> NDArray[np.integer]:
    slope, intercept = spec.rescale(k)
    lowest = -(1 << (spec.bits_stored - 1)) if spec.signed else 0
    highest = lowest + (1 << spec.bits_stored) - 1
    stored = np.clip(np.rint((values - np.float32(intercept)) / np.float32(slope)), lowest, highest)
    whole: NDArray[np.integer] = stored.astype(np.int16 if spec.signed else np.uint16)
    return whole
