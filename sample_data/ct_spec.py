"""What a generated series shall look like, and the geometry and scaling that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

Modality = Literal["CT", "MR", "PT"]
USUAL_RESCALE: Mapping[Modality, tuple[float, float]] = {"CT": (1.0, -1024.0), "MR": (1.0, 0.0), "PT": (2.5, 0.0)}
"""Slope and intercept written where a spec names none; MR then goes without both, as scanners write it."""

ORTHONORMAL_TOLERANCE = 1e-4
"""How far direction cosines may be from unit length and a right angle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A block of one value, to be found again in what was made of a series."""

    centre_mm: tuple[float, float, float]
    """x, y, z in the patient's LPS millimetres. The voxel nearest to it is always part of the block."""
    size_mm: float = 6.0
    """Edge length, along the patient's axes."""
    value: float = 3000.0
    """In modality units (HU for CT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CtSpec:
    """One series to generate; every field has a default that gives a plain axial CT."""

    shape: tuple[int, int, int] = (64, 64, 40)
    """Rows, columns, slices; slices include those in `missing`."""
    spacing_mm: tuple[float, float, float] = (5.0, 5.0, 5.0)
    """Between rows, between columns, and from one slice position to the next."""
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    """Direction of a row, then of a column (LPS), before `tilt_deg` turns the column."""
    origin_mm: tuple[float, float, float] = (-157.5, -157.5, -100.0)
    """Image Position (Patient) of slice 0 (LPS)."""
    tilt_deg: float = 0.0
    """Gantry tilt: turns the slices about their row direction; the table still moves along the untilted normal."""
    modality: Modality = "CT"
    transfer_syntax: str = ExplicitVRLittleEndian
    bits_stored: Literal[12, 16] = 16
    signed: bool = False
    slope: float | tuple[float, ...] | None = None
    """Rescale Slope, one for all slices or one for each; None for the usual one of the modality."""
    intercept: float | tuple[float, ...] | None = None
    """Rescale Intercept, likewise."""
    noise_sd: float = 12.0
    """Standard deviation of the noise, in modality units."""
    marker: Marker | None = None
    missing: tuple[int, ...] = ()
    """Slice indices left out."""
    duplicates: tuple[int, ...] = ()
    """Slice indices written once more under new SOP instance UIDs."""
    seed: int = 0
    """Sets noise, and identifiers unless they are given."""
    patient_id: str = "PHANTOM-0001"
    patient_name: str = "Phantom^Ellipse"
    study_uid: str = ""
    """Empty: follows from seed and patient_id."""
    series_uid: str = ""
    """Empty: follows from study and series_number."""
    series_number: int = 1
    description: str = "Phantom"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    file_names: Literal["sequential", "random", "no-extension"] = "sequential"
    extra: Mapping[str, object] = field(default_factory=dict)
    """Attributes by keyword, set last and in every file; None deletes one."""
    edit: Callable[[Dataset, int], None] | None = None
    """Called with each finished dataset and its slice index, to break what a test wants broken."""

    def __post_init__(self) -> None:
        row, column = np.reshape(self.orientation, (2, 3))
        wrong = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
        if wrong > ORTHONORMAL_TOLERANCE:
            raise ValueError(f"orientation {self.orientation} is off orthonormal by {wrong:.2g}")
        for name, per_slice in (("slope", self.slope), ("intercept", self.intercept)):
            if isinstance(per_slice, tuple) and len(per_slice) != self.shape[2]:
                raise ValueError(f"{len(per_slice)} values of {name} for {self.shape[2]} slices")
        strays = [k for k in (*self.missing, *self.duplicates) if not 0 <= k < self.shape[2]]
        if strays:
            raise ValueError(f"slice indices {strays} are outside 0..{self.shape[2] - 1}")

    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4) from voxel (column, row, slice) to the patient's LPS millimetres (PS3.3 C.7.6.2.1.1)."""
        row, column = np.reshape(np.asarray(self.orientation, float), (2, 3))
        normal = np.cross(row, column)
        tilt = np.deg2rad(self.tilt_deg)
        between_rows, between_columns, between_slices = self.spacing_mm
        affine = np.eye(4)
        affine[:3, 0] = row * between_columns
        affine[:3, 1] = (np.cos(tilt) * column + np.sin(tilt) * normal) * between_rows
        affine[:3, 2] = normal * between_slices
        affine[:3, 3] = self.origin_mm
        return affine

    def rescale(self, k: int) -> tuple[float, float]:
        """Slope and intercept of slice `k`, as exactly as a Decimal String of 16 characters holds them."""
        usual = USUAL_RESCALE[self.modality]
        slope, intercept = _of_slice(self.slope, k, usual[0]), _of_slice(self.intercept, k, usual[1])
        return float(format_number_as_ds(slope)), float(format_number_as_ds(intercept))

    @property
    def writes_rescale(self) -> bool:
        """Whether Rescale Slope and Intercept stand in the files."""
        return self.modality != "MR" or self.slope is not None or self.intercept is not None

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the slices that are written."""
        return tuple(k for k in range(self.shape[2]) if k not in self.missing)

    @property
    def study_instance_uid(self) -> UID:
        """The one given, or one that follows from seed and patient_id."""
        return UID(self.study_uid) if self.study_uid else _uid("study", self.seed, self.patient_id)

    @property
    def series_instance_uid(self) -> UID:
        """The one given, or one that follows from study and series_number."""
        return UID(self.series_uid) if self.series_uid else _uid(self.study_instance_uid, self.series_number)

    def sop_instance_uid(self, k: int, copy: int = 0) -> UID:
        """Of slice `k`; `copy` 1 is its duplicate."""
        return _uid(self.series_instance_uid, k, copy)


def _of_slice(given: float | tuple[float, ...] | None, k: int, otherwise: float) -> float:
    if given is None:
        return otherwise
    return float(given[k] if isinstance(given, tuple) else given)


def _uid(*words: str | int) -> UID:
    return generate_uid(entropy_srcs=["/".join(str(word) for word in words)])
