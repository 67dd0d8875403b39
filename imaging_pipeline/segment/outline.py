"""The grid and the windows that a model's config names, read without torch: enough to tell how long a volume takes."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from imaging_pipeline.segment.bundle import Bundle, Kind
from imaging_pipeline.segment.nnunet.plans import read_plans

_NNUNET_OVERLAP = 0.5
_SPACING = ("Spacingd", "SpacingD", "SpacingDict", "Spacing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What the network of a model goes over.

    Attributes:
        spacing_mm: Voxel size of the model grid along its axes; None: native voxels.
        window: Voxels of a window; None: whole volumes.
        overlap: Share of a window that the next one covers too.
    """

    spacing_mm: tuple[float, float, float] | None = None
    window: tuple[int, int, int] | None = None
    overlap: float = 0.25

    def n_inputs(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> int:
        """Voxels that go through the network for a volume, overlaps and padding included.

        Orientation is not looked into: columns, rows and slices stand for the first, second and third axis of the model
        grid, which matters only where its voxels or windows are no cubes.

        Args:
            shape: Voxels of the native grid: columns, rows, slices.
            spacing_mm: Their size.
        """
        edges = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
        lengths = list(shape) if self.spacing_mm is None else _lengths(edges, self.spacing_mm)
        if self.window is None:
            return math.prod(lengths)
        pairs = zip(lengths, self.window, strict=True)
        return math.prod(self.window) * math.prod(_n_windows(n, size, self.overlap) for n, size in pairs)


def outline_of(bundle: Bundle | None) -> Outline:
    """What a model's config names in plain numbers; what it computes by expressions is left at the defaults."""
    if bundle is None:
        return Outline()
    if bundle.kind is Kind.NNUNET:
        plans = read_plans(bundle.path)
        order = [plans.transpose_backward[axis] for axis in (2, 1, 0)]
        spacing_mm, window = ([values[axis] for axis in order] for values in (plans.spacing_mm, plans.patch_size))
        return Outline(spacing_mm=_triple(spacing_mm), window=_whole(window), overlap=_NNUNET_OVERLAP)
    text = (bundle.path / bundle.inference).read_text(encoding="utf-8")
    config = json.loads(text) if bundle.inference.suffix == ".json" else yaml.safe_load(text)
    inferer = _section(config, "inferer")
    return Outline(
        spacing_mm=_triple(_spacing(config)),
        window=_whole(_value(config, inferer.get("roi_size"))),
        overlap=_share(_value(config, inferer.get("overlap"))),
    )


def _n_windows(length: int, size: int, overlap: float) -> int:
    step = max(int(size * (1 - overlap)), 1)  # as MONAI's sliding window counts them
    return max(math.ceil((length - size) / step), 0) + 1


def _lengths(edges: Sequence[float], spacing_mm: Sequence[float]) -> list[int]:
    return [max(round(edge / mm), 1) for edge, mm in zip(edges, spacing_mm, strict=True)]


def _spacing(config: Any) -> Any:
    """The voxel size of the last resampling before the network."""
    transforms = _section(config, "preprocessing").get("transforms")
    steps = [step for step in transforms or () if isinstance(step, dict)] if isinstance(transforms, list) else []
    found = [step.get("pixdim") for step in steps if str(step.get("_target_", "")).rpartition(".")[2] in _SPACING]
    return _value(config, found[-1]) if found else None


def _section(config: Any, name: str) -> dict[str, Any]:
    section = config.get(name) if isinstance(config, dict) else None
    return section if isinstance(section, dict) else {}


def _value(config: Any, value: Any) -> Any:
    """A value, or what `@key` refers to at the top of the config; expressions stay what they are."""
    if isinstance(value, str) and value.startswith("@") and isinstance(config, dict):
        return config.get(value[1:])
    return value


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, list | tuple) else [value] * 3
    plain = [float(item) for item in values if isinstance(item, int | float) and not isinstance(item, bool)]
    return plain if len(plain) == 3 and all(item > 0 for item in plain) else []


def _triple(value: Any) -> tuple[float, float, float] | None:
    numbers = _numbers(value)
    return (numbers[0], numbers[1], numbers[2]) if numbers else None


def _whole(value: Any) -> tuple[int, int, int] | None:
    numbers = _numbers(value)
    return (round(numbers[0]), round(numbers[1]), round(numbers[2])) if numbers else None


def _share(value: Any) -> float:
    values = value if isinstance(value, list | tuple) else [value]
    shares = [float(item) for item in values if isinstance(item, int | float) and 0 <= item < 1]
    return max(shares) if shares else Outline().overlap
